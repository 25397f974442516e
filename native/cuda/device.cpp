#include "cuda/device.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace heddle::cuda {

namespace {

const char* name_of(Scratch kind) {
  switch (kind) {
    case Scratch::linear_input: return "scratch of matrix products' inputs";
    case Scratch::linear_partial: return "scratch of split matrix products";
    case Scratch::linear_library: return "workspace of cuBLASLt";
    case Scratch::attention_partial: return "scratch of split attention";
    case Scratch::attention_counter: return "counters of split attention";
    case Scratch::attention_library: return "memory of a library's attention";
    case Scratch::experts: return "scratch of experts";
    case Scratch::sample: return "scratch of sampling";
    case Scratch::gather: return "scratch of gathering";
    case Scratch::count: break;
  }
  return "scratch";
}

void expect_ordinal(int ordinal) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    (void)cudaGetLastError();
    throw Error(ErrorCode::unavailable, std::string("Device: expected a usable GPU, got: ") + cudaGetErrorString(status) + " (" +
                                            cudaGetErrorName(status) + ")");
  }
  if (ordinal < 0 || ordinal >= count) {
    throw Error(ErrorCode::unavailable,
                "Device: expected a GPU below " + std::to_string(count) + ", got GPU " + std::to_string(ordinal));
  }
}

int attribute(cudaDeviceAttr which, int ordinal) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, ordinal), "Device");
  return value;
}

std::string name_of_gpu(int ordinal) {
  cudaDeviceProp properties = {};
  check(cudaGetDeviceProperties(&properties, ordinal), "Device");
  return properties.name;
}

}  // namespace

Device::Device(int ordinal, int rank) : ordinal_(ordinal), rank_(rank) {
  expect_ordinal(ordinal);
  check(cudaSetDevice(ordinal), "Device");
  stream_ = make_stream();
  sm_count_ = attribute(cudaDevAttrMultiProcessorCount, ordinal);
  compute_capability_ =
      10 * attribute(cudaDevAttrComputeCapabilityMajor, ordinal) + attribute(cudaDevAttrComputeCapabilityMinor, ordinal);
  l2_bytes_ = static_cast<size_t>(attribute(cudaDevAttrL2CacheSize, ordinal));
  shared_bytes_per_block_ = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal));
  name_ = name_of_gpu(ordinal);
}

Device::~Device() {
  if (stream_) (void)cudaStreamSynchronize(stream_.get());  // kernels may still use the scratch memory
}

bool Device::capturing() const {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream_.get(), &status), "Device");
  return status != cudaStreamCaptureStatusNone;
}

Buffer Device::allocate(size_t bytes, const char* what) const {
  return device_memory(bytes, ("rank " + std::to_string(rank_) + ": " + what).c_str());
}

// What is outgrown is kept, not freed: cudaFree waits for the whole GPU, where a kernel of another rank may be waiting for this one.
// Sizes grow by half at least, so what is kept is at most twice what is in use.
void* Device::scratch(Scratch kind, size_t bytes) const {
  Buffer& buffer = scratch_[static_cast<size_t>(kind)];
  if (buffer.data() && buffer.bytes() >= bytes) return buffer.data();
  if (capturing()) {
    throw Error(ErrorCode::device_failed, std::string(name_of(kind)) + ": expected at most " + std::to_string(buffer.bytes()) +
                                              " bytes while a graph is captured, got " + std::to_string(bytes));
  }
  constexpr size_t kGranularity = 64 * 1024;
  const size_t wanted = std::max({bytes, buffer.bytes() + buffer.bytes() / 2, kGranularity});
  Buffer grown = allocate((wanted + kGranularity - 1) / kGranularity * kGranularity, name_of(kind));
  check(cudaMemsetAsync(grown.data(), 0, grown.bytes(), stream_.get()), name_of(kind));
  std::swap(buffer, grown);
  if (grown.data()) outgrown_.push_back(std::move(grown));
  ++scratch_epoch_;
  return buffer.data();
}

}  // namespace heddle::cuda
