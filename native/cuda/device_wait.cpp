#include "cuda/device_wait.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>

#include "core/error.h"
#include "core/wait.h"

namespace heddle::cuda {

namespace {

using std::chrono::microseconds;

constexpr microseconds kSpin{50};                     // a step that ends at once is not slept over
constexpr microseconds kShortestNap{20};
constexpr microseconds kLongestNap{200};
constexpr microseconds kHealthInterval{1000};

// Naps grow with what a step has taken so far: a few dozen of them a step. Shorter where the device idles until this step is answered.
std::chrono::nanoseconds nap_after(Clock::duration elapsed, bool another_behind) {
  return std::clamp<std::chrono::nanoseconds>(elapsed / (another_behind ? 4 : 16), kShortestNap, kLongestNap);
}

cudaError_t without_a_trace(cudaError_t status) {
  if (status == cudaErrorNotReady) (void)cudaGetLastError();
  return status;
}

}  // namespace

cudaError_t query(const Event& event) { return without_a_trace(cudaEventQuery(event.get())); }
cudaError_t query(cudaStream_t stream) { return without_a_trace(cudaStreamQuery(stream)); }

void wait_for_device(const std::function<cudaError_t()>& query, DeviceCommunicator& communicator, const DeviceWait& wait) {
  const Clock::time_point begin = Clock::now();
  Clock::time_point next_look = begin + kHealthInterval;
  for (;;) {
    const cudaError_t status = query();
    if (status == cudaSuccess) break;
    if (status != cudaErrorNotReady) check(status, wait.where);
    if (wait.cancelled && wait.cancelled->load(std::memory_order_relaxed)) {
      throw Error(ErrorCode::closed, std::string(wait.where) + ": the group was closed during a run");
    }
    const Clock::time_point now = Clock::now();
    if (now >= next_look) {
      communicator.expect_healthy();
      next_look = now + kHealthInterval;
    }
    if (now - begin < kSpin) {
      cpu_pause();
    } else {
      std::this_thread::sleep_for(nap_after(now - begin, wait.another_behind));
    }
  }
  communicator.expect_healthy();                      // the collectives of an aborted group end too, with garbage
}

}  // namespace heddle::cuda
