// The communicator among ranks of one process that reach each other's GPU memory by pointer; several may share a GPU.
// Rule: what a rank's kernels may touch belongs to the hub, which lives as long as any rank of the group.
#pragma once
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/all_reduce.h"
#include "cuda/device_communicator.h"
#include "cuda/runtime.h"

namespace heddle::cuda {

struct LocalDeviceOptions {
  std::chrono::milliseconds timeout = kCollectiveTimeout;  // of one wait in a kernel; then `timeout`, naming the rank that is missing
  bool reproducible = false;                          // sums are always added here, in the order of core/sum_tree.h
};

// What the ranks share.
class LocalHub {
 public:
  explicit LocalHub(int size) : staging_(static_cast<size_t>(size)) {}

  // Any thread; the words are made by the first rank that attaches.
  CollectiveSignals* signals();
  void abort() noexcept;
  bool aborted() const { return aborted_.load(std::memory_order_acquire); }

  void keep(int rank, Buffer staging) { staging_[static_cast<size_t>(rank)] = std::move(staging); }
  void* staging(int rank) const { return staging_[static_cast<size_t>(rank)].data(); }

 private:
  std::mutex mutex_;
  Buffer words_;
  std::atomic<CollectiveSignals*> signals_{nullptr};
  std::atomic<bool> aborted_{false};
  std::vector<Buffer> staging_;                       // each written by its rank before a host barrier, read by all after it
};

class LocalDeviceCommunicator final : public DeviceCommunicator {
 public:
  LocalDeviceCommunicator(std::shared_ptr<LocalHub> hub, std::shared_ptr<Communicator> host, std::unique_ptr<DeviceCommunicator> large,
                          const LocalDeviceOptions& options);

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  void attach(const Device& device) override;
  bool fuses(View x, const AllReduceEpilogue& epilogue) const override;
  void all_reduce(View x) override;
  void all_reduce_fused(View x, const AllReduceEpilogue& epilogue) override;
  void all_gather(View x, const std::vector<int64_t>& widths, View y) override;
  void reduce_scatter(View x, const std::vector<int64_t>& widths, View y) override;
  void send_receive(View x, int to, View y, int from) override;
  void gather(const void* mine, size_t bytes, void* all) override;
  void exchange(const void* mine, size_t bytes, void* all) override;
  Buffer allocate(const Device& device, size_t bytes, const char* what) override;
  void register_memory(const Buffer& memory, uint64_t layout) override;
  void forget_memory(const Buffer& memory) noexcept override;
  void expect_healthy() override;
  void barrier() override;
  void lockstep(bool on) override { lockstep_ = on; }
  void abort(const std::string& reason) noexcept override;

 private:
  struct Neighbour {                                  // what a rank tells the others of its GPU
    int32_t ordinal;
    int32_t sm_count;
  };
  std::vector<Neighbour> meet(const Device& device);
  void reach(const Device& device, const std::vector<Neighbour>& all);
  void settle_blocks(const std::vector<Neighbour>& all);
  const Device& device() const;
  template <class Submit>
  void together(const Submit& submit);

  std::shared_ptr<LocalHub> hub_;
  std::shared_ptr<Communicator> host_;
  std::unique_ptr<DeviceCommunicator> large_;
  LocalDeviceOptions options_;
  const Device* device_ = nullptr;
  Peers peers_;
  bool lockstep_ = false;
};

// Among threads of this process, on any devices that can reach each other's memory, several ranks on one device included. `host` are
// the ranks' communicators of host memory, for exchange, barrier and abort (shared with `large`). `large`: for messages beyond what own
// kernels do best; may be empty (then own kernels do all).
std::vector<std::unique_ptr<DeviceCommunicator>> create_local(std::vector<std::shared_ptr<Communicator>> host,
                                                              std::vector<std::unique_ptr<DeviceCommunicator>> large,
                                                              const LocalDeviceOptions& options = {});

}  // namespace heddle::cuda
