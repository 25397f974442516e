// Memory of devices and page-locked memory of the host, and copies between them. Rule: a range of device memory that is not wholly inside
// one allocation is refused, and a host address is never taken for a device's.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>

#include "block_runner.h"
#include "host_state.h"

namespace heddle::emulator {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kPoisonedBytes = size_t{8} << 20;     // at the beginning of an allocation: a cache may be nearly all of a device
constexpr size_t kGiB = size_t{1} << 30;

struct Memory {
  std::mutex mutex;
  std::map<uintptr_t, Allocation> allocations;
  int64_t device_bytes[kMaxDevices] = {};
};
Memory& memory() {
  static auto* all = new Memory();  // used until the process ends
  return *all;
}

size_t rounded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
int64_t total_bytes() { return setting("HEDDLE_EMULATOR_MEMORY", kGiB); }

cudaError_t allocate(void** pointer, size_t bytes, cudaMemoryType type, bool mapped) {
  *pointer = nullptr;
  if (current_device() >= device_count()) return cudaErrorNoDevice;
  if (bytes == 0) return cudaSuccess;
  const bool on_device = type == cudaMemoryTypeDevice;
  const std::lock_guard lock(memory().mutex);
  int64_t& used = memory().device_bytes[current_device()];
  if (on_device && (bytes > static_cast<size_t>(total_bytes()) || used + static_cast<int64_t>(rounded(bytes)) > total_bytes())) {
    return cudaErrorMemoryAllocation;
  }
  void* address = nullptr;
  if (posix_memalign(&address, kAlignment, bytes) != 0) return cudaErrorMemoryAllocation;
  poison(address, std::min(bytes, kPoisonedBytes));
  if (on_device) used += static_cast<int64_t>(rounded(bytes));
  memory().allocations[reinterpret_cast<uintptr_t>(address)] = {static_cast<unsigned char*>(address), bytes, type, current_device(), mapped, false};
  *pointer = address;
  return cudaSuccess;
}

// An address that `allocate` gave, of that type.
cudaError_t release(void* pointer, cudaMemoryType type, cudaError_t otherwise) {
  if (!pointer) return cudaSuccess;
  const std::lock_guard lock(memory().mutex);
  const auto found = memory().allocations.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == memory().allocations.end() || found->second.type != type || found->second.registered) return otherwise;
  if (type == cudaMemoryTypeDevice) memory().device_bytes[found->second.device] -= static_cast<int64_t>(rounded(found->second.bytes));
  std::free(found->second.address);
  memory().allocations.erase(found);
  return cudaSuccess;
}

// A side of a copy: on a device, or of the host, and if so whether page-locked.
struct Side {
  bool valid;
  bool on_device;
  bool pinned;
};
Side side_of(const void* address, size_t bytes) {
  Allocation found;
  bool whole = false;
  if (!find_allocation(address, bytes, found, whole)) return {address != nullptr || bytes == 0, false, false};
  return {whole, found.type == cudaMemoryTypeDevice, found.type == cudaMemoryTypeHost};
}

bool fits(cudaMemcpyKind kind, bool target_on_device, bool source_on_device) {
  switch (kind) {
    case cudaMemcpyHostToHost: return !target_on_device && !source_on_device;
    case cudaMemcpyHostToDevice: return target_on_device && !source_on_device;
    case cudaMemcpyDeviceToHost: return !target_on_device && source_on_device;
    case cudaMemcpyDeviceToDevice: return target_on_device && source_on_device;
    case cudaMemcpyDefault: return true;
  }
  return false;
}

struct Rows {
  unsigned char* target;
  size_t target_pitch;
  const unsigned char* source;
  size_t source_pitch;
  size_t width;
  size_t height;
};

cudaError_t copy_rows(const Rows& rows) {
  for (size_t i = 0; i < rows.height; ++i) {
    std::memmove(rows.target + i * rows.target_pitch, rows.source + i * rows.source_pitch, rows.width);
  }
  return cudaSuccess;
}

