// NCCL among two processes on one GPU, eager and in a captured graph: the only way to see a real all-reduce of NCCL without two GPUs.
// Each process names another host (NCCL_HOSTID), so NCCL takes its network transport: slow, for correctness alone.
// Last line: "PASS …", "SKIP reason" (status 0) or "FAIL reason" (status 1).
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/error.h"
#include "cuda/dynlib.h"
#include "cuda/runtime.h"

namespace heddle {
namespace {

namespace nvabi = cuda::nvabi;

constexpr int kRanks = 2;
constexpr size_t kCount = 4096;

struct Skip {
  std::string reason;
};

void expect(int status, const cuda::NcclTable& nccl, const char* what) {
  if (status == nvabi::ncclSuccess) return;
  throw Error(ErrorCode::collective_failed, std::string("NCCL: ") + what + ": " + nccl.ncclGetErrorString(status));
}

std::unique_ptr<cuda::NcclTable> open_nccl() {
  std::string text;
  auto nccl = cuda::load_nccl({}, text);
  if (!nccl) throw Skip{text};
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count < 1) throw Skip{"no GPU"};
  return nccl;
}

class RankProcess {
 public:
  RankProcess(int rank, const nvabi::NcclId& id, const cuda::NcclTable& nccl)
      : rank_(rank), nccl_(nccl), memory_((cuda::check(cudaSetDevice(0), "device"), cuda::device_memory(kCount * sizeof(float), "test"))),
        stream_(cuda::make_stream()) {
    expect(nccl.ncclCommInitRank(&comm_, kRanks, id, rank), nccl, "init");
  }
  ~RankProcess() {
    if (comm_) (void)nccl_.ncclCommDestroy(comm_);
  }

  void check_eager() {
    fill(1);
    reduce();
    check_sum(1, "eager");
  }

  void check_graph() {
    cuda::check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "capture");
    reduce();
    cudaGraph_t graph = nullptr;
    cuda::check(cudaStreamEndCapture(stream_.get(), &graph), "capture");
    const cuda::Graph owned(graph);
    cudaGraphExec_t exec = nullptr;
    cuda::check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    const cuda::GraphExec runnable(exec);
    for (int round = 2; round < 5; ++round) {
      fill(round);
      cuda::check(cudaGraphLaunch(exec, stream_.get()), "launch");
      check_sum(round, "graph");
    }
  }

 private:
  static float value(int rank, int round, size_t i) { return static_cast<float>(static_cast<int>(i % 97) * (rank + 1) + round); }

  void fill(int round) {
    std::vector<float> values(kCount);
    for (size_t i = 0; i < kCount; ++i) values[i] = value(rank_, round, i);
    cuda::check(cudaMemcpyAsync(memory_.data(), values.data(), kCount * sizeof(float), cudaMemcpyHostToDevice, stream_.get()), "fill");
    cuda::check(cudaStreamSynchronize(stream_.get()), "fill");
  }
  void reduce() {
    expect(nccl_.ncclAllReduce(memory_.data(), memory_.data(), kCount, nvabi::ncclFloat32, nvabi::ncclSum, comm_, stream_.get()), nccl_, "all-reduce");
  }
  void check_sum(int round, const char* how) {
    std::vector<float> values(kCount);
    cuda::check(cudaMemcpyAsync(values.data(), memory_.data(), kCount * sizeof(float), cudaMemcpyDeviceToHost, stream_.get()), how);
    cuda::check(cudaStreamSynchronize(stream_.get()), how);
    for (size_t i = 0; i < kCount; ++i) {
      const float expected = value(0, round, i) + value(1, round, i);
      if (values[i] == expected) continue;
      throw Error(ErrorCode::collective_failed, std::string(how) + ": element " + std::to_string(i) + ": expected " + std::to_string(expected) +
                                                    ", got " + std::to_string(values[i]));
    }
  }

  int rank_;
  const cuda::NcclTable& nccl_;
  Buffer memory_;
  cuda::Stream stream_;
  nvabi::NcclComm comm_ = nullptr;
};

// The id goes from rank 0 to rank 1 through a pipe that was made before the fork; CUDA and NCCL are touched only after it.
int run_rank(int rank, int pipe_end) {
  try {
    setenv("NCCL_HOSTID", rank == 0 ? "heddle-a" : "heddle-b", 1);
    const auto nccl = open_nccl();
    nvabi::NcclId id = {};
    if (rank == 0) {
      expect(nccl->ncclGetUniqueId(&id), *nccl, "id");
      if (write(pipe_end, &id, sizeof(id)) != sizeof(id)) throw Skip{"the id could not be sent"};
    } else if (read(pipe_end, &id, sizeof(id)) != sizeof(id)) {
      return 3;                                       // rank 0 says why
    }
    RankProcess process(rank, id, *nccl);
    process.check_eager();
    process.check_graph();
    if (rank == 0) std::printf("PASS NCCL %s, two processes on one GPU, eager and in a graph\n", cuda::nccl_version_text(nccl->version).c_str());
    return 0;
  } catch (const Skip& skip) {
    if (rank == 0) std::printf("SKIP %s\n", skip.reason.c_str());
    return 3;
  } catch (const std::exception& error) {
    std::printf("FAIL rank %d: %s\n", rank, error.what());
    return 1;
  }
}

int run() {
  int ends[2];
  if (pipe(ends) != 0) return std::puts("FAIL no pipe"), 1;
  std::fflush(stdout);
  const pid_t child = fork();
  if (child < 0) return std::puts("FAIL no process"), 1;
  if (child == 0) {
    close(ends[1]);
    const int status = run_rank(1, ends[0]);
    std::fflush(stdout);
    _exit(status);
  }
  close(ends[0]);
  const int mine = run_rank(0, ends[1]);
  close(ends[1]);
  int status = 0;
  waitpid(child, &status, 0);
  const int other = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
  if (mine == 0 && other == 0) return 0;
  if (mine == 3) return 0;
  if (mine == 0) std::puts("FAIL rank 1 ended without success");
  return 1;
}

}  // namespace
}  // namespace heddle

int main() { return heddle::run(); }
