// Times work on a GPU's stream: as a captured graph, so that the host's part does not show, and as the median of many replays.
#pragma once
#include <algorithm>
#include <functional>
#include <vector>

#include "cuda/device.h"

namespace heddle::test {

inline cuda::Event timing_event() {
  cudaEvent_t event = nullptr;
  cuda::check(cudaEventCreate(&event), "timing");
  return cuda::Event(event);
}

// Seconds of one `body`, which submits to the device's stream and has run once before.
inline double median_seconds(const cuda::Device& device, int replays, const std::function<void()>& body) {
  cudaGraph_t captured = nullptr;
  cuda::check(cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal), "timing");
  body();
  cuda::check(cudaStreamEndCapture(device.stream(), &captured), "timing");
  const cuda::Graph graph(captured);
  cudaGraphExec_t instance = nullptr;
  cuda::check(cudaGraphInstantiate(&instance, graph.get(), 0), "timing");
  const cuda::GraphExec exec(instance);
  const cuda::Event begin = timing_event();
  const cuda::Event end = timing_event();
  std::vector<double> seconds;
  for (int i = 0; i < replays + 2; ++i) {
    cuda::check(cudaEventRecord(begin.get(), device.stream()), "timing");
    cuda::check(cudaGraphLaunch(exec.get(), device.stream()), "timing");
    cuda::check(cudaEventRecord(end.get(), device.stream()), "timing");
    cuda::check(cudaEventSynchronize(end.get()), "timing");
    float milliseconds = 0;
    cuda::check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "timing");
    if (i >= 2) seconds.push_back(milliseconds * 1e-3);
  }
  std::nth_element(seconds.begin(), seconds.begin() + replays / 2, seconds.end());
  return seconds[static_cast<size_t>(replays / 2)];
}

}  // namespace heddle::test
