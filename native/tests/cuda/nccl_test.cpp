// NCCL as a communicator: memory that is registered with it, what becomes of a version that cannot, and aborts while a call is under way.
#include <atomic>
#include <cstdlib>
#include <mutex>

#include "comm/nccl/nccl.h"
#include "rank_threads.h"

namespace heddle::test {
namespace {

using cuda::Device;
using cuda::DeviceCommunicator;
using cuda::NcclTable;
namespace nvabi = cuda::nvabi;

constexpr int kRanks = 2;

// Two GPUs, of the emulator or real, and NCCL or its stand-in.
struct Setting {
  std::unique_ptr<NcclTable> table;
  std::vector<std::string> notes;
  std::mutex mutex;

  Setting() {
    setenv("HEDDLE_EMULATOR_DEVICES", "2", 1);
    std::string text;
    int count = 0;
#if defined(HEDDLE_CUDA_EMULATED)
    if (!std::getenv("HEDDLE_NCCL_LIB")) return;      // not started by scripts/native-tests.js
#endif
    if (cudaGetDeviceCount(&count) == cudaSuccess && count >= kRanks) table = cuda::load_nccl({}, text);
  }
  ~Setting() { unsetenv("HEDDLE_EMULATOR_DEVICES"); }

  DeviceCommunicators communicators() {
    return comm::create_nccl(*table, host_communicators(kRanks), [this](const std::string& note) {
      const std::lock_guard lock(mutex);
      notes.push_back(note);
    });
  }
  void expect_notes(size_t count, const std::string& part, const char* what) {
    check(notes.size() == count, what, ": expected ", count, " notes, got ", notes.size());
    for (const std::string& note : notes) check(note.find(part) != std::string::npos, what, ": expected '", part, "' in: ", note);
  }
};

// Functions of the library that count, and some that misbehave, around the real ones.
struct Counts {
  std::atomic<int> windows{0}, windows_gone{0}, buffers{0}, buffers_gone{0};
} counts;
NcclTable real;

void count_registrations(NcclTable& table) {
  real = table;
  counts.windows = counts.windows_gone = counts.buffers = counts.buffers_gone = 0;
  table.ncclCommWindowRegister = [](auto... arguments) { return ++counts.windows, real.ncclCommWindowRegister(arguments...); };
  table.ncclCommWindowDeregister = [](auto... arguments) { return ++counts.windows_gone, real.ncclCommWindowDeregister(arguments...); };
  table.ncclCommRegister = [](auto... arguments) { return ++counts.buffers, real.ncclCommRegister(arguments...); };
  table.ncclCommDeregister = [](auto... arguments) { return ++counts.buffers_gone, real.ncclCommDeregister(arguments...); };
}

// Sums in memory of the communicator's, registered and forgotten; `differs`: ranks show memory of another layout each.
void sum_in_registered_memory(Setting& setting, bool differs = false) {
  DeviceCommunicators communicators = setting.communicators();
  on_ranks(communicators, {0, 1}, [&](const Device& device, DeviceCommunicator& communicator) {
    constexpr int64_t kCount = 3000;
    const Buffer memory = communicator.allocate(device, kCount * sizeof(float), "test");
    communicator.register_memory(memory, differs ? static_cast<uint64_t>(communicator.rank()) : 7);
    std::vector<float> values(kCount, static_cast<float>(1 + communicator.rank()));
    to_device(device, memory.data(), values.data(), memory.bytes());
    communicator.all_reduce({memory.data(), DType::float32, 1, kCount});
    to_host(device, values.data(), memory.data(), memory.bytes());
    check(values.front() == 3 && values.back() == 3, "expected 3, got ", values.front(), " and ", values.back());
    communicator.expect_healthy();
    communicator.barrier();                           // as programs end: nobody's window goes while a peer still sums
    communicator.forget_memory(memory);
  });
}

HEDDLE_TEST(nccl_registers_memory_in_symmetric_windows) {
  Setting setting;
  if (!setting.table) return;
  count_registrations(*setting.table);
  sum_in_registered_memory(setting);
  if (setting.notes.empty()) check(counts.windows == kRanks && counts.windows_gone == kRanks && counts.buffers == 0, "a window on every rank");
#if defined(HEDDLE_CUDA_EMULATED)
  setting.expect_notes(0, "", "windows");
#endif
}

HEDDLE_TEST(nccl_registers_buffers_where_there_are_no_windows) {
  Setting setting;
  if (!setting.table) return;
  count_registrations(*setting.table);
  setting.table->version = 22602;
  sum_in_registered_memory(setting);
  setting.expect_notes(kRanks, "this version has no windows", "an older version");
  check(counts.windows == 0 && counts.buffers == kRanks && counts.buffers_gone == kRanks, "a buffer on every rank");
}

HEDDLE_TEST(nccl_sums_as_before_where_nothing_can_be_registered) {
  Setting setting;
  if (!setting.table) return;
  setting.table->ncclCommWindowRegister = nullptr;
  setting.table->ncclCommRegister = nullptr;
  sum_in_registered_memory(setting);
  setting.expect_notes(kRanks, "nor registered buffers: this version has none", "missing functions");
}

HEDDLE_TEST(nccl_takes_plain_memory_where_it_has_none) {
  Setting setting;
  if (!setting.table) return;
  count_registrations(*setting.table);
  setting.table->ncclMemAlloc = [](void**, size_t) { return 1; };
  sum_in_registered_memory(setting);
  setting.expect_notes(kRanks, "memory that is not of ncclMemAlloc", "no memory of its own");
  check(counts.windows == 0, "no window was tried");
}

HEDDLE_TEST(nccl_windows_are_for_all_ranks_or_none) {
  Setting setting;
  if (!setting.table) return;
  count_registrations(*setting.table);
  sum_in_registered_memory(setting, true);
  setting.expect_notes(kRanks, "memory that differs from rank to rank", "layouts that differ");
  check(counts.windows == 0, "no window was tried");
#if defined(HEDDLE_CUDA_EMULATED)                      // where a window is no collective call
  for (const bool fails : {true, false}) {
    setting.notes.clear();
    static bool refuses;
    refuses = fails;
    *setting.table = real;
    count_registrations(*setting.table);
    setting.table->ncclCommWindowRegister = [](nvabi::NcclComm comm, void* data, size_t bytes, nvabi::NcclWindow* window, int flags) {
      int device = 0;
      if (cudaGetDevice(&device) == cudaSuccess && device == 1) return refuses ? 3 : 0;   // else success without a window: not supported
      return ++counts.windows, real.ncclCommWindowRegister(comm, data, bytes, window, flags);
    };
    sum_in_registered_memory(setting);
    setting.expect_notes(kRanks, fails ? "ncclCommWindowRegister: internal error" : "no symmetric memory", "one rank without a window");
    check(counts.windows == 1 && counts.windows_gone == 1 && counts.buffers == kRanks, "the other gives its window back");
  }
#endif
}

// ---- aborts ----

struct Call {
  std::atomic<bool> inside{false}, abort_asked{false}, aborted{false}, aborted_inside{false};
} under_way;

void watch_calls(NcclTable& table) {
  real = table;
  under_way.inside = under_way.abort_asked = under_way.aborted = under_way.aborted_inside = false;
  table.ncclCommAbort = [](nvabi::NcclComm comm) {
    if (under_way.inside) under_way.aborted_inside = true;
    const int status = real.ncclCommAbort(comm);
    under_way.aborted = true;
    return status;
  };
}

template <class Condition>
void wait_until(const Condition& holds) {
  while (!holds()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// Rank 0 is in an all-reduce when another thread aborts; gives the code that it gets.
ErrorCode abort_during_a_call(Setting& setting) {
  DeviceCommunicators communicators = setting.communicators();
  std::atomic<ErrorCode> code{ErrorCode::closed};
  std::atomic<int> attached{0};
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < kRanks; ++rank) {
    ranks.emplace_back([&, rank] {
      const Device device(rank, rank);
      DeviceCommunicator& communicator = *communicators[static_cast<size_t>(rank)];
      communicator.attach(device);
      ++attached;
      if (rank > 0) return wait_until([] { return under_way.aborted.load(); });
      wait_until([&] { return attached == kRanks; });
      const DeviceMatrix x(device, Matrix(1, 100));
      try {
        communicator.all_reduce(x.view());
        communicator.expect_healthy();
      } catch (const Error& error) {
        code = error.code();
      }
      wait_for(device);
    });
  }
  wait_until([] { return under_way.inside.load(); });
  std::thread waker([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    under_way.abort_asked = true;                     // by now the abort below has had time to come too early
  });
  communicators[0]->abort("had enough");
  waker.join();
  for (std::thread& thread : ranks) thread.join();
  return code;
}

HEDDLE_TEST(nccl_abort_leaves_a_call_its_handle) {
  Setting setting;
  if (!setting.table) return;
  watch_calls(*setting.table);
  setting.table->ncclAllReduce = [](auto...) {
    under_way.inside = true;
    wait_until([] { return under_way.abort_asked.load(); });
    under_way.inside = false;
    return 0;
  };
  const ErrorCode code = abort_during_a_call(setting);
  check(code == ErrorCode::peer_failed, "expected peer_failed, got ", name_of(code));
  check(!under_way.aborted_inside, "expected the abort after the call, got it during the call");
}

HEDDLE_TEST(nccl_abort_ends_a_call_that_is_stuck) {
  Setting setting;
  if (!setting.table) return;
  watch_calls(*setting.table);
  setting.table->ncclAllReduce = [](auto...) {
    under_way.inside = true;
    wait_until([] { return under_way.aborted.load(); });
    under_way.inside = false;
    return 6;                                         // as NCCL says to a call whose communicator was aborted
  };
  const ErrorCode code = abort_during_a_call(setting);
  check(code == ErrorCode::peer_failed, "expected peer_failed, got ", name_of(code));
  check(under_way.aborted_inside, "expected the abort to end the call");
}

}  // namespace
}  // namespace heddle::test
