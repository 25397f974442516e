// The experts of a mixture on the CPU: rows are gathered by expert, so that each expert's weights are read once a step,
// and only those of experts that have a row.
#pragma once
#include <cstdint>
#include <vector>

#include "core/backend.h"
#include "cpu/linear.h"

namespace heddle::cpu {

struct ExpertsCall {
  View x;
  View routing;
  const Tensor& gate_up;
  const Tensor& down;
  const ExpertsSpec& spec;
  View y;
  bool round_inputs;             // as in LinearArgs
};

// What one sum is taken over: some experts, and of each a part of its inner width.
struct ExpertsPiece {
  int64_t first_expert, end_expert;
  int64_t first_inner, inner;
};

// Reusable memory of one rank's thread; it grows to what the largest call needs.
struct ExpertsScratch {
  std::vector<int32_t> first;    // [experts + 1] into rows
  std::vector<int32_t> rows;     // of all experts, one after the other
  std::vector<float> gathered;   // [rows of an expert, width]
  std::vector<float> inner;      // [rows of an expert, 2 * inner], then its gated half in front
  std::vector<float> result;     // [rows of an expert, width]
  std::vector<ExpertsPiece> pieces;
  std::vector<std::vector<float>> branches;  // [rows, width] each: a sum for each level of the tree of pieces
};

void experts(const ExpertsCall& call, ExpertsScratch& scratch, LinearScratch& linear_scratch);

}  // namespace heddle::cpu
