// Launches: what a GPU would refuse is refused, the rest runs or is recorded; a kernel that fails breaks its device.
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "block_runner.h"
#include "host_state.h"

namespace heddle::emulator {
namespace {

constexpr size_t kNames = 4096;

struct Log {
  std::mutex mutex;
  std::deque<std::string> names;
  std::string failure;
  bool print = true;
};
Log& log() {
  static auto* one = new Log();  // used until the process ends
  return *one;
}

// ---- failures that a test asked for ----

std::atomic<int> launches_until_failure{0};

bool fails_now(std::atomic<int>& countdown) {
  int left = countdown.load();
  while (left > 0 && !countdown.compare_exchange_weak(left, left - 1)) {
  }
  return left == 1;
}

// The environment's wish, counted from when it was first seen.
bool environment_fails_now() {
  static std::mutex mutex;
  static auto* seen = new std::string();
  static std::atomic<int> countdown{0};
  const char* text = std::getenv("HEDDLE_EMULATOR_FAIL_LAUNCH");
  const std::lock_guard lock(mutex);
  if (*seen != (text ? text : "")) {
    *seen = text ? text : "";
    countdown = static_cast<int>(setting("HEDDLE_EMULATOR_FAIL_LAUNCH", 0));
  }
  return fails_now(countdown);
}

cudaError_t fail(int device, const char* name, const std::string& what) {
  break_device(device, cudaErrorLaunchFailure);
  const std::lock_guard lock(log().mutex);
  log().failure = std::string(name) + ": " + what;
  if (log().print) std::fprintf(stderr, "CUDA emulator: %s\n", log().failure.c_str());
  return cudaErrorLaunchFailure;
}

// ---- running ----

// Runners keep their stacks; one is needed for each kernel that runs at the same time.
class Runners {
 public:
  std::unique_ptr<BlockRunner> take() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<BlockRunner>();
    std::unique_ptr<BlockRunner> runner = std::move(idle_.back());
    idle_.pop_back();
    return runner;
  }
  void give(std::unique_ptr<BlockRunner> runner) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(runner));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<BlockRunner>> idle_;
};
Runners& runners() {
  static auto* all = new Runners();  // used until the process ends
  return *all;
}

// Another order of threads for each launch of an OS thread, the same in each run of the program.
uint64_t next_variation() {
  thread_local uint64_t count = 0;
  uint64_t z = ++count * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(setting("HEDDLE_EMULATOR_SEED", 0)) * 0xd1342543de82ef95u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

struct Kernel {
  dim3 grid;
  dim3 block;
  size_t shared_bytes;
  std::function<void()> body;
  std::string name;
  int device;
};

cudaError_t run(const Kernel& kernel) {
  if (const cudaError_t error = broken(kernel.device)) return error;
  ++totals().launches;
  {
    const std::lock_guard lock(log().mutex);
    if (log().names.size() == kNames) log().names.pop_front();
    log().names.push_back(kernel.name);
  }
  const bool asked = fails_now(launches_until_failure);
  if (environment_fails_now() || asked) return fail(kernel.device, kernel.name.c_str(), "made to fail");
  std::unique_ptr<BlockRunner> runner = runners().take();
  const std::string failure = runner->run(kernel.grid, kernel.block, kernel.shared_bytes, kernel.body, next_variation());
  runners().give(std::move(runner));
  return failure.empty() ? cudaSuccess : fail(kernel.device, kernel.name.c_str(), failure);
}

cudaError_t refusal(dim3 grid, dim3 block, size_t shared_bytes) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0) return cudaErrorInvalidConfiguration;
  cudaDeviceProp p;
  if (const cudaError_t error = cudaGetDeviceProperties(&p, current_device())) return error;
  const auto at_most = [](unsigned value, int limit) { return value <= static_cast<unsigned>(limit); };
  const bool grid_fits = at_most(grid.x, p.maxGridSize[0]) && at_most(grid.y, p.maxGridSize[1]) && at_most(grid.z, p.maxGridSize[2]);
  const bool block_fits = at_most(block.x, p.maxThreadsDim[0]) && at_most(block.y, p.maxThreadsDim[1]) && at_most(block.z, p.maxThreadsDim[2]) &&
                          at_most(block.x * block.y * block.z, p.maxThreadsPerBlock);
  return grid_fits && block_fits && shared_bytes <= p.sharedMemPerBlockOptin ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

cudaError_t launch(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t handle, std::function<void()> body, const char* name) {
  return api([&] {
    if (const cudaError_t error = refusal(grid, block, shared_bytes)) return error;
    const CUstream_st* stream = find_stream(handle);
    if (!stream || stream->device != current_device()) return cudaErrorInvalidResourceHandle;
    return submit(handle, [kernel = Kernel{grid, block, shared_bytes, std::move(body), name, stream->device}] { return run(kernel); });
  });
}

std::vector<std::string> launch_names() {
  const std::lock_guard lock(log().mutex);
  return {log().names.begin(), log().names.end()};
}
void clear_launch_names() {
  const std::lock_guard lock(log().mutex);
  log().names.clear();
}
void fail_launch(int n) { launches_until_failure = n; }
std::string last_failure() {
  const std::lock_guard lock(log().mutex);
  return log().failure;
}
void print_failures(bool print) {
  const std::lock_guard lock(log().mutex);
  log().print = print;
}

}  // namespace heddle::emulator

using namespace heddle::emulator;

extern "C" {

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return api([&] {
    cudaDeviceProp p;
    if (const cudaError_t error = cudaGetDeviceProperties(&p, current_device())) return error;
    const bool fits = attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || (value >= 0 && static_cast<size_t>(value) <= p.sharedMemPerBlockOptin);
    return kernel && fits ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  return api([&] {
    if (!kernel) return cudaErrorInvalidDeviceFunction;
    *attributes = {0, 0, 0, 1024, 32, 48 * 1024};
    return cudaSuccess;
  });
}

// As if a kernel used 32 registers a thread: shared memory and threads limit it.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int block_size, size_t dynamic_shared_bytes) {
  return api([&] {
    cudaDeviceProp p;
    if (const cudaError_t error = cudaGetDeviceProperties(&p, current_device())) return error;
    if (!kernel || block_size <= 0) return cudaErrorInvalidValue;
    const auto by_shared = static_cast<int>(p.sharedMemPerMultiprocessor / (dynamic_shared_bytes + p.reservedSharedMemPerBlock));
    *blocks = std::min({p.maxBlocksPerMultiProcessor, p.maxThreadsPerMultiProcessor / block_size, by_shared});
    return cudaSuccess;
  });
}

}  // extern "C"
