// Captured graphs by themselves: what is run, captured, replayed and captured anew, also where one rank differs from the others.
#include "cuda/graphs.h"

#include <functional>
#include <string>
#include <vector>

#include "rank_threads.h"

namespace heddle::test {
namespace {

using cuda::bucket_of;
using cuda::EagerSteps;
using cuda::GraphKey;
using cuda::Graphs;

// A step's work that leaves a trace: the device's counter grows by one, however the step is run.
class Work {
 public:
  explicit Work(const cuda::Device& device) : device_(device), cells_(device, 1, kCells) {}

  // Copies cell by cell to the right, so that the first cell's mark travels by one cell each time the work runs.
  void submit() {
    ++submitted_;
    float* data = cells_.view().floats();
    for (int64_t cell = kCells - 1; cell > 0; --cell) {
      cuda::check(cudaMemcpyAsync(data + cell, data + cell - 1, sizeof(float), cudaMemcpyDeviceToDevice, device_.stream()), "test");
    }
  }
  void reset() {
    std::vector<float> start(kCells, 0);
    start[0] = 1;
    cells_.write(start);
  }
  // How often the work ran on the device since `reset`.
  int64_t runs() const {
    const std::vector<float> cells = cells_.read();
    int64_t runs = 0;
    while (runs + 1 < kCells && cells[static_cast<size_t>(runs) + 1] == 1) ++runs;
    return runs;
  }
  int submitted() const { return submitted_; }        // by the host: at once or into a graph

