// What collectives among GPUs are compared with, and the graph in which ranks replay them together.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "../tree_sum.h"
#include "rank_threads.h"

namespace heddle::test {

// The values of a rank, the same whoever asks.
inline std::vector<float> values_of(int rank, int64_t count, DType dtype, uint64_t seed) {
  Random random(seed * 1000 + static_cast<uint64_t>(rank));
  return as_held(random.uniform_vector(static_cast<size_t>(count)), dtype);
}

// In float32 and in the order of the tree: the bits that every rank must get, before they are rounded.
inline std::vector<float> sum_of(int size, int64_t count, DType dtype, uint64_t seed) {
  std::vector<std::vector<float>> parts;
  for (int rank = 0; rank < size; ++rank) parts.push_back(values_of(rank, count, dtype, seed));
  std::vector<float> sum(static_cast<size_t>(count));
  std::vector<float> terms(parts.size());
  for (size_t i = 0; i < sum.size(); ++i) {
    for (size_t rank = 0; rank < parts.size(); ++rank) terms[rank] = parts[rank][i];
    sum[i] = tree_sum(terms);
  }
  return sum;
}

inline void check_equal(const std::vector<float>& actual, const std::vector<float>& expected, const std::string& what) {
  if (!check(actual.size() == expected.size(), what, ": expected ", expected.size(), " elements, got ", actual.size())) return;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (!check(actual[i] == expected[i], what, ": element ", i, ": expected ", expected[i], ", got ", actual[i])) return;
  }
}

class CapturedGraph {
 public:
  CapturedGraph(const cuda::Device& device, cuda::DeviceCommunicator& communicator, const std::function<void()>& body) : device_(device) {
    cuda::check(cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal), "capture");
    body();
    cudaGraph_t graph = nullptr;
    cuda::check(cudaStreamEndCapture(device.stream(), &graph), "capture");
    const cuda::Graph owned(graph);
    cudaGraphExec_t exec = nullptr;
    cuda::check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    exec_ = cuda::GraphExec(exec);
    cuda::check(cudaGraphUpload(exec_.get(), device.stream()), "upload");
    wait_for(device);
    communicator.barrier();                           // a first launch while a peer still prepares its own would hang
  }
  void launch() const { cuda::check(cudaGraphLaunch(exec_.get(), device_.stream()), "launch"); }

 private:
  const cuda::Device& device_;
  cuda::GraphExec exec_;
};

}  // namespace heddle::test
