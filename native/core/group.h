// A group of ranks as its owner sees it: messages in, one completion per ticket out.
// Rule: every submitted ticket completes exactly once, whatever fails and whoever closes; tickets that ask the same
// ranks complete in the order of their submission.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/group_state.h"
#include "core/message.h"

namespace heddle {

struct RankInfo {
  int rank = 0;
  std::string device;                                 // empty until the rank is open
  uint64_t weight_bytes = 0;
  uint64_t cache_bytes = 0;
  uint64_t workspace_bytes = 0;
  uint64_t file_bytes_read = 0;
  uint64_t file_bytes_used = 0;
};

class RankGroup {
 public:
  // Starts a thread per rank and returns; `ticket` completes when every rank has its backend. Throws unavailable where
  // no thread can be started. Where a rank cannot open, the group is failed: every later message gets the same error.
  RankGroup(GroupParts parts, int64_t ticket);
  ~RankGroup();                                       // closes
  RankGroup(const RankGroup&) = delete;
  RankGroup& operator=(const RankGroup&) = delete;

  int size() const { return state_->size(); }

  // Any thread. Throws invalid_argument for a wrong number of messages or a rank outside the group; all else is a
  // completion.
  void submit(int64_t ticket, Message message);                  // the same for every rank
  void submit(int64_t ticket, std::vector<Message> messages);    // one for each rank
  void submit_to(int64_t ticket, int rank, Message message);     // for that rank alone; the result is its result

  // Running work ends between two operations, what waits fails with `closed`. Returns after at most about a second,
  // with a rank that hangs left behind; on a rank's own thread (a completion) it returns at once. Idempotent, any
  // thread. A Close message does the same without waiting: its ticket completes when the ranks have ended.
  void close() noexcept;

  std::vector<RankInfo> info() const;

 private:
  using Shared = std::shared_ptr<const Message>;
  void start();
  void post(int64_t ticket, const std::vector<bool>& asked, const std::vector<Shared>& messages);
  void close_then_complete(int64_t ticket);

  const std::shared_ptr<GroupState> state_;
  std::mutex submit_mutex_;                           // the same order in every queue
};

}  // namespace heddle
