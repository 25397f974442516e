// Collectives among the ranks of one process: the last rank to arrive computes for all, from all buffers at once.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace heddle::fake {

enum class Kind { all_reduce, reduce_scatter, all_gather, broadcast, send_receive };

struct Collective {
  Kind kind;
  const void* send;
  void* receive;
  size_t count;                                       // of elements that each rank sends; reduce_scatter: receives
  int type;                                           // as NCCL numbers them
  int op;
  int root;                                           // send_receive: to whom, -1: nothing is sent
  int from = -1;                                      // of send_receive, -1: nothing is received
};

class World;

// A rank's part in a communicator.
class Member {
 public:
  Member(std::shared_ptr<World> world, int rank, int device) : world_(std::move(world)), rank_(rank), device_(device) {}

  int size() const;
  int device() const { return device_; }
  bool started() const;                               // all ranks have joined
  bool refused() const;                               // two of them on one device
  bool broken() const;                                // a collective that will never end
  bool ready() const;                                 // started, not refused, not aborted
  bool wait_for_all();                                // false: refused
  void abort();                                       // whoever waits for this rank's collectives no longer does

  // Gives this rank's buffers to the next collective; then waits until it is done, or this rank has been aborted.
  void arrive(const Collective& collective);
  void finish();

 private:
  const std::shared_ptr<World> world_;
  const int rank_;
  const int device_;
  bool aborted_ = false;                              // under the world's mutex, as all that follows
  size_t collectives_ = 0;
  size_t finished_ = 0;                               // the world's, when this rank arrived
};

class World : public std::enable_shared_from_this<World> {
 public:
  explicit World(int size) : work_(static_cast<size_t>(size)) {}
  int size() const { return static_cast<int>(work_.size()); }
  // Null where the rank has joined already.
  std::shared_ptr<Member> join(int rank, int device);

 private:
  friend class Member;
  void run();                                         // with all ranks' work

  bool complete() const { return devices_.size() == work_.size(); }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<const Collective*> work_;               // of the collective under way, by rank
  std::vector<Collective> copies_ = std::vector<Collective>(work_.size());
  std::vector<bool> joined_ = std::vector<bool>(work_.size());
  std::vector<int> devices_;                          // of those that joined
  size_t finished_ = 0;
  bool refused_ = false;
  bool broken_ = false;
};

}  // namespace heddle::fake
