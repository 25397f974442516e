#include "emulator_hooks.h"

#include <memory>

#include "host_state.h"

namespace heddle::emulator {
namespace {

cudaError_t enqueue(cudaStream_t stream, int (*function)(void*), void* argument, void (*release)(void*)) {
  const std::shared_ptr<void> owned(argument, release);
  return api([&] { return submit(stream, [=] { return function(owned.get()) == 0 ? cudaSuccess : cudaErrorUnknown; }); });
}

int device_of(const void* address, size_t bytes) {
  Allocation found;
  bool whole = false;
  const bool on_device = find_allocation(address, bytes, found, whole) && whole && found.type == cudaMemoryTypeDevice;
  return on_device ? found.device : -1;
}

}  // namespace
}  // namespace heddle::emulator

extern "C" const HeddleEmulatorHooks* heddle_emulator_hooks() {
  using namespace heddle::emulator;
  static constexpr HeddleEmulatorHooks kHooks = {enqueue, current_device, device_of, cudaMalloc, cudaFree};
  return &kHooks;
}
