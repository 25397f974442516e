// What the emulated runtime remembers: devices, allocations, handles. Rule: every host function goes through api(), which knows broken
// devices, calls that a capture forbids, and the last error.
#pragma once
#include <cuda_runtime_api.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "emulator.h"

namespace heddle::emulator {

// ---- settings and counters ----

long setting(const char* name, long otherwise);
int device_count();
bool asynchronous();

struct Totals {
  std::atomic<int64_t> launches{0}, graph_launches{0}, graph_captures{0};
};
Totals& totals();

// ---- errors ----

constexpr int kMaxDevices = 64;
int current_device();
cudaError_t broken(int device);                        // cudaSuccess: it is not
void break_device(int device, cudaError_t error);
cudaError_t remember(cudaError_t error);               // as this thread's last error; returns it

// A call on the current device. Rule: nothing is thrown to the caller.
template <class Body>
cudaError_t api(Body&& body) {
  if (const cudaError_t error = broken(current_device())) return remember(error);
  try {
    return remember(body());
  } catch (const std::bad_alloc&) {
    return remember(cudaErrorMemoryAllocation);
  } catch (...) {
    return remember(cudaErrorUnknown);
  }
}

// ---- handles ----

// The live handles of a kind, so that one that was destroyed is refused. What another thread looks at ends when that is done with it.
template <class T>
class Handles {
 public:
  T* add(std::shared_ptr<T> handle) {
    const std::lock_guard lock(mutex_);
    T* const address = handle.get();
    live_[address] = std::move(handle);
    return address;
  }
  bool has(T* handle) {
    const std::lock_guard lock(mutex_);
    return live_.contains(handle);
  }
  std::shared_ptr<T> take(T* handle) {
    const std::lock_guard lock(mutex_);
    const auto found = live_.find(handle);
    if (found == live_.end()) return nullptr;
    std::shared_ptr<T> taken = std::move(found->second);
    live_.erase(found);
    return taken;
  }
  int64_t count() {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(live_.size());
  }
  std::vector<std::shared_ptr<T>> all() {
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<T>> handles;
    for (const auto& [address, handle] : live_) handles.push_back(handle);
    return handles;
  }

 private:
  std::mutex mutex_;
  std::map<T*, std::shared_ptr<T>> live_;
};

// ---- work ----

struct Work {
  std::function<cudaError_t()> run;
  bool always = false;                                 // on a broken device too: somebody may wait for it
};
using WorkList = std::vector<Work>;

// Where work of a captured stream goes. Streams that join by an event share it.
struct Capture {
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  CUstream_st* origin;
  std::atomic<bool> invalid{false};
  WorkList work;
  std::vector<CUstream_st*> streams;                   // all that take part
  std::set<CUstream_st*> forked;                       // joined the capture and have not been waited for
};

// A point of a stream that is reached once.
class Mark {
 public:
  void reach();
  bool reached() const { return reached_.load(std::memory_order_acquire); }
  void wait();
  int64_t nanoseconds = 0;                             // when it was reached

 private:
  std::atomic<bool> reached_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace heddle::emulator

struct CUstream_st {
  CUstream_st(int device_, bool blocking_, bool asynchronous_);
  ~CUstream_st();
  CUstream_st(const CUstream_st&) = delete;
  CUstream_st& operator=(const CUstream_st&) = delete;

  // Runs the work now, or hands it to the stream's thread.
  cudaError_t submit(heddle::emulator::Work work);
  bool idle();
  void hurry();                                        // somebody waits
  void wait_until_idle();

  void join(const std::shared_ptr<heddle::emulator::Capture>& with);

  const int device;
  const bool blocking;                                 // ordered with the default stream
  std::shared_ptr<heddle::emulator::Capture> capture;  // for the thread that uses the stream; others ask `capturing`
  std::atomic<bool> capturing{false};

 private:
  cudaError_t run(heddle::emulator::Work& work);
  void run_thread();

  std::mutex running_;                                 // one work at a time
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<heddle::emulator::Work> queue_;
  size_t unfinished_ = 0;
  bool wanted_ = false;
  bool ending_ = false;
  std::thread thread_;                                 // in asynchronous mode
};

struct CUevent_st {
  int device;
  bool timed;
  std::shared_ptr<heddle::emulator::Mark> mark;        // none: never recorded, which counts as reached
  std::shared_ptr<heddle::emulator::Capture> capture;  // recorded in one
  CUstream_st* captured_stream = nullptr;
};

struct CUgraph_st {
  heddle::emulator::WorkList work;
};
struct CUgraphExec_st {
  std::shared_ptr<const heddle::emulator::WorkList> work;
};

namespace heddle::emulator {

Handles<CUstream_st>& streams();
Handles<CUevent_st>& events();
Handles<CUgraph_st>& graphs();
Handles<CUgraphExec_st>& graph_execs();

// The stream of a handle, that of the current device for the default one; null: there is none such.
CUstream_st* find_stream(cudaStream_t handle);
// Runs, queues or records the work.
cudaError_t submit(cudaStream_t stream, std::function<cudaError_t()> run, bool always = false);
// Waits for all streams of a device.
void wait_for_device(int device);

// cudaSuccess, or why a call that could wait for the device is not possible while streams are captured; such a call spoils the capture.
cudaError_t expect_no_capture();
cudaError_t expect_not_captured(CUstream_st& stream);

// ---- memory ----

struct Allocation {
  unsigned char* address;
  size_t bytes;
  cudaMemoryType type;
  int device;
  bool mapped;
  bool registered;                                     // memory of somebody else
};
// The allocation that holds `bytes` bytes at the address, or that touches them: then `whole` is false.
bool find_allocation(const void* address, size_t bytes, Allocation& found, bool& whole);
void count_memory(Counters& counters);

}  // namespace heddle::emulator
