// How a rank's thread waits for its GPU.
#pragma once
#include <atomic>
#include <functional>

#include "cuda/device_communicator.h"
#include "cuda/runtime.h"

namespace heddle::cuda {

struct DeviceWait {
  const char* where = "synchronize";                  // for errors
  const std::atomic<bool>* cancelled = nullptr;       // when it is set: closed
  bool another_behind = false;                        // the device goes on meanwhile, so that this thread may sleep longer
};

// Until `query` says that the work is done: spins for a moment, then naps, and asks now and then, and at the end, whether a peer has
// failed: then kernels end too, but with garbage. Throws what that gives, device_failed, closed.
void wait_for_device(const std::function<cudaError_t()>& query, DeviceCommunicator& communicator, const DeviceWait& wait = {});

// A query that finds the event or stream not reached leaves that behind as this thread's last error; these do not.
cudaError_t query(const Event& event);
cudaError_t query(cudaStream_t stream);

}  // namespace heddle::cuda