 private:
  static constexpr int64_t kCells = 64;
  const cuda::Device& device_;
  DeviceMatrix cells_;
  int submitted_ = 0;
};

HEDDLE_TEST(graphs_have_buckets_that_hold_every_batch) {
  const std::vector<std::pair<int64_t, int64_t>> expected = {{1, 1},   {2, 2},   {3, 4},    {5, 8},    {9, 16},   {16, 16},  {17, 24},
                                                             {32, 32}, {33, 40}, {64, 64},  {65, 96},  {128, 128}, {129, 160}, {257, 320}};
  for (const auto& [sequences, bucket] : expected) check(bucket_of(sequences, 1000) == bucket, sequences, ": ", bucket_of(sequences, 1000));
  for (int64_t most = 1; most < 300; most += 7) {
    for (int64_t sequences = 1; sequences <= most; ++sequences) {
      const int64_t bucket = bucket_of(sequences, most);
      check(bucket >= sequences && bucket <= most, sequences, " of ", most, ": ", bucket);
    }
  }
}

HEDDLE_TEST(graphs_run_then_capture_then_replay) {
  on_ranks(1, [](const cuda::Device& device, cuda::DeviceCommunicator& communicator) {
    EagerSteps eager;
    Graphs graphs(device, communicator, eager);
    Work work(device);
    work.reset();
    const auto step = [&](int64_t bucket) { graphs.run({bucket, {}}, 0, [&] { work.submit(); }); };
    for (int i = 1; i <= 4; ++i) {
      step(8);
      check(work.runs() == i, "step ", i, " ran once, not ", work.runs());
      check(graphs.captured() == (i >= 2 ? 1 : 0), "graphs after step ", i);
      check(work.submitted() == std::min(i, 2), "the host submits at first and for the capture alone, not ", work.submitted());
    }
    check(eager.count == 1, "one step was not served by a graph");
    step(16);
    check(graphs.captured() == 1 && eager.count == 2, "another bucket begins anew");
  });
}

HEDDLE_TEST(graphs_are_captured_anew_when_memory_moves) {
  on_ranks(1, [](const cuda::Device& device, cuda::DeviceCommunicator& communicator) {
    EagerSteps eager;
    Graphs graphs(device, communicator, eager);
    Work work(device);
    work.reset();
    const auto step = [&](uint64_t epoch) { graphs.run({8, {}}, epoch, [&] { work.submit(); }); };
    for (int i = 0; i < 3; ++i) step(0);
    check(work.submitted() == 2, "replayed");
    step(1);
    check(work.submitted() == 3 && graphs.captured() == 1, "the step's arrays moved");
    device.scratch(cuda::Scratch::gather, size_t{1} << 20);
    step(1);
    check(work.submitted() == 4, "scratch moved, and nobody said so: run without the graph");
    ++eager.count;
    step(1);
    check(work.submitted() == 5 && graphs.captured() == 1, "captured again after an eager step");
    step(1);
    check(work.submitted() == 5 && work.runs() == 7, "replayed; ", work.runs(), " runs");
  });
}

HEDDLE_TEST(graphs_used_longest_ago_go_first) {
  on_ranks(1, [](const cuda::Device& device, cuda::DeviceCommunicator& communicator) {
    EagerSteps eager;
    Graphs graphs(device, communicator, eager);
    Work work(device);
    const auto step = [&](int64_t bucket) { graphs.run({bucket, {}}, 0, [&] { work.submit(); }); };
    const auto count = static_cast<int64_t>(Graphs::kMostGraphs) + 4;
    for (int64_t bucket = 1; bucket <= count; ++bucket) {
      step(bucket);
      step(bucket);
      step(1);                                        // stays in use
    }
    check(graphs.captured() == Graphs::kMostGraphs, graphs.captured(), " graphs");
    const int before = work.submitted();
    step(1);
    step(count);
    check(work.submitted() == before, "what is in use is still there");
    step(2);
    check(work.submitted() == before + 1, "the oldest was captured again");
  });
}

HEDDLE_TEST(graphs_that_cannot_be_captured_are_run_without) {
  on_ranks(1, [](const cuda::Device& device, cuda::DeviceCommunicator& communicator) {
    EagerSteps eager;
    Graphs graphs(device, communicator, eager);
    Work work(device);
    work.reset();
    const auto step = [&] {
      graphs.run({8, {}}, 0, [&] {
        if (device.capturing()) throw Error(ErrorCode::device_failed, "test: no capture here");
        work.submit();
      });
    };
    for (int i = 0; i < 4; ++i) step();
    check(work.runs() == 4 && graphs.captured() == 0, work.runs(), " runs");
    check(graphs.failure().find("no capture here") != std::string::npos, "the reason: ", graphs.failure());
    check(!device.capturing(), "the stream is no longer captured");
  });
}

// A call that a capture forbids spoils it without throwing anything.
HEDDLE_TEST(graphs_that_were_spoilt_are_run_without) {
  on_ranks(1, [](const cuda::Device& device, cuda::DeviceCommunicator& communicator) {
    EagerSteps eager;
    Graphs graphs(device, communicator, eager);
    Work work(device);
    work.reset();
    const auto step = [&] {
      graphs.run({8, {}}, 0, [&] {
        if (device.capturing()) (void)cudaStreamSynchronize(device.stream());
        work.submit();
      });
    };
    for (int i = 0; i < 4; ++i) step();
    check(work.runs() == 4 && graphs.captured() == 0 && !graphs.failure().empty(), work.runs(), " runs");
  });
}

// One rank fails to capture, or alone has other addresses: all go on, with the same sums.
HEDDLE_TEST(graphs_of_ranks_may_differ) {
  for (const bool fails : {true, false}) {
    on_ranks(2, [&](const cuda::Device& device, cuda::DeviceCommunicator& communicator) {
      const bool odd = communicator.rank() == 1;
      EagerSteps eager;
      Graphs graphs(device, communicator, eager);
      DeviceMatrix x(device, 1, 16);
      for (int i = 0; i < 8; ++i) {
        if (i == 4) ++eager.count;
        if (i == 4 && odd && !fails) device.scratch(cuda::Scratch::gather, size_t{1} << 20);
        x.write(std::vector<float>(16, static_cast<float>(i + communicator.rank())));
        graphs.run({8, {}}, 0, [&] {
          if (odd && fails && device.capturing()) throw Error(ErrorCode::device_failed, "test: no capture here");
          communicator.all_reduce(x.view());
        });
        const std::vector<float> sums = x.read();
        check(sums == std::vector<float>(16, static_cast<float>(2 * i + 1)), "step ", i, ", rank ", communicator.rank(), ": ", sums[0]);
      }
      check(graphs.captured() == (odd && fails ? 0 : 1), "rank ", communicator.rank(), ": ", graphs.captured(), " graphs");
    });
  }
}

}  // namespace
}  // namespace heddle::test