// As the real one: an asynchronous copy from pageable memory has read it when the call returns, one into it has written it.
cudaError_t copy(const Rows& rows, cudaMemcpyKind kind, cudaStream_t handle, bool blocking) {
  CUstream_st* stream = find_stream(handle);
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (blocking) {
    if (const cudaError_t error = expect_no_capture()) return error;
  }
  if (rows.width > rows.target_pitch || rows.width > rows.source_pitch) return cudaErrorInvalidValue;
  if (rows.width == 0 || rows.height == 0) return cudaSuccess;
  const Side target = side_of(rows.target, (rows.height - 1) * rows.target_pitch + rows.width);
  const Side source = side_of(rows.source, (rows.height - 1) * rows.source_pitch + rows.width);
  if (!target.valid || !source.valid) return cudaErrorInvalidValue;
  if (!fits(kind, target.on_device, source.on_device)) return cudaErrorInvalidValue;
  if (stream->capture || (target.on_device && source.on_device)) return submit(handle, [rows] { return copy_rows(rows); });
  if (!source.on_device && !source.pinned) {
    auto staged = std::make_shared<std::vector<unsigned char>>(rows.width * rows.height);
    Rows from = rows;
    copy_rows({staged->data(), rows.width, rows.source, rows.source_pitch, rows.width, rows.height});
    from.source = staged->data();
    from.source_pitch = rows.width;
    if (const cudaError_t error = submit(handle, [from, staged] { return copy_rows(from); })) return error;
  } else if (const cudaError_t error = submit(handle, [rows] { return copy_rows(rows); })) {
    return error;
  }
  if (blocking || (!target.on_device && !target.pinned)) stream->wait_until_idle();
  return cudaSuccess;
}

Rows one_row(void* target, const void* source, size_t bytes) {
  return {static_cast<unsigned char*>(target), bytes, static_cast<const unsigned char*>(source), bytes, bytes, 1};
}

cudaError_t set(void* target, int value, size_t bytes, cudaStream_t handle) {
  if (bytes == 0) return cudaSuccess;
  Allocation found;
  bool whole = false;
  if (!find_allocation(target, bytes, found, whole) || !whole) return cudaErrorInvalidValue;
  return submit(handle, [=] {
    std::memset(target, value, bytes);
    return cudaSuccess;
  });
}

}  // namespace

bool find_allocation(const void* address, size_t bytes, Allocation& found, bool& whole) {
  const auto begin = reinterpret_cast<uintptr_t>(address);
  const std::lock_guard lock(memory().mutex);
  const auto& all = memory().allocations;
  auto next = all.lower_bound(begin + std::max<size_t>(bytes, 1));  // the first that begins behind the range
  if (next == all.begin()) return false;
  const auto& [start, allocation] = *std::prev(next);
  if (start + allocation.bytes <= begin) return false;
  found = allocation;
  whole = start <= begin && begin + bytes <= start + allocation.bytes;
  return true;
}

// The end of an allocation counts: a kernel may get a range.
bool reachable(const void* address) {
  Allocation found;
  bool whole = false;
  return !address || find_allocation(address, 1, found, whole) || find_allocation(static_cast<const char*>(address) - 1, 1, found, whole);
}

void count_memory(Counters& counters) {
  const std::lock_guard lock(memory().mutex);
  for (const auto& [address, allocation] : memory().allocations) {
    const bool on_device = allocation.type == cudaMemoryTypeDevice;
    (on_device ? counters.device_allocations : counters.host_allocations) += 1;
    (on_device ? counters.device_bytes : counters.host_bytes) += static_cast<int64_t>(allocation.bytes);
  }
}

}  // namespace heddle::emulator

using namespace heddle::emulator;

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return api([&] {
    if (const cudaError_t error = expect_no_capture()) return error;
    return allocate(pointer, bytes, cudaMemoryTypeDevice, false);
  });
}

