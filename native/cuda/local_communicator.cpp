#include "cuda/local_communicator.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/error.h"

namespace heddle::cuda {

namespace {

// Up to here every rank sends all it has to every other; above, ranks share the summing. Where one of the sizes ends in favour of the
// other depends on the number of ranks; the published tables cross between 256 and 512 KB.
constexpr size_t kOneShotBytes = 256 * 1024;
// From here on the library for large messages is faster, where there is one.
constexpr size_t kLargeBytes = 8 * 1024 * 1024;

// Ranks that share a GPU: it has as many queues, and a kernel must not be stuck behind one that waits for it.
constexpr int64_t kMostSharing = 32;

size_t bytes_of(const View& view) { return static_cast<size_t>(view.rows * view.width) * size_of(view.dtype); }

[[noreturn]] void unreachable_gpu(int from, int to) {
  throw Error(ErrorCode::unavailable, "openGroup: expected GPUs that reach each other's memory, got GPU " + std::to_string(from) +
                                          " without access to GPU " + std::to_string(to) + "; use communicator 'nccl'");
}

void expect_at_most(int64_t most, int64_t got, const char* what) {
  if (got <= most) return;
  throw Error(ErrorCode::invalid_argument,
              "openGroup: expected at most " + std::to_string(most) + " ranks " + what + ", got " + std::to_string(got));
}

}  // namespace

CollectiveSignals* LocalHub::signals() {
  const std::lock_guard lock(mutex_);
  if (CollectiveSignals* known = signals_.load(std::memory_order_relaxed)) return known;
  words_ = pinned_memory(sizeof(CollectiveSignals), true);
  auto* made = new (words_.data()) CollectiveSignals{};
  signals_.store(made, std::memory_order_release);
  if (aborted_.load(std::memory_order_seq_cst)) std::atomic_ref(made->aborted).store(1, std::memory_order_release);
  return made;
}

void LocalHub::abort() noexcept {
  aborted_.store(true, std::memory_order_seq_cst);
  CollectiveSignals* known = signals_.load(std::memory_order_seq_cst);
  if (known) std::atomic_ref(known->aborted).store(1, std::memory_order_release);
}

LocalDeviceCommunicator::LocalDeviceCommunicator(std::shared_ptr<LocalHub> hub, std::shared_ptr<Communicator> host,
                                                 std::unique_ptr<DeviceCommunicator> large, const LocalDeviceOptions& options)
    : hub_(std::move(hub)), host_(std::move(host)), large_(std::move(large)), options_(options) {
  peers_.rank = host_->rank();
  peers_.size = host_->size();
}

void LocalDeviceCommunicator::attach(const Device& device) {
  device_ = &device;
  const std::vector<Neighbour> all = meet(device);
  reach(device, all);
  settle_blocks(all);
  const StagingLayout layout{peers_.size, peers_.blocks};
  Buffer staging = device.allocate(layout.bytes(), "the communicator's staging memory");
  check(cudaMemsetAsync(staging.data(), 0, layout.bytes(), device.stream()), "openGroup: clearing staging memory");
  check(cudaStreamSynchronize(device.stream()), "openGroup: clearing staging memory");
  hub_->keep(rank(), std::move(staging));
  peers_.signals = hub_->signals();
  peers_.timeout_nanoseconds = static_cast<uint64_t>(std::chrono::nanoseconds(options_.timeout).count());
  barrier();
  for (int peer = 0; peer < size(); ++peer) peers_.staging[peer] = static_cast<unsigned char*>(hub_->staging(peer));
  if (large_) large_->attach(device);
}

std::vector<LocalDeviceCommunicator::Neighbour> LocalDeviceCommunicator::meet(const Device& device) {
  const Neighbour mine{device.ordinal(), device.sm_count()};
  std::vector<Neighbour> all(static_cast<size_t>(size()));
  host_->exchange(&mine, sizeof(mine), all.data());
  return all;
}

void LocalDeviceCommunicator::reach(const Device& device, const std::vector<Neighbour>& all) {
  for (const Neighbour& peer : all) {
    if (peer.ordinal == device.ordinal()) continue;
    int reachable = 0;
    check(cudaDeviceCanAccessPeer(&reachable, device.ordinal(), peer.ordinal), "openGroup: peer access");
    if (!reachable) unreachable_gpu(device.ordinal(), peer.ordinal);
    const cudaError_t status = cudaDeviceEnablePeerAccess(peer.ordinal, 0);
    if (status == cudaErrorPeerAccessAlreadyEnabled) {
      (void)cudaGetLastError();                       // another group has been here
    } else {
      check(status, "openGroup: peer access");
    }
  }
}

// Blocks that wait for peers must all be on the chip, those of every rank that shares it, with half of it left for kernels that overlap.
void LocalDeviceCommunicator::settle_blocks(const std::vector<Neighbour>& all) {
  expect_at_most(kMaxPeers, size(), "that reach each other's memory");
  int blocks = kMaxCollectiveBlocks;
  for (const Neighbour& gpu : all) {
    const auto sharing = std::count_if(all.begin(), all.end(), [&](const Neighbour& other) { return other.ordinal == gpu.ordinal; });
    expect_at_most(kMostSharing, sharing, "on one GPU");
    peers_.share_gpu = peers_.share_gpu || sharing > 1;
    blocks = std::min(blocks, std::max(1, gpu.sm_count / (2 * static_cast<int>(sharing))));
  }
  peers_.blocks = blocks;
}

const Device& LocalDeviceCommunicator::device() const {
  if (!device_) throw Error(ErrorCode::collective_failed, "communicator: expected to be attached to a device, got a call before that");
  return *device_;
}

// Once all ranks have submitted their kernels these end by themselves, whatever a rank does next.
template <class Submit>
void LocalDeviceCommunicator::together(const Submit& submit) {
  const bool meets = lockstep_ && peers_.share_gpu;
  if (meets) barrier();
  submit();
  if (meets) barrier();
}

bool LocalDeviceCommunicator::fuses(View x, const AllReduceEpilogue& epilogue) const {
  const size_t row_bytes = static_cast<size_t>(x.width) * size_of(x.dtype);
  return bytes_of(x) <= kOneShotBytes && (!epilogue.norm_weight || row_bytes <= kUnitBytes);
}

void LocalDeviceCommunicator::all_reduce(View x) {
  if (size() == 1) return;
  const size_t bytes = bytes_of(x);
  if (bytes <= kOneShotBytes) return together([&] { all_reduce_one_shot(device(), peers_, x, {}); });
  if (large_ && !options_.reproducible && bytes >= kLargeBytes) return large_->all_reduce(x);
  together([&] { all_reduce_two_shot(device(), peers_, x); });
}

void LocalDeviceCommunicator::all_reduce_fused(View x, const AllReduceEpilogue& epilogue) {
  together([&] { all_reduce_one_shot(device(), peers_, x, epilogue); });
}

void LocalDeviceCommunicator::all_gather(View x, const std::vector<int64_t>& widths, View y) {
  if (large_ && bytes_of(y) >= kLargeBytes) return large_->all_gather(x, widths, y);
  if (is_flat(y, widths)) return gather(x.data, bytes_of(x), y.data);
  const auto most = static_cast<size_t>(*std::max_element(widths.begin(), widths.end()));
  const size_t part = (static_cast<size_t>(x.rows) * most * size_of(x.dtype) + 15) / 16 * 16;
  void* parts = device().scratch(Scratch::gather, part * static_cast<size_t>(size()));
  together([&] { gather_bytes(device(), peers_, x.data, bytes_of(x), part, parts); });
  interleave(device(), parts, part, widths, y);
}

void LocalDeviceCommunicator::reduce_scatter(View x, const std::vector<int64_t>& widths, View y) {
  if (size() == 1) return copy_bytes(device(), x.data, bytes_of(x), y.data);
  if (large_ && !options_.reproducible && bytes_of(x) >= kLargeBytes) return large_->reduce_scatter(x, widths, y);
  Parts parts;
  const void* data = x.data;
  if (x.rows == 1) {
    for (int rank = 1; rank < size(); ++rank) parts.begin[rank] = parts.begin[rank - 1] + widths[static_cast<size_t>(rank) - 1];
  } else {
    const auto most = static_cast<size_t>(*std::max_element(widths.begin(), widths.end()));
    const size_t part = (static_cast<size_t>(x.rows) * most * size_of(x.dtype) + 15) / 16 * 16;
    void* separated = device().scratch(Scratch::gather, part * static_cast<size_t>(size()));
    separate(device(), x, widths, separated, part);
    for (int rank = 0; rank < size(); ++rank) parts.begin[rank] = rank * static_cast<int64_t>(part / size_of(x.dtype));
    data = separated;
  }
  for (int rank = 0; rank < size(); ++rank) parts.length[rank] = x.rows * widths[static_cast<size_t>(rank)];
  together([&] { cuda::reduce_scatter(device(), peers_, data, parts, y); });
}

void LocalDeviceCommunicator::send_receive(View x, int to, View y, int from) {
  if (size() == 1) return copy_bytes(device(), x.data, bytes_of(x), y.data);
  if (large_ && bytes_of(x) >= kLargeBytes) return large_->send_receive(x, to, y, from);
  together([&] { cuda::send_receive(device(), peers_, x, to, y, from); });
}

void LocalDeviceCommunicator::gather(const void* mine, size_t bytes, void* all) {
  together([&] { gather_bytes(device(), peers_, mine, bytes, bytes, all); });
}

void LocalDeviceCommunicator::exchange(const void* mine, size_t bytes, void* all) { host_->exchange(mine, bytes, all); }

// Own kernels read and write any memory of a peer's GPU alike.
Buffer LocalDeviceCommunicator::allocate(const Device& device, size_t bytes, const char* what) {
  return large_ ? large_->allocate(device, bytes, what) : device.allocate(bytes, what);
}
void LocalDeviceCommunicator::register_memory(const Buffer& memory, uint64_t layout) {
  if (large_) large_->register_memory(memory, layout);
}
void LocalDeviceCommunicator::forget_memory(const Buffer& memory) noexcept {
  if (large_) large_->forget_memory(memory);
}

void LocalDeviceCommunicator::expect_healthy() {
  if (large_) large_->expect_healthy();
  if (!peers_.signals) return;
  CollectiveSignals::Status& status = peers_.signals->ranks[rank()];
  const uint32_t failure = std::atomic_ref(status.failure).load(std::memory_order_acquire);
  if (failure == kTimedOut) {
    throw Error(ErrorCode::timeout, "all-reduce: expected every rank within " + std::to_string(options_.timeout.count()) + " ms, got none of rank " +
                                        std::to_string(std::atomic_ref(status.missing).load(std::memory_order_acquire)));
  }
  if (failure == kAborted || hub_->aborted()) barrier();  // throws with the reason of the abort
}

void LocalDeviceCommunicator::barrier() {
  const char here = 0;
  std::vector<char> all(static_cast<size_t>(size()));
  host_->exchange(&here, 1, all.data());
}

void LocalDeviceCommunicator::abort(const std::string& reason) noexcept {
  host_->abort(reason);                               // first: whoever sees the word finds the reason
  hub_->abort();
  if (large_) large_->abort(reason);
}

std::vector<std::unique_ptr<DeviceCommunicator>> create_local(std::vector<std::shared_ptr<Communicator>> host,
                                                              std::vector<std::unique_ptr<DeviceCommunicator>> large,
                                                              const LocalDeviceOptions& options) {
  const auto hub = std::make_shared<LocalHub>(static_cast<int>(host.size()));
  std::vector<std::unique_ptr<DeviceCommunicator>> made;
  for (size_t rank = 0; rank < host.size(); ++rank) {
    auto library = rank < large.size() ? std::move(large[rank]) : nullptr;
    made.push_back(std::make_unique<LocalDeviceCommunicator>(hub, std::move(host[rank]), std::move(library), options));
  }
  return made;
}

}  // namespace heddle::cuda
