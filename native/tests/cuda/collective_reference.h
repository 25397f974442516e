// What collectives among GPUs are compared with, and the graph in which ranks replay them together.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "rank_threads.h"

namespace heddle::test {

// The values of a rank, the same whoever asks.
inline std::vector<float> values_of(int rank, int64_t count, DType dtype, uint64_t seed) {
  Random random(seed * 1000 + static_cast<uint64_t>(rank));
  return as_held(random.uniform_vector(static_cast<size_t>(count)), dtype);
}

// The sum of `parts` from `begin` to `end` as a tree that is written out: the greatest power of two below their number, then the rest.
inline std::vector<float> tree_of(const std::vector<std::vector<float>>& parts, size_t begin, size_t end) {
  if (end - begin == 1) return parts[begin];
  size_t first = 1;
  while (2 * first < end - begin) first *= 2;
  std::vector<float> sum = tree_of(parts, begin, begin + first);
  const std::vector<float> second = tree_of(parts, begin + first, end);
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += second[i];
  return sum;
}

// In float32 and in the order of the tree: the bits that every rank must get, before they are rounded.
inline std::vector<float> sum_of(int size, int64_t count, DType dtype, uint64_t seed) {
  std::vector<std::vector<float>> parts;
  for (int rank = 0; rank < size; ++rank) parts.push_back(values_of(rank, count, dtype, seed));
  return tree_of(parts, 0, parts.size());
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
