#include "cuda/runtime.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

#include "core/error.h"

namespace heddle::cuda {

namespace {

std::string text_of(cudaError_t status) { return std::string(cudaGetErrorString(status)) + " (" + cudaGetErrorName(status) + ")"; }

[[noreturn]] void out_of_memory(size_t bytes, const char* what) {
  (void)cudaGetLastError();  // this failure alone: later calls must not report it again
  size_t free = 0, total = 0;
  int ordinal = 0;
  (void)cudaGetDevice(&ordinal);
  std::string got = "no answer about its memory";
  if (cudaMemGetInfo(&free, &total) == cudaSuccess) got = std::to_string(free) + " free of " + std::to_string(total);
  throw Error(ErrorCode::out_of_memory,
              std::string(what) + ": expected " + std::to_string(bytes) + " bytes on GPU " + std::to_string(ordinal) + ", got " + got);
}

void release_device(void* data, size_t) { (void)cudaFree(data); }
void release_pinned(void* data, size_t) { (void)cudaFreeHost(data); }

}  // namespace

void set_environment() {
  // Loading a kernel at its first launch would wait for kernels that wait for that launch.
  (void)setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  // Streams of ranks that share a GPU would share 8 queues: a kernel could be stuck behind one that waits for it.
  (void)setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
}

void check(cudaError_t status, const char* where) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();
  throw Error(status == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::device_failed,
              std::string(where) + ": CUDA: " + text_of(status));
}

DeviceGuard::DeviceGuard(int ordinal) {
  check(cudaGetDevice(&previous_), "DeviceGuard");
  if (ordinal != previous_) check(cudaSetDevice(ordinal), "DeviceGuard");
}

DeviceGuard::~DeviceGuard() {
  int current = previous_;
  if (cudaGetDevice(&current) == cudaSuccess && current != previous_) (void)cudaSetDevice(previous_);
}

Stream make_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "make_stream");
  return Stream(stream);
}

Event make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "make_event");
  return Event(event);
}

#if !defined(HEDDLE_CUDA_EMULATED)
// Limits only rise: threads of ranks that share a GPU launch one kernel with different needs, and a limit that one of them lowered between
// another's call and its launch would refuse that launch.
void allow_shared_bytes(const void* kernel, size_t bytes, const char* where) {
  static std::mutex mutex;
  static auto& limits = *new std::map<std::pair<int, const void*>, size_t>;
  int ordinal = 0;
  check(cudaGetDevice(&ordinal), where);
  const std::lock_guard lock(mutex);
  size_t& limit = limits[{ordinal, kernel}];
  if (bytes <= limit) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), where);
  limit = bytes;
}
#endif

Buffer device_memory(size_t bytes, const char* what) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, std::max<size_t>(bytes, 1));
  if (status == cudaErrorMemoryAllocation) out_of_memory(bytes, what);
  check(status, what);
  return Buffer(data, bytes, release_device);
}

Buffer pinned_memory(size_t bytes, bool mapped) {
  void* data = nullptr;
  const unsigned flags = cudaHostAllocPortable | (mapped ? cudaHostAllocMapped : 0u);
  const cudaError_t status = cudaHostAlloc(&data, std::max<size_t>(bytes, 1), flags);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw Error(ErrorCode::out_of_memory, "pinned_memory: expected " + std::to_string(bytes) + " bytes of page-locked host memory, got none");
  }
  check(status, "pinned_memory");
  return Buffer(data, bytes, release_pinned);
}

}  // namespace heddle::cuda
