// Collectives of a rank over NCCL, submitted to the rank's stream.
// Rule: the handle is aborted or destroyed once, under a mutex, since abort comes from any thread; a call in flight ends by the abort.
#include "comm/nccl/nccl.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <string>
#include <utility>

#include "core/error.h"
#include "cuda/all_reduce.h"

namespace heddle::comm {

namespace {

using cuda::Device;
using cuda::NcclTable;
namespace nvabi = cuda::nvabi;

int type_of(DType dtype) {
  switch (dtype) {
    case DType::float32: return nvabi::ncclFloat32;
    case DType::bfloat16: return nvabi::ncclBfloat16;
    case DType::float16: return nvabi::ncclFloat16;
  }
  return nvabi::ncclFloat32;
}

class Nccl final : public cuda::DeviceCommunicator {
 public:
  Nccl(const NcclTable& table, std::shared_ptr<Communicator> host) : table_(table), host_(std::move(host)) {}
  ~Nccl() override { end(); }

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }

  void attach(const Device& device) override {
    device_ = &device;
    expect_distinct_gpus(device);
    nvabi::NcclId id = {};
    std::vector<nvabi::NcclId> all(static_cast<size_t>(size()));
    const int status = rank() == 0 ? table_.ncclGetUniqueId(&id) : nvabi::ncclSuccess;
    host_->exchange(&id, sizeof(id), all.data());     // first: a rank that fails must not leave the others in here
    expect(status, "getting an id");
    nvabi::NcclComm made = nullptr;
    expect(table_.ncclCommInitRank(&made, size(), all.front(), rank()), "starting rank " + std::to_string(rank()));
    const std::lock_guard lock(mutex_);
    handle_ = made;
    if (aborted_) abort_handle();
  }

  bool fuses(View, const cuda::AllReduceEpilogue&) const override { return false; }
  void all_reduce_fused(View, const cuda::AllReduceEpilogue&) override {
    throw Error(ErrorCode::collective_failed, "NCCL: expected a plain all-reduce, got one with an epilogue");
  }

  void all_reduce(View x) override {
    if (size() == 1) return;
    const auto count = static_cast<size_t>(x.rows * x.width);
    expect(table_.ncclAllReduce(x.data, x.data, count, type_of(x.dtype), nvabi::ncclSum, handle(), device().stream()), "all-reduce");
  }

  void all_gather(View x, const std::vector<int64_t>& widths, View y) override {
    if (cuda::is_flat(y, widths)) return gather(x.data, static_cast<size_t>(x.width) * size_of(x.dtype), y.data);
    const auto most = static_cast<size_t>(*std::max_element(widths.begin(), widths.end()));
    const size_t element = size_of(x.dtype);
    const size_t part = static_cast<size_t>(x.rows) * most * element;
    // every rank's part in its place first, since NCCL sends as much of each
    auto* parts = static_cast<char*>(device().scratch(cuda::Scratch::gather, part * static_cast<size_t>(size())));
    char* mine = parts + static_cast<size_t>(rank()) * part;
    const size_t bytes = static_cast<size_t>(x.rows * x.width) * element;
    cuda::check(cudaMemcpyAsync(mine, x.data, bytes, cudaMemcpyDeviceToDevice, device().stream()), "all_gather");
    gather(mine, part, parts);
    cuda::interleave(device(), parts, part, widths, y);
  }

  // The order of the sum is NCCL's.
  void reduce_scatter(View x, const std::vector<int64_t>& widths, View y) override {
    const auto count = static_cast<size_t>(y.rows * y.width);
    if (size() == 1) return cuda::copy_bytes(device(), x.data, count * size_of(x.dtype), y.data);
    if (cuda::is_flat(x, widths)) return scatter_sums(x.data, y.data, count, x.dtype);
    const auto most = x.rows * *std::max_element(widths.begin(), widths.end());
    const size_t part = static_cast<size_t>(most) * size_of(x.dtype);
    auto* parts = static_cast<char*>(device().scratch(cuda::Scratch::gather, part * static_cast<size_t>(size())));
    char* mine = parts + static_cast<size_t>(rank()) * part;
    cuda::separate(device(), x, widths, parts, part);
    scatter_sums(parts, mine, static_cast<size_t>(most), x.dtype);
    cuda::copy_bytes(device(), mine, count * size_of(y.dtype), y.data);
  }

