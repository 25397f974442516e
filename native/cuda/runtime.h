// CUDA's runtime as C++ values: calls that fail throw, and what is made is released. Plain C++, for .cpp and .cu alike.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/tensor.h"

namespace heddle::cuda {

// What CUDA reads at its first call, so to be called before that. Keeps what the user has set.
void set_environment();

// Throws device_failed "where: CUDA text (name)"; out_of_memory for cudaErrorMemoryAllocation.
void check(cudaError_t status, const char* where);

// Makes `ordinal` this thread's current device for a scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int ordinal);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
};

// Owns one handle of type T, released by Release, which never throws.
template <class T, cudaError_t (*Release)(T)>
class Handle {
 public:
  Handle() = default;
  explicit Handle(T value) : value_(value) {}
  Handle(Handle&& other) noexcept : value_(std::exchange(other.value_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Handle() {
    if (value_) (void)Release(value_);
  }
  T get() const { return value_; }
  explicit operator bool() const { return value_ != nullptr; }

 private:
  T value_ = nullptr;
};

using Stream = Handle<cudaStream_t, cudaStreamDestroy>;
using Event = Handle<cudaEvent_t, cudaEventDestroy>;
using Graph = Handle<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = Handle<cudaGraphExec_t, cudaGraphExecDestroy>;

Stream make_stream();                                 // non-blocking, on the current device
Event make_event();                                   // without timing

// Lets `kernel` be launched on the current device with that much dynamic shared memory, by any thread.
void allow_shared_bytes(const void* kernel, size_t bytes, const char* where);

// Memory of the current device. Not zeroed. Throws out_of_memory naming `what`, the need and the free bytes.
Buffer device_memory(size_t bytes, const char* what);
// Page-locked host memory; `mapped`: kernels may read and write it through the same address.
Buffer pinned_memory(size_t bytes, bool mapped = false);

}  // namespace heddle::cuda
