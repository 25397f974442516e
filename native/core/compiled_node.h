// A node of a program with its tensors and attributes resolved and checked: what a run executes.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/message.h"
#include "core/program.h"
#include "core/tensor.h"

namespace heddle {

struct CompiledNode {
  Op op = Op::input;
  std::vector<int32_t> inputs;
  std::vector<std::shared_ptr<Tensor>> tensors;       // null where absent
  int64_t width = 0;
  bool by_sequence = false;                           // rows are sequences rather than tokens
  std::string name;                                   // input, output
  float eps = 0;
  int64_t start = 0;                                  // slice
  EmbedSpec embed;
  LinearSpec linear;
  Activation activation = Activation::silu;
  RouteSpec route;
  ExpertsSpec experts;
  AttentionSpec attention;
  SampleSpec sample;
  std::vector<int64_t> widths;                        // allGather
};

// Checks `node` against its inputs (`made`, the nodes before it) and its tensors; throws invalid_argument, closed.
std::shared_ptr<CompiledNode> compile_node(const Node& node, const std::vector<std::shared_ptr<CompiledNode>>& made, const TensorTable& tensors,
                                           int size);

// False for the ends of a program: what they make is no value that another node could read.
bool has_value(Op op);

// Whether the result may take the memory of the first input (backend.h says which kernels allow it).
bool works_in_place(Op op);

}  // namespace heddle
