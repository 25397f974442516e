// Times all-reduce among virtual ranks, threads of this process that share a GPU, each replaying one captured graph: the cost of a call
// beyond that of an empty kernel in its place, and of residual and norm folded in against the same as kernels of their own.
// These are times of kernels and protocol, not of NVLink: no byte leaves the GPU. Columns as nccl-tests prints them.
//   heddle_cuda_all_reduce_bench
#include <cstdio>
#include <numeric>

#include "cuda/operations.h"
#include "rank_threads.h"
#include "timing.h"

namespace heddle::test {

// The registry of test.h is not part of this program.
void record_failure(const std::string& message) { std::fprintf(stderr, "%s\n", message.c_str()); }

namespace {

using cuda::Device;
using cuda::DeviceCommunicator;

constexpr int kCalls = 64;                            // in a graph
constexpr int kReplays = 21;
constexpr int64_t kWidth = 4096;
constexpr DType kType = DType::bfloat16;

class Bench {
 public:
  Bench(const Device& device, DeviceCommunicator& communicator, int64_t rows)
      : device_(device), communicator_(communicator), x_(device, random(rows), kType), residual_(device, random(rows)),
        normed_(device, rows, kWidth, kType), empty_(device, Matrix(1, 8)), norm_(tensor_on(device, std::vector<float>(kWidth, 1.0f), {kWidth})) {}

  double empty() { return timed([&] { cuda::slice(device_, empty_.view(), 0, empty_.view()); }); }
  double all_reduce() { return timed([&] { communicator_.all_reduce(x_.view()); }); }
  double folded() {
    return timed([&] { communicator_.all_reduce_fused(x_.view(), {residual_.view(), residual_.view(), &norm_, 1e-6f, normed_.view()}); });
  }
  double separate() {
    return timed([&] {
      communicator_.all_reduce(x_.view());
      cuda::add(device_, residual_.view(), x_.view(), residual_.view());
      cuda::rms_norm(device_, residual_.view(), norm_, 1e-6f, normed_.view());
    });
  }

 private:
  static Matrix random(int64_t rows) { return {rows, kWidth, Random(3).uniform_vector(static_cast<size_t>(rows * kWidth), -1e-3f, 1e-3f)}; }

  // Microseconds of one call. Ranks launch together: a first launch while a peer still prepares its own would hang.
  double timed(const std::function<void()>& call) {
    call();
    wait_for(device_);
    cuda::check(cudaStreamBeginCapture(device_.stream(), cudaStreamCaptureModeThreadLocal), "timing");
    for (int i = 0; i < kCalls; ++i) call();
    cudaGraph_t captured = nullptr;
    cuda::check(cudaStreamEndCapture(device_.stream(), &captured), "timing");
    const cuda::Graph graph(captured);
    cudaGraphExec_t made = nullptr;
    cuda::check(cudaGraphInstantiate(&made, captured, 0), "timing");
    const cuda::GraphExec exec(made);
    cuda::check(cudaGraphUpload(made, device_.stream()), "timing");
    wait_for(device_);
    return replay(made);
  }

  double replay(cudaGraphExec_t graph) {
    const cuda::Event begin = timing_event();
    const cuda::Event end = timing_event();
    std::vector<double> times;
    for (int i = 0; i < kReplays; ++i) {
      communicator_.barrier();
      cuda::check(cudaEventRecord(begin.get(), device_.stream()), "timing");
      cuda::check(cudaGraphLaunch(graph, device_.stream()), "timing");
      cuda::check(cudaEventRecord(end.get(), device_.stream()), "timing");
      wait_for(device_);
      float milliseconds = 0;
      cuda::check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "timing");
      times.push_back(milliseconds * 1e3 / kCalls);
    }
    std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
    return times[kReplays / 2];
  }

  const Device& device_;
  DeviceCommunicator& communicator_;
  DeviceMatrix x_;
  DeviceMatrix residual_;
  DeviceMatrix normed_;
  DeviceMatrix empty_;
  Tensor norm_;
};

void run(int size) {
  DeviceCommunicators communicators = local_communicators(size);
  on_ranks(communicators, {}, [&](const Device& device, DeviceCommunicator& communicator) {
    for (const int64_t rows : {1, 2, 4, 8, 16, 32}) {
      Bench bench(device, communicator, rows);
      const double empty = bench.empty();
      const double plain = bench.all_reduce() - empty;
      const double folded = bench.folded() - empty;
      const double separate = bench.separate() - empty;
      if (communicator.rank() != 0) continue;
      const double bytes = static_cast<double>(rows * kWidth) * 2;
      const double algbw = bytes / (plain * 1e-6) / 1e9;
      std::printf("%5d %9.0f %9lld %8s %6s %8.2f %8.2f %8.2f %10.2f %10.2f\n", size, bytes, static_cast<long long>(rows * kWidth), "bfloat16",
                  "sum", plain, algbw, algbw * 2 * (size - 1) / size, folded, separate);
    }
  });
}

}  // namespace
}  // namespace heddle::test

int main() {
  std::puts("virtual ranks on one GPU; times are beyond an empty kernel, medians, in a graph");
  std::puts("ranks      size     count     type  redop  time us algbw GB/s busbw GB/s  folded us  separate us");
  for (const int size : {2, 4, 8}) heddle::test::run(size);
  return 0;
}
