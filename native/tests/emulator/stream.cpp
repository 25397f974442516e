// Streams and events. A stream runs its work on the caller's thread at once, or in asynchronous mode on a thread of its own, late.
#include <chrono>

#include "host_state.h"

namespace heddle::emulator {
namespace {

// How long asynchronous work waits for somebody to ask for it.
constexpr auto kDelay = std::chrono::microseconds(300);

int64_t now_nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

template <class T>
Handles<T>& live_handles() {
  static auto* all = new Handles<T>();  // used until the process ends
  return *all;
}
Handles<CUstream_st>& streams() { return live_handles<CUstream_st>(); }
Handles<CUevent_st>& events() { return live_handles<CUevent_st>(); }
Handles<CUgraph_st>& graphs() { return live_handles<CUgraph_st>(); }
Handles<CUgraphExec_st>& graph_execs() { return live_handles<CUgraphExec_st>(); }

void Mark::reach() {
  const std::lock_guard lock(mutex_);
  nanoseconds = now_nanoseconds();
  reached_.store(true, std::memory_order_release);
  changed_.notify_all();
}

void Mark::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return reached(); });
}

CUstream_st* find_stream(cudaStream_t handle) {
  if (handle) return streams().has(handle) ? handle : nullptr;
  static std::mutex mutex;
  static auto* defaults = new std::vector<std::unique_ptr<CUstream_st>>(kMaxDevices);
  const std::lock_guard lock(mutex);
  auto& stream = (*defaults)[static_cast<size_t>(current_device())];
  if (!stream) stream = std::make_unique<CUstream_st>(current_device(), true, false);
  return stream.get();
}

void wait_for_device(int device) {
  for (const auto& stream : streams().all()) {
    if (stream->device == device) stream->wait_until_idle();
  }
}

cudaError_t submit(cudaStream_t handle, std::function<cudaError_t()> run, bool always) {
  CUstream_st* stream = find_stream(handle);
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (stream->capture) {
    if (stream->capture->invalid) return cudaErrorStreamCaptureInvalidated;
    if (stream != stream->capture->origin) stream->capture->forked.insert(stream);
    stream->capture->work.push_back({std::move(run), always});
    return cudaSuccess;
  }
  if (!handle) {  // the default stream waits for those that did not opt out
    for (const auto& other : streams().all()) {
      if (!other->blocking || other->device != stream->device) continue;
      if (other->capturing) return cudaErrorStreamCaptureImplicit;
      other->wait_until_idle();
    }
  }
  return stream->submit({std::move(run), always});
}

}  // namespace heddle::emulator

using namespace heddle::emulator;

CUstream_st::CUstream_st(int device_, bool blocking_, bool asynchronous_) : device(device_), blocking(blocking_) {
  if (asynchronous_) thread_ = std::thread([this] { run_thread(); });
}

CUstream_st::~CUstream_st() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

cudaError_t CUstream_st::run(Work& work) {
  const cudaError_t error = broken(device);
  if (error != cudaSuccess && !work.always) return error;
  const std::lock_guard lock(running_);
  return work.run();
}

cudaError_t CUstream_st::submit(Work work) {
  if (!thread_.joinable()) return run(work);
  const std::lock_guard lock(mutex_);
  queue_.push_back(std::move(work));
  ++unfinished_;
  changed_.notify_all();
  return cudaSuccess;
}

void CUstream_st::run_thread() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return !queue_.empty() || ending_; });
    if (queue_.empty()) return;
    changed_.wait_for(lock, kDelay, [&] { return wanted_ || ending_; });
    while (!queue_.empty()) {
      {
        Work work = std::move(queue_.front());
        queue_.pop_front();
        lock.unlock();
        run(work);
      }
      lock.lock();
      --unfinished_;
    }
    wanted_ = false;
    changed_.notify_all();
  }
}

void CUstream_st::join(const std::shared_ptr<Capture>& with) {
  with->streams.push_back(this);
  capture = with;
  capturing = true;
}

bool CUstream_st::idle() {
  hurry();
  const std::lock_guard lock(mutex_);
  return unfinished_ == 0;
}

void CUstream_st::hurry() {
  const std::lock_guard lock(mutex_);
  wanted_ = unfinished_ > 0;
  changed_.notify_all();
}

void CUstream_st::wait_until_idle() {
  hurry();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return unfinished_ == 0; });
}

