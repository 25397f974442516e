// One question of the collective bench on one rank's GPU: timed by events, eager or as a replayed graph, then run once more from known
// numbers, of whose result every element is checked. Inputs are not written anew before every call, as in nccl-tests.
#pragma once
#include <algorithm>
#include <functional>
#include <vector>

#include "cuda/device_communicator.h"
#include "on_device.h"
#include "tests/collective_data.h"
#include "timing.h"

namespace heddle::test {

struct CollectivePlan {
  int calls;                                          // in a batch, between two events
  int batches;                                        // of which the median counts

  static CollectivePlan for_bytes(size_t bytes) {
    constexpr double kBatchSeconds = 2e-3, kGuessedBytesPerSecond = 1e11, kGuessedLatency = 1e-5;
    const double guess = kGuessedLatency + static_cast<double>(bytes) / kGuessedBytesPerSecond;
    return {std::clamp(static_cast<int>(kBatchSeconds / guess), 2, 100), 11};
  }
};

class CollectiveRun {
 public:
  // Takes memory: collective, with the communicator in lockstep.
  CollectiveRun(const cuda::Device& device, cuda::DeviceCommunicator& communicator, const Question& asked, const CollectiveData& data)
      : device_(device), communicator_(communicator), asked_(asked), data_(data), first_(memory(first_buffer(asked))),
        second_(memory(second_buffer(asked))), views_(views_of(asked, communicator.rank(), first_.data(), second_.data())),
        widths_(static_cast<size_t>(asked.ranks), asked.part) {}

  Answer run(const CollectivePlan& plan) {
    communicator_.lockstep(true);
    produce();
    call();                                           // loads kernels and takes scratch memory
    wait_for(device_);
    communicator_.barrier();
    communicator_.lockstep(false);
    Answer answer;
    if (asked_.graph) {
      const cuda::GraphExec batch = captured(plan.calls);
      const cuda::GraphExec once = captured(1);
      communicator_.barrier();                        // a first launch while a peer still prepares its own would hang
      answer.microseconds = timed(plan, [&] { launch(batch); });
      answer.wrong = wrong_after([&] { launch(once); });
    } else {
      answer.microseconds = timed(plan, [&] {
        for (int i = 0; i < plan.calls; ++i) call();
      });
      answer.wrong = wrong_after([&] { call(); });
    }
    communicator_.expect_healthy();
    communicator_.barrier();                          // nobody's memory goes while a peer may still reach it
    communicator_.lockstep(true);
    return answer;
  }

 private:
  Buffer memory(int64_t count) const {
    return count == 0 ? Buffer{} : cuda::device_memory(static_cast<size_t>(count) * size_of(asked_.dtype), "the buffers of a collective");
  }

  void call() { call_collective(communicator_, asked_, views_, widths_); }

  void produce() {
    const std::vector<std::byte>& numbers = data_.numbers_of(communicator_.rank());
    const size_t bytes = static_cast<size_t>(asked_.input_count()) * size_of(asked_.dtype);
    for (size_t at = 0; at < bytes; at += numbers.size()) {
      to_device(device_, static_cast<std::byte*>(views_.x.data) + at, numbers.data(), std::min(numbers.size(), bytes - at));
    }
  }

  cuda::GraphExec captured(int calls) {
    cuda::check(cudaStreamBeginCapture(device_.stream(), cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < calls; ++i) call();
    cudaGraph_t graph = nullptr;
    cuda::check(cudaStreamEndCapture(device_.stream(), &graph), "capture");
    const cuda::Graph owned(graph);
    cudaGraphExec_t exec = nullptr;
    cuda::check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    cuda::GraphExec made(exec);
    cuda::check(cudaGraphUpload(exec, device_.stream()), "upload");
    wait_for(device_);
    return made;
  }
  void launch(const cuda::GraphExec& graph) const { cuda::check(cudaGraphLaunch(graph.get(), device_.stream()), "launch"); }

  // Microseconds of a call.
  double timed(const CollectivePlan& plan, const std::function<void()>& batch) {
    const cuda::Event begin = timing_event();
    const cuda::Event end = timing_event();
    std::vector<double> times;
    for (int i = 0; i < plan.batches + 1; ++i) {
      communicator_.barrier();
      cuda::check(cudaEventRecord(begin.get(), device_.stream()), "timing");
      batch();
      cuda::check(cudaEventRecord(end.get(), device_.stream()), "timing");
      wait_for(device_);
      float milliseconds = 0;
      cuda::check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "timing");
      if (i > 0) times.push_back(milliseconds * 1e3 / plan.calls);  // the first warms up
    }
    std::nth_element(times.begin(), times.begin() + plan.batches / 2, times.end());
    return times[static_cast<size_t>(plan.batches / 2)];
  }

  int64_t wrong_after(const std::function<void()>& once) {
    produce();
    communicator_.barrier();
    once();
    wait_for(device_);
    communicator_.barrier();                          // a result in place lies in what a peer may still read
    auto* result = static_cast<std::byte*>(views_.y.data);
    if (asked_.corrupt && communicator_.rank() == 0) {
      std::byte damaged{};
      to_host(device_, &damaged, result + data_.corrupted_byte(), 1);
      damaged ^= std::byte{1};
      to_device(device_, result + data_.corrupted_byte(), &damaged, 1);
    }
    constexpr int64_t kChunk = int64_t{1} << 24;
    const size_t element = size_of(asked_.dtype);
    std::vector<std::byte> got(static_cast<size_t>(std::min(kChunk, asked_.result_count())) * element);
    int64_t wrong = 0;
    for (int64_t begin = 0; begin < asked_.result_count(); begin += kChunk) {
      const int64_t count = std::min(kChunk, asked_.result_count() - begin);
      to_host(device_, got.data(), result + static_cast<size_t>(begin) * element, static_cast<size_t>(count) * element);
      wrong += data_.count_wrong(communicator_.rank(), got.data(), begin, count);
    }
    return wrong;
  }

  const cuda::Device& device_;
  cuda::DeviceCommunicator& communicator_;
  const Question& asked_;
  const CollectiveData& data_;
  Buffer first_;
  Buffer second_;
  CollectiveViews views_;
  std::vector<int64_t> widths_;
};

}  // namespace heddle::test
