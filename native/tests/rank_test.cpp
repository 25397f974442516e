// Ranks and groups over a fake backend: order, results, errors that break nothing and errors that break the group, and
// every end.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <thread>

#include "comm/local/local.h"
#include "core/group.h"
#include "core/wait.h"
#include "fake_backend.h"
#include "rank_fixture.h"
#include "test.h"

namespace heddle::test {
namespace {

using std::chrono::milliseconds;

struct Fixture : GroupFixture {
  explicit Fixture(int size, std::vector<size_t> memory = {}, comm::LocalOptions options = {})
      : Fixture(size, std::make_shared<Hook>(), std::move(memory), options) {}

  std::shared_ptr<Hook> hook;

 private:
  Fixture(int size, const std::shared_ptr<Hook>& shared, std::vector<size_t> memory, comm::LocalOptions options)
      : GroupFixture(
            size,
            [shared, memory](int rank) -> std::unique_ptr<Backend> {
              return std::make_unique<FakeBackend>(rank, shared,
                                                   memory.empty() ? size_t{1} << 30 : memory[static_cast<size_t>(rank)]);
            },
            options),
        hook(shared) {}
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;                     // freed memory is kept on purpose
#else
constexpr bool kSanitized = false;
#endif

// 0 where the system has no such folder.
size_t entries_of(const char* folder) {
  std::error_code none;
  size_t count = 0;
  for (std::filesystem::directory_iterator entry(folder, none); !none && entry != std::filesystem::directory_iterator();
       entry.increment(none))
    ++count;
  return count;
}

size_t resident_pages() {
  size_t total = 0;
  size_t resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident;
}

}  // namespace

HEDDLE_TEST(rank_group_opens_and_runs_in_order) {
  for (const int size : {1, 2, 4}) {
    Fixture f(size);
    check(!f.inbox->wait(kOpenTicket).failure, "opening");
    check(f.group->info()[static_cast<size_t>(size - 1)].device == "fake " + std::to_string(size - 1), "device");
    f.send(sum_program());
    for (int i = 0; i < 300; ++i) f.send(RunProgram{kProgram, step_of(static_cast<float>(i))});
    check_sum(f.inbox->wait(f.last_ticket), static_cast<float>(299 * size));
    check_sum(f.inbox->wait(kOpenTicket + 2), 0);
    check_sum(f.inbox->wait(kOpenTicket + 3), static_cast<float>(size));
    const std::vector<int64_t> order = f.inbox->order();
    for (size_t i = 0; i < order.size(); ++i)
      check(order[i] == static_cast<int64_t>(i) + 1, "completions in the order of submission");
    check(f.inbox->each_once(), "every ticket once");
  }
}

HEDDLE_TEST(rank_tensors_are_filled_read_counted_and_freed) {
  Fixture f(2);
  std::vector<Message> messages;
  messages.emplace_back(tensor_message(5, {2, 2}, {1, 2, 3, 4}));
  messages.emplace_back(tensor_message(5, {1, 2}, {7, 8}));
  const int64_t ticket = ++f.last_ticket;
  f.group->submit(ticket, std::move(messages));
  check(!f.inbox->wait(ticket).failure, "uneven shards");
  check(!f.ask(tensor_message(6, {10}, {}, TensorRole::cache)).failure, "an empty cache");
  const Completion first = f.ask(ReadTensor{5});
  check(std::get<HostMatrix>(first.result).data == std::vector<float>{1, 2, 3, 4}, "rank 0 answers for all");
  f.group->submit_to(++f.last_ticket, 1, ReadTensor{5});
  const HostMatrix second = std::get<HostMatrix>(f.inbox->wait(f.last_ticket).result);
  check(second.data == std::vector<float>{7, 8} && second.shape == std::vector<int64_t>{1, 2},
        "rank 1 answers for itself");
  check(std::get<HostMatrix>(f.ask(ReadTensor{6}).result).data == std::vector<float>(10, 0.0f),
        "uncovered elements are zero");

  check(f.group->info()[0].weight_bytes == 16 && f.group->info()[1].weight_bytes == 8, "weight bytes");
  check(f.group->info()[1].cache_bytes == 40, "cache bytes");
  failed_with(f.ask(tensor_message(5, {1}, {1})), ErrorCode::invalid_argument, "id that is not in use");
  check(!f.ask(sum_program()).failure, "program");
  check(f.group->info()[0].workspace_bytes > 0, "workspace bytes");
  check(!f.ask(Dispose{{5, 6, kProgram, 12345}}).failure, "dispose, with an id of nothing");
  for (const RankInfo& info : f.group->info())
    check(info.weight_bytes + info.cache_bytes + info.workspace_bytes == 0, "all is freed");
  failed_with(f.ask(ReadTensor{5}), ErrorCode::closed, "disposed");
  failed_with(f.ask(RunProgram{kProgram, step_of(1)}), ErrorCode::closed, "disposed");
}

HEDDLE_TEST(rank_errors_outside_collectives_leave_the_group_usable) {
  Fixture f(2);
  CreateProgram bad = sum_program(7);
  bad.max_tokens = 0;
  failed_with(f.ask(bad), ErrorCode::invalid_argument);
  failed_with(f.ask(RunProgram{7, step_of(1)}), ErrorCode::invalid_argument);
  failed_with(f.ask(RunProgram{999, step_of(1)}), ErrorCode::closed);
  failed_with(f.ask(tensor_message(1, {-1}, {})), ErrorCode::invalid_argument);
  failed_with(f.ask(tensor_message(1, {1}, {1, 2})), ErrorCode::invalid_argument, "inside the tensor's 1 elements");
  failed_with(f.ask(tensor_message(1, {int64_t{1} << 40}, {})), ErrorCode::out_of_memory);
  CreateTensor missing = tensor_message(1, {4}, {1});
  missing.pieces[0].path = "no-such-folder/model.safetensors";
  const Completion completion = f.ask(missing);
  failed_with(completion, ErrorCode::corrupt_file, "no-such-folder/model.safetensors");
  check(completion.failure && completion.failure->rank == 0, "rank 0 speaks where all failed alike");
  f.send(sum_program());
  failed_with(f.ask(RunProgram{kProgram, step_of(1, 9)}), ErrorCode::invalid_argument, "1 to 8 tokens");
  failed_with(f.ask(RunProgram{kProgram, nullptr}), ErrorCode::invalid_argument);
  check_sum(f.ask(RunProgram{kProgram, step_of(3)}), 6);
  check_throws(ErrorCode::invalid_argument, [&] { f.group->submit(77, std::vector<Message>(3, ReadTensor{1})); });
  check_throws(ErrorCode::invalid_argument, [&] { f.group->submit_to(77, 2, ReadTensor{1}); });
}

// Memory that is written through a target of the backend's own, whose copies fail above 64 bytes.
class CopyingBackend final : public FakeBackend {
 public:
  explicit CopyingBackend(int rank) : FakeBackend(rank, std::make_shared<Hook>(), size_t{1} << 20) {}
  std::unique_ptr<FillTarget> fill_target(const Buffer& memory) override { return std::make_unique<Target>(memory); }