extern "C" {

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) { return cudaStreamCreateWithFlags(stream, flags); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return api([&] {
    if (flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
    if (current_device() >= device_count()) return cudaErrorNoDevice;
    *stream = streams().add(std::make_shared<CUstream_st>(current_device(), flags == cudaStreamDefault, asynchronous()));
    return cudaSuccess;
  });
}

// Frees the handle of a broken device too.
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  const std::shared_ptr<CUstream_st> stream = streams().take(handle);
  if (!stream) return remember(cudaErrorInvalidResourceHandle);
  if (stream->capture) stream->capture->invalid = true;
  return remember(broken(stream->device));
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return api([&] {
    CUstream_st* stream = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t error = expect_not_captured(*stream)) return error;
    stream->wait_until_idle();
    return broken(stream->device);
  });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return api([&] {
    CUstream_st* stream = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t error = expect_not_captured(*stream)) return error;
    const bool idle = stream->idle();
    if (const cudaError_t error = broken(stream->device)) return error;
    return idle ? cudaSuccess : cudaErrorNotReady;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  return api([&] {
    return submit(stream, [=] {
      function(argument);
      return cudaSuccess;
    });
  });
}

// ---- events ----

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return api([&] {
    if (flags > (cudaEventBlockingSync | cudaEventDisableTiming)) return cudaErrorInvalidValue;
    if (current_device() >= device_count()) return cudaErrorNoDevice;
    auto made = std::make_shared<CUevent_st>();
    made->device = current_device();
    made->timed = (flags & cudaEventDisableTiming) == 0;
    *event = events().add(std::move(made));
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  const std::shared_ptr<CUevent_st> event = events().take(handle);
  return remember(event ? broken(event->device) : cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  return api([&] {
    CUstream_st* stream = find_stream(handle);
    if (!stream || !events().has(event) || event->device != stream->device) return cudaErrorInvalidResourceHandle;
    event->capture = stream->capture;
    event->captured_stream = stream;
    if (stream->capture) return stream->capture->invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
    event->mark = std::make_shared<Mark>();
    const auto reach = [mark = event->mark] {
      mark->reach();
      return cudaSuccess;
    };
    return submit(handle, reach, true);
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  return api([&] {
    CUstream_st* stream = find_stream(handle);
    if (!stream || !events().has(event)) return cudaErrorInvalidResourceHandle;
    if (event->capture) {  // the stream joins the capture, or waits for a stream that did
      if (stream->capture && stream->capture != event->capture) return cudaErrorStreamCaptureMerge;
      if (!stream->capture) stream->join(event->capture);
      if (stream == stream->capture->origin) stream->capture->forked.erase(event->captured_stream);
      if (stream != stream->capture->origin) stream->capture->forked.insert(stream);
      return cudaSuccess;
    }
    if (stream->capture) {
      stream->capture->invalid = true;
      return cudaErrorStreamCaptureIsolation;
    }
    if (!event->mark) return cudaSuccess;
    return submit(handle, [mark = event->mark] {
      mark->wait();
      return cudaSuccess;
    });
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return api([&] {
    if (!events().has(event)) return cudaErrorInvalidResourceHandle;
    if (event->capture) return cudaErrorCapturedEvent;
    if (const cudaError_t error = expect_no_capture()) return error;
    if (event->mark && !event->mark->reached()) {
      if (const cudaError_t error = broken(event->device)) return error;
      for (const auto& stream : streams().all()) stream->hurry();
      return cudaErrorNotReady;
    }
    return broken(event->device);
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return api([&] {
    if (!events().has(event)) return cudaErrorInvalidResourceHandle;
    if (event->capture) return cudaErrorCapturedEvent;
    if (const cudaError_t error = expect_no_capture()) return error;
    for (const auto& stream : streams().all()) stream->hurry();
    if (event->mark) event->mark->wait();
    return broken(event->device);
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return api([&] {
    if (!events().has(start) || !events().has(end) || !start->timed || !end->timed) return cudaErrorInvalidResourceHandle;
    if (!start->mark || !end->mark) return cudaErrorInvalidResourceHandle;
    if (!start->mark->reached() || !end->mark->reached()) return cudaErrorNotReady;
    *milliseconds = static_cast<float>(static_cast<double>(end->mark->nanoseconds - start->mark->nanoseconds) * 1e-6);
    return cudaSuccess;
  });
}

}  // extern "C"
