// One member of a group: its backend, tensors and programs, used by its own thread alone.
// Rule: a rank answers every message exactly once and in order, and no exception leaves its thread.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/fill.h"
#include "core/group_state.h"
#include "core/program.h"

namespace heddle {

class Rank {
 public:
  Rank(int index, std::shared_ptr<GroupState> group);
  ~Rank();

  // The thread's whole life: creates the backend, handles messages until the queue is closed and empty, frees
  // everything.
  static void live(int index, std::shared_ptr<GroupState> group) noexcept;

 private:
  // A program that could not be made here stays known: peers may have it, and a run of it would leave them waiting.
  struct ProgramEntry {
    std::unique_ptr<Program> program;                 // null: `failure` says why
    std::shared_ptr<Pending> creation;
    Failure failure;
  };

  // A step that was submitted, or why it was not.
  struct Run {
    RankQueue::Item item;
    Program* program = nullptr;                       // null: nothing was submitted, or what was is lost
    std::optional<Failure> failure;
    bool out_of_step = false;                         // what the failure means for the ranks
  };

  void serve();
  void answer(const RankQueue::Item& item) noexcept;
  void answer_runs(const RankQueue::Item& first) noexcept;
  void start(const RankQueue::Item& item) noexcept;
  void finish_oldest() noexcept;
  void done() noexcept;
  bool may_start_another() const noexcept;
  std::optional<RankQueue::Item> next_run() const noexcept;
  bool overlaps(const RankQueue::Item& item) const noexcept;
  std::optional<Failure> refusal(const Message* message) const;
  Result handle(const RankQueue::Item& item);
  Failure settle_failure(Failure failure) noexcept;

  void open();
  void create(const CreateTensor& message);
  void create(const CreateProgram& message, const std::shared_ptr<Pending>& creation);
  Program& submit(const RunProgram& message);
  Result read(const ReadTensor& message);
  void dispose(const Dispose& message);
  void expect_free(int64_t id) const;
  void wait_for_peers(const Pending& creation) const;

  const int index_;
  const std::shared_ptr<GroupState> group_;
  RankSeat& seat_;
  std::unique_ptr<Backend> backend_;
  SourceFiles files_;
  TensorTable tensors_;
  std::map<int64_t, ProgramEntry> programs_;
  std::vector<Run> runs_;                             // under way, oldest first; the queue begins with their messages
  bool out_of_step_ = false;  // the message at work failed after ranks began to depend on each other
};

}  // namespace heddle