  void send_receive(View x, int to, View y, int from) override {
    const auto count = static_cast<size_t>(x.rows * x.width);
    if (size() == 1) return cuda::copy_bytes(device(), x.data, count * size_of(x.dtype), y.data);
    nvabi::NcclComm communicator = handle();
    expect(table_.ncclGroupStart(), "send-receive");
    const int sent = table_.ncclSend(x.data, count, type_of(x.dtype), to, communicator, device().stream());
    const int received = table_.ncclRecv(y.data, count, type_of(y.dtype), from, communicator, device().stream());
    const int ended = table_.ncclGroupEnd();          // whatever came before: a group that stays open swallows all that follows
    for (const int status : {sent, received, ended}) expect(status, "send-receive");
  }

  void gather(const void* mine, size_t bytes, void* all) override {
    expect(table_.ncclAllGather(mine, all, bytes, nvabi::ncclInt8, handle(), device().stream()), "all-gather");
  }

  void exchange(const void* mine, size_t bytes, void* all) override { host_->exchange(mine, bytes, all); }

  void expect_healthy() override {
    if (aborted_.load(std::memory_order_acquire)) barrier();  // throws with the reason of the abort
    int status = nvabi::ncclSuccess;
    {
      const std::lock_guard lock(mutex_);
      if (!handle_) return;
      expect(table_.ncclCommGetAsyncError(handle_, &status), "asking for errors");
    }
    if (status != nvabi::ncclInProgress) expect(status, "a collective");
  }

  void barrier() override {
    const char here = 0;
    std::vector<char> all(static_cast<size_t>(size()));
    host_->exchange(&here, 1, all.data());
  }

  void abort(const std::string& reason) noexcept override {
    host_->abort(reason);                             // first: whoever finds the handle gone finds the reason
    aborted_.store(true, std::memory_order_release);
    const std::lock_guard lock(mutex_);
    abort_handle();
  }

 private:
  // Refused here with the reason; NCCL itself would say "invalid usage".
  void expect_distinct_gpus(const Device& device) {
    const int mine = device.ordinal();
    std::vector<int> all(static_cast<size_t>(size()));
    host_->exchange(&mine, sizeof(mine), all.data());
    if (std::count(all.begin(), all.end(), mine) == 1) return;
    throw Error(ErrorCode::invalid_argument, "openGroup: NCCL expects one rank per GPU, got several on GPU " + std::to_string(mine) +
                                                 "; use communicator 'local' for ranks that share a GPU");
  }

  void scatter_sums(const void* x, void* y, size_t count, DType dtype) {
    expect(table_.ncclReduceScatter(x, y, count, type_of(dtype), nvabi::ncclSum, handle(), device().stream()), "reduce-scatter");
  }

  const Device& device() const {
    if (!device_) throw Error(ErrorCode::collective_failed, "NCCL: expected to be attached to a device, got a call before that");
    return *device_;
  }

  nvabi::NcclComm handle() {
    const std::lock_guard lock(mutex_);
    if (handle_) return handle_;
    barrier();                                        // after an abort this throws with its reason
    throw Error(ErrorCode::collective_failed, "NCCL: expected an open communicator, got one that has ended");
  }

  void expect(int status, const std::string& what) const {
    if (status == nvabi::ncclSuccess || status == nvabi::ncclInProgress) return;
    throw Error(ErrorCode::collective_failed, "NCCL: " + what + " failed: " + table_.ncclGetErrorString(status) + " (" + table_.path + ", " +
                                                  cuda::nccl_version_text(table_.version) + ")");
  }

  // With mutex_ held.
  void abort_handle() noexcept {
    if (!handle_) return;
    (void)table_.ncclCommAbort(handle_);
    handle_ = nullptr;
  }

  void end() noexcept {
    const std::lock_guard lock(mutex_);
    if (!handle_) return;
    (void)table_.ncclCommDestroy(handle_);
    handle_ = nullptr;
  }

  const NcclTable& table_;
  std::shared_ptr<Communicator> host_;
  const Device* device_ = nullptr;
  std::mutex mutex_;
  nvabi::NcclComm handle_ = nullptr;
  std::atomic<bool> aborted_{false};
};

}  // namespace

std::vector<std::unique_ptr<cuda::DeviceCommunicator>> create_nccl(const NcclTable& table, std::vector<std::shared_ptr<Communicator>> host) {
  std::vector<std::unique_ptr<cuda::DeviceCommunicator>> made;
  for (auto& communicator : host) made.push_back(std::make_unique<Nccl>(table, std::move(communicator)));
  return made;
}

}  // namespace heddle::comm
