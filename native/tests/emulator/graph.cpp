// Stream capture and graphs: what was submitted while a stream was captured, run again at each launch in the order of its submission.
#include <algorithm>

#include "host_state.h"

namespace heddle::emulator {
namespace {

// Captures under way, each known to the thread that began it and, in global mode, to all.
struct Captures {
  std::mutex mutex;
  std::vector<std::shared_ptr<Capture>> active;
};
Captures& captures() {
  static auto* all = new Captures();  // used until the process ends
  return *all;
}

thread_local cudaStreamCaptureMode mode_of_thread = cudaStreamCaptureModeGlobal;

bool forbids(const Capture& capture) {
  if (mode_of_thread == cudaStreamCaptureModeRelaxed) return false;
  const bool own = capture.thread == std::this_thread::get_id();
  return own ? capture.mode != cudaStreamCaptureModeRelaxed
             : capture.mode == cudaStreamCaptureModeGlobal && mode_of_thread == cudaStreamCaptureModeGlobal;
}

cudaError_t run_all(const WorkList& list) {
  for (const Work& work : list) {
    if (const cudaError_t error = work.run()) return error;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t expect_no_capture() {
  const std::lock_guard lock(captures().mutex);
  cudaError_t result = cudaSuccess;
  for (const auto& capture : captures().active) {
    if (!forbids(*capture)) continue;
    capture->invalid = true;
    result = cudaErrorStreamCaptureUnsupported;
  }
  return result;
}

cudaError_t expect_not_captured(CUstream_st& stream) {
  if (!stream.capture) return expect_no_capture();
  stream.capture->invalid = true;
  return cudaErrorStreamCaptureUnsupported;
}

}  // namespace heddle::emulator

using namespace heddle::emulator;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return api([&] {
    CUstream_st* stream = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (!handle) return cudaErrorStreamCaptureUnsupported;  // the legacy default stream
    if (stream->capture) return cudaErrorIllegalState;
    auto capture = std::make_shared<Capture>();
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    capture->origin = stream;
    stream->join(capture);
    ++totals().graph_captures;
    const std::lock_guard lock(captures().mutex);
    captures().active.push_back(std::move(capture));
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  return api([&] {
    *graph = nullptr;
    CUstream_st* stream = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    const std::shared_ptr<Capture> capture = stream->capture;
    if (!capture) return cudaErrorIllegalState;
    if (capture->origin != stream) return cudaErrorStreamCaptureUnmatched;
    if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id()) {
      return cudaErrorStreamCaptureWrongThread;
    }
    for (CUstream_st* member : capture->streams) {
      if (!streams().has(member)) continue;            // destroyed meanwhile
      member->capture = nullptr;
      member->capturing = false;
    }
    {
      const std::lock_guard lock(captures().mutex);
      std::erase(captures().active, capture);
    }
    if (capture->invalid) return cudaErrorStreamCaptureInvalidated;
    if (!capture->forked.empty()) return cudaErrorStreamCaptureUnjoined;
    *graph = graphs().add(std::make_shared<CUgraph_st>(std::move(capture->work)));
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  return api([&] {
    CUstream_st* stream = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    *status = !stream->capture           ? cudaStreamCaptureStatusNone
              : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                         : cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, mode_of_thread);
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  return api([&] {
    if (!graphs().has(graph)) return cudaErrorInvalidResourceHandle;
    if (nodes) std::fill_n(nodes, *count, nullptr);
    *count = graph->work.size();
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  return api([&] {
    *exec = nullptr;
    if (!graphs().has(graph)) return cudaErrorInvalidResourceHandle;
    *exec = graph_execs().add(std::make_shared<CUgraphExec_st>(std::make_shared<const WorkList>(graph->work)));
    return cudaSuccess;
  });
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiate(exec, graph, flags);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream) {
  return api([&] {
    if (!graph_execs().has(exec) || !find_stream(stream)) return cudaErrorInvalidResourceHandle;
    return find_stream(stream)->capture ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return api([&] {
    if (!graph_execs().has(exec)) return cudaErrorInvalidResourceHandle;
    ++totals().graph_launches;
    return submit(stream, [work = exec->work] { return run_all(*work); });
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return remember(graphs().take(graph) ? broken(current_device()) : cudaErrorInvalidResourceHandle);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  return remember(graph_execs().take(exec) ? broken(current_device()) : cudaErrorInvalidResourceHandle);
}

}  // extern "C"