// Waits for the device, as the real one does; frees memory of a broken device too.
cudaError_t cudaFree(void* pointer) {
  if (!pointer) return remember(broken(current_device()));
  if (const cudaError_t error = expect_no_capture()) return remember(error);
  Allocation found;
  bool whole = false;
  if (!find_allocation(pointer, 1, found, whole)) return remember(cudaErrorInvalidValue);
  wait_for_device(found.device);
  const cudaError_t error = release(pointer, cudaMemoryTypeDevice, cudaErrorInvalidValue);
  return remember(error ? error : broken(current_device()));
}

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t handle) {
  return api([&] {
    CUstream_st* stream = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (stream->capture) return cudaErrorStreamCaptureUnsupported;
    return allocate(pointer, bytes, cudaMemoryTypeDevice, false);
  });
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t handle) {
  return api([&] {
    CUstream_st* stream = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (stream->capture) return cudaErrorStreamCaptureUnsupported;
    return submit(handle, [=] { return release(pointer, cudaMemoryTypeDevice, cudaErrorInvalidValue); }, true);
  });
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault); }
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags) {
  return api([&] {
    if (flags > (cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined)) return cudaErrorInvalidValue;
    if (const cudaError_t error = expect_no_capture()) return error;
    return allocate(pointer, bytes, cudaMemoryTypeHost, true);  // with unified addresses all page-locked memory is mapped
  });
}
cudaError_t cudaFreeHost(void* pointer) {
  if (const cudaError_t error = expect_no_capture()) return remember(error);
  Allocation found;
  bool whole = false;
  if (pointer && find_allocation(pointer, 1, found, whole)) wait_for_device(found.device);
  const cudaError_t error = release(pointer, cudaMemoryTypeHost, cudaErrorInvalidValue);
  return remember(error ? error : broken(current_device()));
}

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned) {
  return api([&] {
    if (!pointer || bytes == 0) return cudaErrorInvalidValue;
    Allocation found;
    bool whole = false;
    if (find_allocation(pointer, bytes, found, whole)) return cudaErrorHostMemoryAlreadyRegistered;
    const std::lock_guard lock(memory().mutex);
    memory().allocations[reinterpret_cast<uintptr_t>(pointer)] = {static_cast<unsigned char*>(pointer), bytes, cudaMemoryTypeHost,
                                                                  current_device(), true, true};
    return cudaSuccess;
  });
}
cudaError_t cudaHostUnregister(void* pointer) {
  return api([&] {
    wait_for_device(current_device());
    const std::lock_guard lock(memory().mutex);
    const auto found = memory().allocations.find(reinterpret_cast<uintptr_t>(pointer));
    if (found == memory().allocations.end() || !found->second.registered) return cudaErrorHostMemoryNotRegistered;
    memory().allocations.erase(found);
    return cudaSuccess;
  });
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned flags) {
  return api([&] {
    Allocation found;
    bool whole = false;
    if (flags != 0 || !find_allocation(host, 1, found, whole) || found.type != cudaMemoryTypeHost) return cudaErrorInvalidValue;
    *device = host;
    return cudaSuccess;
  });
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return api([&] {
    const std::lock_guard lock(memory().mutex);
    *total = static_cast<size_t>(total_bytes());
    *free = static_cast<size_t>(std::max<int64_t>(0, total_bytes() - memory().device_bytes[current_device()]));
    return cudaSuccess;
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  return api([&] {
    Allocation found = {};
    bool whole = false;
    auto* address = const_cast<void*>(pointer);
    if (!find_allocation(pointer, 1, found, whole)) {
      *attributes = {cudaMemoryTypeUnregistered, -2, nullptr, address};
    } else {
      *attributes = {found.type, found.device, address, found.type == cudaMemoryTypeHost ? address : nullptr};
    }
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  return api([&] { return copy(one_row(target, source, bytes), kind, nullptr, true); });
}
cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return api([&] { return copy(one_row(target, source, bytes), kind, stream, false); });
}
cudaError_t cudaMemcpyPeerAsync(void* target, int, const void* source, int, size_t bytes, cudaStream_t stream) {
  return api([&] { return copy(one_row(target, source, bytes), cudaMemcpyDeviceToDevice, stream, false); });
}
cudaError_t cudaMemcpy2D(void* target, size_t target_pitch, const void* source, size_t source_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
  const Rows rows = {static_cast<unsigned char*>(target), target_pitch, static_cast<const unsigned char*>(source), source_pitch, width, height};
  return api([&] { return copy(rows, kind, nullptr, true); });
}
cudaError_t cudaMemcpy2DAsync(void* target, size_t target_pitch, const void* source, size_t source_pitch, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  const Rows rows = {static_cast<unsigned char*>(target), target_pitch, static_cast<const unsigned char*>(source), source_pitch, width, height};
  return api([&] { return copy(rows, kind, stream, false); });
}
cudaError_t cudaMemset(void* target, int value, size_t bytes) {
  return api([&] {
    if (const cudaError_t error = expect_no_capture()) return error;
    return set(target, value, bytes, nullptr);
  });
}
cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream) {
  return api([&] { return set(target, value, bytes, stream); });
}

}  // extern "C"
