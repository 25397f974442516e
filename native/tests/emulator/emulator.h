// The CUDA emulator as tests see it: how a kernel is launched, what can be made to fail, and what was counted.
//
// Settings are environment variables, read at each use:
//   HEDDLE_EMULATOR_DEVICES             how many there are (1)
//   HEDDLE_EMULATOR_MEMORY              bytes of each device (1 GiB)
//   HEDDLE_EMULATOR_COMPUTE_CAPABILITY  90
//   HEDDLE_EMULATOR_DRIVER_VERSION      13000
//   HEDDLE_EMULATOR_PEER_ACCESS         0: devices do not reach each other's memory
//   HEDDLE_EMULATOR_FAIL_LAUNCH         n: the n-th launch from now breaks its device; counted anew when the value changes
//   HEDDLE_EMULATOR_SEED                another order of the threads of a block
//   HEDDLE_EMULATOR_ASYNC               1: streams made from now on run on threads of their own, late on purpose, so that a missing
//                                       synchronisation shows
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

namespace heddle::emulator {

// Runs `kernel` once for each thread of the grid, or records that while the stream is captured. The error is the refusal of a launch
// that no GPU would take, or what went wrong inside the kernel: then the device stays broken, as a real one.
cudaError_t launch(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, std::function<void()> kernel, const char* name = "");

// Whether kernels can reach the address: memory of a device, page-locked memory of the host, or none.
bool reachable(const void* address);

template <class T>
bool is_reachable_argument(const T& value) {
  if constexpr (std::is_pointer_v<T>) {
    if constexpr (!std::is_function_v<std::remove_pointer_t<T>>) return reachable(const_cast<const void*>(static_cast<const volatile void*>(value)));
  }
  return true;
}

// The same for a kernel and its arguments. One that is an address of the host's own memory is refused: a GPU fails where it uses it.
template <class... P>
cudaError_t launch_kernel(const char* name, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, void (*kernel)(P...),
                          std::type_identity_t<P>... arguments) {
  if (!(is_reachable_argument(arguments) && ...)) return cudaErrorIllegalAddress;
  return launch(grid, block, shared_bytes, stream, [kernel, ... values = arguments] { kernel(values...); }, name);
}

struct Counters {
  int64_t streams, events, graphs, graph_execs;                          // alive
  int64_t device_allocations, device_bytes, host_allocations, host_bytes;  // alive
  int64_t launches, graph_launches, graph_captures;                      // ever
};
Counters counters();

// The names of the latest launches (at most 4096), kernels of replayed graphs included, oldest first.
std::vector<std::string> launch_names();
void clear_launch_names();

// The n-th launch from now, on any device, breaks its device. 0: none.
void fail_launch(int n);
// What the last failed kernel did wrong: also printed to stderr.
std::string last_failure();
// Kernels that fail do so silently; for tests that expect it.
void print_failures(bool print);
// Repairs broken devices, as a new process would.
void repair_devices();

}  // namespace heddle::emulator
