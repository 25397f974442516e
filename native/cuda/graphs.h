// Captured CUDA graphs of one program's decode steps: one for each batch bucket and way of sampling.
//
// Rule: ranks may capture, upload and first launch only together, since those wait for the whole GPU, on which a kernel of a peer may
// be waiting for this rank. So whether a step runs eagerly, is captured or replayed follows from what is equal on every rank: the steps
// so far. What may differ is whether this rank's scratch memory moved (uneven shards) or its capture failed. The first is settled by an
// exchange, in the first step that could replay a graph after any eager step of the rank: only eager steps move scratch memory, and
// the step's arrays move on all ranks alike. The second is nobody else's business: this rank then submits the same kernels one by one,
// with the same collectives among them.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/device_communicator.h"
#include "cuda/runtime.h"
#include "cuda/sample.h"

namespace heddle::cuda {

// Steps of one rank that were not served by a graph, over all of its programs. Equal on every rank.
struct EagerSteps {
  uint64_t count = 0;
};

// Rows of the smallest bucket that holds `sequences`: 1, 2, 4, 8, 16, then multiples of 8 up to 64, of 32 up to 256, of 64 beyond; never
// more than `max_sequences`.
int64_t bucket_of(int64_t sequences, int64_t max_sequences);

struct GraphKey {
  int64_t bucket = 0;
  SampleMethods methods;
  bool operator==(const GraphKey&) const = default;
};

class Graphs {
 public:
  static constexpr size_t kMostGraphs = 32;           // each takes memory on the GPU; the one used longest ago goes first

  Graphs(const Device& device, DeviceCommunicator& communicator, EagerSteps& eager)
      : device_(device), communicator_(communicator), eager_(eager) {}

  // Does what `submit` submits to the stream: by calling it when the key is new, by capturing it the second time, by replaying from
  // then on. `step_epoch` advances when the step's arrays move.
  void run(const GraphKey& key, uint64_t step_epoch, const std::function<void()>& submit);

  size_t captured() const;                            // graphs that can be replayed
  const std::string& failure() const { return failure_; }   // why the last capture that failed did; empty: none has

 private:
  struct Epochs {                                     // of the addresses in a graph
    uint64_t scratch = 0;
    uint64_t step = 0;
    bool operator==(const Epochs&) const = default;
  };
  struct Entry {
    GraphKey key;
    bool attempted = false;                           // captured on every rank where that worked
    GraphExec graph;                                  // empty: it did not work here
    Epochs epochs;
    uint64_t last_use = 0;
  };

  Entry* find(const GraphKey& key);
  void agree(const Epochs& now);
  void drop_all();
  void make_room();
  void build(Entry& entry, const Epochs& now, const std::function<void()>& submit);
  GraphExec capture(const std::function<void()>& submit);
  Graph record(const std::function<void()>& submit);

  const Device& device_;
  DeviceCommunicator& communicator_;
  EagerSteps& eager_;
  std::vector<Entry> entries_;
  uint64_t agreed_ = 0;                               // eager steps, and the epoch of the step's arrays, when the ranks last compared
  uint64_t agreed_step_ = 0;                          // their memory
  uint64_t uses_ = 0;
  std::string failure_;
};

}  // namespace heddle::cuda
