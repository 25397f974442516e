// How a compiled program runs on a GPU, as data: which nodes share a launch, and the data type and place of every value.
// Rule: no CUDA here. Every stage has two forms, fused for few rows and node by node for many, and the places serve both.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/compiled_node.h"
#include "core/executor.h"

namespace heddle::cuda {

constexpr int32_t kNone = -1;

// Consecutive nodes that one launch can do. Numbers are those of nodes, which are also those of their values.
struct Stage {
  enum class Kind : uint8_t {
    single,                                           // one node
    linear,                                           // [rms_norm] linear [add_bias] [activation | gated] [add]
    all_reduce,                                       // all_reduce [add] [rms_norm]
  };
  Kind kind = Kind::single;
  std::vector<int32_t> nodes;                         // first the one that the kind names
  int32_t norm = kNone;                               // linear: before it and not among its nodes, see Schedule::on_demand
  int32_t bias = kNone;
  int32_t activation = kNone;                         // or gated
  int32_t add = kNone;
  int32_t residual = kNone;                           // the value that `add` adds

  int32_t main() const { return nodes.front(); }
  int32_t last() const { return nodes.back(); }       // whose value is the stage's result
  bool fused() const { return nodes.size() > 1 || norm != kNone; }
};

// Where the result of a node lies.
struct Place {
  DType dtype = DType::float32;
  size_t offset = 0;                                  // in the workspace
};

struct Schedule {
  std::vector<std::vector<int32_t>> inputs;           // of every node, past collectives that do nothing in a group of one
  std::vector<Place> places;                          // of every node
  std::vector<Stage> stages;                          // in the order in which they run
  // RMS norms that only linears read: the fused forms compute them on the way, the others materialise the value where the first of
  // them needs it.
  std::vector<bool> on_demand;
  size_t workspace_bytes = 0;
};

struct ScheduleOptions {
  DType dtype = DType::float32;                       // of the group
  int size = 1;
  bool fuse = true;
  // Whether the group's communicator can run an all_reduce stage in one launch; null: it can.
  std::function<bool(const Schedule&, const Stage&)> fuses_all_reduce;
  bool reproducible = false;                          // of the group: a value has the same bits at every size
};

// Data types. In a float32 group every value is float32. In a 16-bit group values have the group's type, but these are float32: inputs,
// sums of `add`, weights of `route`, and what an `add`, `route`, `sample` or `output` reads, directly or past all_reduce, all_gather,
// add_bias, slice and last_rows (which give the type that they read). So the residual stream and the logits are never rounded, and nothing
// is converted for the host.
//
// In a reproducible group what an `all_reduce` reads is float32 too, and so is at size 1, where there is none, what would be read by one: rows
// of `embed`, and contractions in pieces. A norm is a stage of its own: folded into what stands before or after it, which depends on the size,
// it would be summed up in another order.
//
// Places. Two values share memory only where every form of every stage allows it. Values that an `output` reads stay until the end.
// Throws out_of_memory where the values are too large to count.
Schedule make_schedule(const ProgramPlan& program, const ScheduleOptions& options);

}  // namespace heddle::cuda
