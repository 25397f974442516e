// Collectives of a rank over NCCL, submitted to the rank's stream.
// Rule: the handle is aborted or destroyed once, and not while a call has it, since abort comes from any thread; but a call that does not
// return, which waits in the library for a peer, is ended by the abort.
#include "comm/nccl/nccl.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
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

// Calls only submit. One that takes so long is stuck.
constexpr std::chrono::milliseconds kLongestCall{1000};

// Of all ranks' parts at once, where they are gathered to be added.
constexpr size_t kGatheredBytes = size_t{64} << 20;

// From here on symmetric windows; before, and where a window fails, memory can be registered on each rank for itself.
constexpr int kWindowVersion = 22703;

// Memory of ncclMemAlloc, which ncclMemFree takes back. There is one library in a process.
std::atomic<const NcclTable*> memory_library{nullptr};
void release_memory(void* data, size_t) { (void)memory_library.load()->ncclMemFree(data); }

class Nccl final : public cuda::DeviceCommunicator {
 public:
  Nccl(const NcclTable& table, std::shared_ptr<Communicator> host, const NcclNote& note, bool reproducible)
      : table_(table), host_(std::move(host)), note_(note), reproducible_(reproducible) {}
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
    if (reproducible_) return add_gathered(x);
    const auto count = static_cast<size_t>(x.rows * x.width);
    call("all-reduce", [&](nvabi::NcclComm handle) {
      return table_.ncclAllReduce(x.data, x.data, count, type_of(x.dtype), nvabi::ncclSum, handle, device().stream());
    });
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
    call("send-receive", [&](nvabi::NcclComm handle) {
      if (const int status = table_.ncclGroupStart()) return status;
      const int sent = table_.ncclSend(x.data, count, type_of(x.dtype), to, handle, device().stream());
      const int received = table_.ncclRecv(y.data, count, type_of(y.dtype), from, handle, device().stream());
      const int ended = table_.ncclGroupEnd();        // whatever came before: a group that stays open swallows all that follows
      return sent ? sent : received ? received : ended;
    });
  }

  void gather(const void* mine, size_t bytes, void* all) override {
    call("all-gather", [&](nvabi::NcclComm handle) { return table_.ncclAllGather(mine, all, bytes, nvabi::ncclInt8, handle, device().stream()); });
  }

  Buffer allocate(const Device& device, size_t bytes, const char* what) override {
    if (size() == 1 || !table_.ncclMemAlloc || !table_.ncclMemFree) return device.allocate(bytes, what);
    void* data = nullptr;
    if (table_.ncclMemAlloc(&data, bytes) != nvabi::ncclSuccess) {
      (void)cudaGetLastError();
      return device.allocate(bytes, what);
    }
    memory_library.store(&table_);
    windows_fit_.insert(data);
    return Buffer(data, bytes, release_memory);
  }

  void register_memory(const Buffer& memory, uint64_t layout) override {
    if (size() == 1) return;
    Registration made;
    const std::string why_not = register_window(memory, layout, made);
    if (!why_not.empty()) register_alone(memory, why_not, made);
    if (made.window || made.handle) registrations_[memory.data()] = made;
  }

  void forget_memory(const Buffer& memory) noexcept override {
    windows_fit_.erase(memory.data());
    const auto found = registrations_.find(memory.data());
    if (found == registrations_.end()) return;
    withdraw(found->second);
    registrations_.erase(found);
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
    std::unique_lock lock(mutex_);
    idle_.wait_for(lock, kLongestCall, [&] { return users_ == 0; });
    abort_handle();
  }

 private:
  // The handle for one call, during which no abort takes it away.
  class Use {
   public:
    explicit Use(Nccl& communicator) : communicator_(communicator) {
      const std::lock_guard lock(communicator.mutex_);
      if (communicator.aborted_.load(std::memory_order_acquire)) return;
      handle_ = communicator.handle_;
      if (handle_) ++communicator.users_;
    }
    ~Use() {
      if (!handle_) return;
      const std::lock_guard lock(communicator_.mutex_);
      if (--communicator_.users_ == 0) communicator_.idle_.notify_all();
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    nvabi::NcclComm handle() const { return handle_; }  // null: aborted, or ended

   private:
    Nccl& communicator_;
    nvabi::NcclComm handle_ = nullptr;
  };

  // Gives the call's status, or ncclSuccess where the communicator has ended.
  template <class Body>
  int attempt(const Body& body) {
    const Use use(*this);
    return use.handle() ? body(use.handle()) : static_cast<int>(nvabi::ncclSuccess);
  }

  template <class Body>
  void call(const std::string& what, const Body& body) {
    bool open = false;
    const int status = attempt([&](nvabi::NcclComm handle) {
      open = true;
      return body(handle);
    });
    if (aborted_.load(std::memory_order_acquire)) barrier();  // throws with the reason of the abort
    if (!open) throw Error(ErrorCode::collective_failed, "NCCL: expected an open communicator, got one that has ended");
    expect(status, what);
  }

  // ---- memory that the library reaches without copies of its own ----

  struct Registration {
    nvabi::NcclWindow window = nullptr;
    void* handle = nullptr;
  };

  // Collective, with one outcome on all ranks. Why it did not work; empty: it did.
  std::string register_window(const Buffer& memory, uint64_t layout, Registration& made) {
    struct Offer {
      uint64_t bytes, layout, able;
      bool operator==(const Offer&) const = default;
    };
    const bool known = table_.ncclCommWindowRegister && table_.ncclCommWindowDeregister && table_.version >= kWindowVersion;
    const Offer mine = {memory.bytes(), layout, known && windows_fit_.count(memory.data()) > 0};
    std::vector<Offer> all(static_cast<size_t>(size()));
    host_->exchange(&mine, sizeof(mine), all.data());
    if (!known) return "this version has no windows";
    if (std::any_of(all.begin(), all.end(), [](const Offer& one) { return !one.able; })) return "memory that is not of ncclMemAlloc";
    if (std::any_of(all.begin(), all.end(), [&](const Offer& one) { return one != mine; })) return "memory that differs from rank to rank";
    const int status = attempt([&](nvabi::NcclComm handle) {
      return table_.ncclCommWindowRegister(handle, memory.data(), memory.bytes(), &made.window, nvabi::kNcclWindowSymmetric);
    });
    const int outcome = status != nvabi::ncclSuccess ? status : made.window ? 0 : -1;  // -1: these GPUs cannot
    std::vector<int> outcomes(static_cast<size_t>(size()));
    host_->exchange(&outcome, sizeof(outcome), outcomes.data());
    const auto bad = std::find_if(outcomes.begin(), outcomes.end(), [](int one) { return one != 0; });
    if (bad == outcomes.end()) return "";
    withdraw(made);
    return *bad < 0 ? "these GPUs have no symmetric memory" : std::string("ncclCommWindowRegister: ") + table_.ncclGetErrorString(*bad);
  }

  // For this rank alone: then NCCL decides in each collective what it can make of it.
  void register_alone(const Buffer& memory, const std::string& why_no_window, Registration& made) {
    std::string text = "no symmetric windows: " + why_no_window;
    if (!table_.ncclCommRegister || !table_.ncclCommDeregister) {
      text += "; nor registered buffers: this version has none";
    } else {
      const int status = attempt(
          [&](nvabi::NcclComm handle) { return table_.ncclCommRegister(handle, memory.data(), memory.bytes(), &made.handle); });
      if (status != nvabi::ncclSuccess) {
        made.handle = nullptr;
        text += std::string("; nor registered buffers: ncclCommRegister: ") + table_.ncclGetErrorString(status);
      }
    }
    (void)cudaGetLastError();
    if (note_) note_(text);
  }

  void withdraw(Registration& made) noexcept {
    (void)attempt([&](nvabi::NcclComm handle) {
      if (made.window) (void)table_.ncclCommWindowDeregister(handle, made.window);
      if (made.handle) (void)table_.ncclCommDeregister(handle, made.handle);
      return 0;
    });
    made = {};
  }

  // Refused here with the reason; NCCL itself would say "invalid usage".
  void expect_distinct_gpus(const Device& device) {
    const int mine = device.ordinal();
    std::vector<int> all(static_cast<size_t>(size()));
    host_->exchange(&mine, sizeof(mine), all.data());
    if (std::count(all.begin(), all.end(), mine) == 1) return;
    throw Error(ErrorCode::invalid_argument, "openGroup: NCCL expects one rank per GPU, got several on GPU " + std::to_string(mine) +
                                                 "; use communicator 'local' for ranks that share a GPU");
  }

  // Gathered as bits, some at a time, and added on the device.
  void add_gathered(View x) {
    const auto ranks = static_cast<size_t>(size());
    const auto at_once = static_cast<int64_t>(kGatheredBytes / ranks / size_of(x.dtype));
    const int64_t count = x.rows * x.width;
    for (int64_t first = 0; first < count; first += at_once) {
      View part{static_cast<char*>(x.data) + static_cast<size_t>(first) * size_of(x.dtype), x.dtype, 1, std::min(at_once, count - first)};
      const size_t bytes = static_cast<size_t>(part.width) * size_of(x.dtype);
      void* parts = device().scratch(cuda::Scratch::gather, ranks * bytes);
      gather(part.data, bytes, parts);
      cuda::tree_sum(device(), parts, size(), part);
    }
  }

  void scatter_sums(const void* x, void* y, size_t count, DType dtype) {
    call("reduce-scatter", [&](nvabi::NcclComm handle) {
      return table_.ncclReduceScatter(x, y, count, type_of(dtype), nvabi::ncclSum, handle, device().stream());
    });
  }

  const Device& device() const {
    if (!device_) throw Error(ErrorCode::collective_failed, "NCCL: expected to be attached to a device, got a call before that");
    return *device_;
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
  const NcclNote note_;
  const bool reproducible_;
  const Device* device_ = nullptr;
  std::set<const void*> windows_fit_;                 // of ncclMemAlloc
  std::map<const void*, Registration> registrations_;
  std::mutex mutex_;
  std::condition_variable idle_;
  int users_ = 0;                                     // calls that have the handle
  nvabi::NcclComm handle_ = nullptr;
  std::atomic<bool> aborted_{false};
};

}  // namespace

std::vector<std::unique_ptr<cuda::DeviceCommunicator>> create_nccl(const NcclTable& table, std::vector<std::shared_ptr<Communicator>> host,
                                                                   const NcclNote& note, bool reproducible) {
  std::vector<std::unique_ptr<cuda::DeviceCommunicator>> made;
  for (auto& communicator : host) made.push_back(std::make_unique<Nccl>(table, std::move(communicator), note, reproducible));
  return made;
}

}  // namespace heddle::comm