 private:
  class Target final : public FillTarget {
   public:
    explicit Target(const Buffer& memory) : memory_(memory), staging_(memory.bytes()) {}
    char* claim(size_t offset, size_t) override { return staging_.data() + offset; }
    void finish() override {
      if (staging_.size() > 64) throw Error(ErrorCode::device_failed, "CopyingBackend: the copy failed");
      std::memcpy(memory_.data(), staging_.data(), staging_.size());
    }

   private:
    const Buffer& memory_;
    std::vector<char> staging_;
  };
};

HEDDLE_TEST(rank_tensors_are_filled_through_the_target_of_the_backend) {
  GroupFixture f(2, [](int rank) { return std::make_unique<CopyingBackend>(rank); });
  check(!f.ask(tensor_message(5, {2, 2}, {1, 2, 3, 4})).failure, "a copy that succeeds");
  check(std::get<HostMatrix>(f.ask(ReadTensor{5}).result).data == std::vector<float>{1, 2, 3, 4}, "it arrived");
  failed_with(f.ask(tensor_message(6, {17}, std::vector<float>(17, 1))), ErrorCode::device_failed, "the copy failed");
  failed_with(f.ask(ReadTensor{6}), ErrorCode::closed);
  check(f.group->info()[1].weight_bytes == 16, "nothing stays of it");
  check(!f.ask(tensor_message(6, {1}, {1})).failure, "and the group goes on");
}

HEDDLE_TEST(rank_failure_in_a_run_fails_the_group_with_its_cause) {
  for (const bool foreign_exception : {false, true}) {
    Fixture f(3);
    *f.hook = [=](int rank) {
      if (rank == 1 && foreign_exception) throw std::runtime_error("kernel 7 exploded");
      if (rank == 1) throw Error(ErrorCode::out_of_memory, "kernel 7 exploded");
    };
    const ErrorCode code = foreign_exception ? ErrorCode::device_failed : ErrorCode::out_of_memory;
    f.send(sum_program());
    const int64_t run = f.send(RunProgram{kProgram, step_of(1)});
    const int64_t queued = f.send(RunProgram{kProgram, step_of(1)});
    const Completion completion = f.inbox->wait(run);
    failed_with(completion, code, "kernel 7 exploded");
    check(completion.failure && completion.failure->rank == 1, "the culprit is rank 1");
    for (const Completion& later : {f.inbox->wait(queued), f.ask(ReadTensor{1}), f.ask(sum_program(8))}) {
      failed_with(later, code, "kernel 7 exploded");
      check(later.failure && later.failure->rank == 1, "the culprit stays rank 1");
    }
    check(!f.ask(Dispose{{kProgram}}).failure, "memory can be given back");
  }
}

HEDDLE_TEST(rank_that_does_not_arrive_is_named_by_a_timeout) {
  const auto release = std::make_shared<std::atomic<bool>>(false);
  Fixture f(2, {}, {milliseconds(80)});
  *f.hook = [=](int rank) {
    while (rank == 1 && !*release) std::this_thread::sleep_for(milliseconds(1));
  };
  f.send(sum_program());
  const int64_t run = f.send(RunProgram{kProgram, step_of(1)});
  const int64_t later = ++f.last_ticket;
  f.group->submit_to(later, 0, ReadTensor{1});
  failed_with(f.inbox->wait(later), ErrorCode::timeout);  // rank 0 has given up, however long that took
  *release = true;
  const Completion completion = f.inbox->wait(run);
  failed_with(completion, ErrorCode::timeout, "rank 1  entered #0  finished #0  <-- never reached #1");
  failed_with(f.ask(ReadTensor{1}), ErrorCode::timeout);
}

// Rank 1 has no memory for the program, and the run was sent before anybody knew.
HEDDLE_TEST(rank_without_the_program_does_not_leave_its_peers_waiting) {
  Fixture f(2, {size_t{1} << 20, 16});
  const int64_t creation = f.send(sum_program());
  const int64_t run = f.send(RunProgram{kProgram, step_of(1)});
  failed_with(f.inbox->wait(creation), ErrorCode::out_of_memory);
  failed_with(f.inbox->wait(run), ErrorCode::out_of_memory);
}

HEDDLE_TEST(rank_that_cannot_open_fails_the_group) {
  GroupParts parts;
  Inbox inbox;
  parts.communicators = comm::create_local(3);
  parts.create_backend = [](int rank) -> std::unique_ptr<Backend> {
    if (rank == 2) throw Error(ErrorCode::unavailable, "no device 2");
    return std::make_unique<FakeBackend>(rank, std::make_shared<Hook>(), 1000);
  };
  parts.on_completion = [&](Completion&& completion) { inbox.put(std::move(completion)); };
  RankGroup group(std::move(parts), kOpenTicket);
  failed_with(inbox.wait(kOpenTicket), ErrorCode::unavailable, "no device 2");
  group.submit(2, Message(sum_program()));
  failed_with(inbox.wait(2), ErrorCode::unavailable, "no device 2");
  check(group.info()[2].device.empty(), "a rank that is not open has no device");
}

HEDDLE_TEST(rank_group_that_is_closed_holds_nothing) {
  Fixture f(2);
  f.ask(tensor_message(7, {2}, {1, 2}));
  f.ask(sum_program());
  for (const RankInfo& info : f.group->info()) {
    check(info.workspace_bytes > 0 && info.weight_bytes > 0, "rank ", info.rank, " holds a program and a tensor");
  }
  f.group->close();
  for (const RankInfo& info : f.group->info()) {
    check(info.workspace_bytes == 0 && info.weight_bytes == 0, "rank ", info.rank, " holds ", info.workspace_bytes,
          " and ", info.weight_bytes, " bytes after close");
  }
}

HEDDLE_TEST(rank_close_leaves_runs_undone) {
  const auto release = std::make_shared<std::atomic<bool>>(false);
  Fixture f(3);
  *f.hook = [=](int rank) {
    while (rank == 1 && !*release) std::this_thread::sleep_for(milliseconds(1));
  };
  f.send(sum_program());
  std::vector<int64_t> runs;
  for (int i = 0; i < 400; ++i) runs.push_back(f.send(RunProgram{kProgram, step_of(1)}));
  f.send(Close{});
  *release = true;
  for (const int64_t run : runs) failed_with(f.inbox->wait(run), ErrorCode::closed);
}

HEDDLE_TEST(rank_close_in_the_middle_of_runs_answers_everything) {
  for (int round = 0; round < 30; ++round) {
    Fixture f(3);
    f.send(sum_program());
    for (int i = 0; i < 400; ++i) f.send(RunProgram{kProgram, step_of(1)});
    std::this_thread::sleep_for(std::chrono::microseconds(100 * round));
    std::thread other([&] { f.group->close(); });
    f.group->close();
    other.join();
    for (int64_t ticket = kOpenTicket; ticket <= f.last_ticket; ++ticket) {
      const Completion completion = f.inbox->wait(ticket);
      if (completion.failure) failed_with(completion, ErrorCode::closed);
    }
    f.group->close();
    failed_with(f.ask(ReadTensor{1}), ErrorCode::closed);
    check(f.inbox->each_once(), "every ticket once");
  }
}

HEDDLE_TEST(rank_close_ends_a_wait_for_a_peer) {
  const auto release = std::make_shared<std::atomic<bool>>(false);
  Fixture f(2);
  *f.hook = [=](int rank) {
    while (rank == 1 && !*release) std::this_thread::sleep_for(milliseconds(1));
  };
  f.send(sum_program());
  const int64_t run = f.send(RunProgram{kProgram, step_of(1)});
  std::this_thread::sleep_for(milliseconds(30));
  std::thread releaser([&] {
    std::this_thread::sleep_for(milliseconds(60));
    *release = true;
  });
  f.group->close();
  releaser.join();
  failed_with(f.inbox->wait(run), ErrorCode::closed);
}

HEDDLE_TEST(rank_that_hangs_is_left_behind_after_a_second) {
  auto release = std::make_shared<std::atomic<bool>>(false);
  auto hangs = std::make_shared<std::atomic<bool>>(false);
  auto left = std::make_shared<std::atomic<bool>>(false);
  Fixture f(2);
  *f.hook = [=](int rank) {
    if (rank != 1) return;
    *hangs = true;
    while (!*release) std::this_thread::sleep_for(milliseconds(1));
    *left = true;
  };
  f.send(sum_program());
  const int64_t run = f.send(RunProgram{kProgram, step_of(1)});
  const int64_t waiting = f.send(RunProgram{kProgram, step_of(1)});
  check(eventually([&] { return hangs->load(); }), "rank 1 is in the run");
  const int64_t closing = f.send(Close{});
  failed_with(f.inbox->wait(run), ErrorCode::closed);
  failed_with(f.inbox->wait(waiting), ErrorCode::closed);
  check(!f.inbox->wait(closing).failure, "the Close message completes");
  check(f.inbox->thread_of(closing) != std::this_thread::get_id(), "a Close message does not wait where it is sent");
  check(!*left, "nobody waits for the rank");
  f.group.reset();
  *release = true;  // the thread goes on with what it shares
  check(eventually([&] { return left->load(); }), "the thread was left, not ended");
  check(eventually([&] { return f.hook.use_count() == 1; }), "and all that it shared was freed in the end");
  check(f.inbox->each_once(), "every ticket once");
}

HEDDLE_TEST(rank_close_message_completes_after_all_others) {
  Fixture f(2);
  f.send(sum_program());
  for (int i = 0; i < 50; ++i) f.send(RunProgram{kProgram, step_of(1)});
  const int64_t closing = f.send(Close{});
  check(!f.inbox->wait(closing).failure, "close succeeds");
  check(f.inbox->order().back() == closing, "last of all");
  check(!f.ask(Close{}).failure, "a second one too");
}

// The receiver may close or drop the group from a completion, and may throw.
HEDDLE_TEST(rank_group_may_end_on_its_own_thread) {
  for (int round = 0; round < 20; ++round) {
    auto holder = std::make_shared<std::unique_ptr<RankGroup>>();
    auto done = std::make_shared<std::atomic<int>>(0);
    auto ready = std::make_shared<std::atomic<bool>>(false);
    GroupParts parts;
    parts.communicators = comm::create_local(2);
    parts.create_backend = [](int rank) { return std::make_unique<FakeBackend>(rank, std::make_shared<Hook>(), 1000); };
    parts.on_completion = [=](Completion&& completion) {
      if (completion.ticket == kOpenTicket) {
        while (!*ready) std::this_thread::yield();
        (*holder)->close();
        holder->reset();
      }
      ++*done;
      throw std::runtime_error("the receiver's own trouble");
    };
    *holder = std::make_unique<RankGroup>(std::move(parts), kOpenTicket);
    *ready = true;
    check(eventually([&] { return *done == 1; }), "the completion ran to its end");
  }
}

// Opens a group with a tensor of a MiB on each of two ranks and ends it: in one of four ways, by `round`.
void open_and_end(int round) {
  Fixture f(2);
  if (round % 4 == 0) return;  // destroyed at once, without close
  f.send(tensor_message(1, {int64_t{1} << 18}, std::vector<float>(size_t{1} << 18, 1.0f)));
  f.send(sum_program());
  const int64_t run = f.send(RunProgram{kProgram, step_of(2)});
  if (round % 4 == 1) check_sum(f.inbox->wait(run), 4);
  if (round % 4 != 3) f.group->close();
}

HEDDLE_TEST(rank_groups_open_and_close_200_times_and_leave_nothing) {
  constexpr int kRounds = 50;
  for (int round = 0; round < kRounds; ++round) open_and_end(round);  // what is made once is there after these
  const size_t threads = entries_of("/proc/self/task");
  const size_t descriptors = entries_of("/proc/self/fd");
  size_t grown = std::numeric_limits<size_t>::max();  // pages, every time; what allocators keep grows once
  for (int quarter = 1; quarter < 4; ++quarter) {
    const size_t pages = resident_pages();
    for (int round = 0; round < kRounds; ++round) open_and_end(round);
    grown = std::min(grown, std::max(resident_pages(), pages) - pages);
  }
  check(eventually([&] { return entries_of("/proc/self/task") <= threads; }), "threads stayed");
  check(entries_of("/proc/self/fd") <= descriptors, "file descriptors stayed");
  const size_t lost = grown * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (!kSanitized) check(lost < size_t{kRounds} << 18, "groups of 1.5 MiB on average left ", lost / kRounds, " bytes each");
}

HEDDLE_TEST(rank_groups_run_side_by_side) {
  const int size = usable_cores() + 1;
  std::vector<std::unique_ptr<Fixture>> fixtures;
  for (int i = 0; i < 3; ++i) fixtures.push_back(std::make_unique<Fixture>(size));
  for (const auto& f : fixtures) f->send(sum_program());
  for (int i = 0; i < 50; ++i) {
    for (const auto& f : fixtures) f->send(RunProgram{kProgram, step_of(static_cast<float>(i))});
  }
  for (const auto& f : fixtures) check_sum(f->inbox->wait(f->last_ticket), static_cast<float>(49 * size));
}

}  // namespace heddle::test
