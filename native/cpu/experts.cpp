// y = sum over experts of weight * down · (kind(gate · x) * (up · x)), experts in the order of their numbers; where pieces are asked for, one
// such sum for each.
#include "cpu/experts.h"

#include <algorithm>

#include "core/sum_tree.h"
#include "cpu/row_kernels.h"

namespace heddle::cpu {
namespace {

float weight_of(const ExpertsCall& call, int64_t row, int64_t expert) {
  return call.routing.floats()[row * call.routing.width + call.spec.first_expert + expert];
}

// The rows of each expert, in order: a weight of NaN counts as one.
void group_rows(const ExpertsCall& call, int64_t experts, ExpertsScratch& scratch) {
  std::vector<int32_t>& first = scratch.first;
  first.assign(static_cast<size_t>(experts) + 1, 0);
  for (int64_t row = 0; row < call.x.rows; ++row) {
    for (int64_t expert = 0; expert < experts; ++expert) {
      if (weight_of(call, row, expert) != 0) ++first[static_cast<size_t>(expert) + 1];
    }
  }
  for (size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
  scratch.rows.resize(static_cast<size_t>(first.back()));
  // While rows are put down, first[e] moves on to the start of the expert after e.
  for (int64_t row = 0; row < call.x.rows; ++row) {
    for (int64_t expert = 0; expert < experts; ++expert) {
      if (weight_of(call, row, expert) == 0) continue;
      scratch.rows[static_cast<size_t>(first[static_cast<size_t>(expert)]++)] = static_cast<int32_t>(row);
    }
  }
  first.insert(first.begin(), 0);
  first.pop_back();
}

const void* rows_from(const Tensor& weight, int64_t row) {
  const auto offset = static_cast<size_t>(row * weight.width()) * size_of(weight.dtype);
  return static_cast<const std::byte*>(weight.buffer.data()) + offset;
}

// Where an expert has every row, x itself.
const float* gather(const ExpertsCall& call, const int32_t* rows, int64_t count, std::vector<float>& gathered) {
  const int64_t width = call.x.width;
  if (count == call.x.rows) return call.x.floats();
  gathered.resize(std::max(gathered.size(), static_cast<size_t>(count * width)));
  for (int64_t i = 0; i < count; ++i)
    std::copy_n(call.x.floats() + rows[i] * width, width, gathered.data() + i * width);
  return gathered.data();
}

// Of the piece's part of the inner width: gate | up of `count` rows, then their gated product in front.
void run_inner(const ExpertsCall& call, const ExpertsPiece& piece, int64_t expert, const float* x, int64_t count, ExpertsScratch& scratch,
               LinearScratch& linear_scratch) {
  const int64_t width = call.x.width, all = call.down.width(), inner = piece.inner;
  scratch.inner.resize(std::max(scratch.inner.size(), static_cast<size_t>(count * 2 * inner)));
  const auto product = [&](int64_t row, int64_t rows, float* y) {
    LinearArgs args = {x, rows_from(call.gate_up, row), call.gate_up.dtype, y, count, width, rows, call.round_inputs};
    args.y_stride = 2 * inner;
    linear(args, linear_scratch);
  };
  const int64_t gate = expert * 2 * all + piece.first_inner;
  if (inner == all) {
    product(gate, 2 * inner, scratch.inner.data());
  } else {
    product(gate, inner, scratch.inner.data());
    product(gate + all, inner, scratch.inner.data() + inner);
  }
  const RowKernels& kernels = row_kernels();
  for (int64_t i = 0; i < count; ++i) {  // row i of the result takes the place of what rows before it were made of
    const float* row = scratch.inner.data() + i * 2 * inner;
    kernels.gated(call.spec.activation, row, row + inner, inner, scratch.inner.data() + i * inner);
  }
}

// Adds to sum [rows, width].
void run_expert(const ExpertsCall& call, const ExpertsPiece& piece, int64_t expert, float* sum, ExpertsScratch& scratch,
                LinearScratch& linear_scratch) {
  const int64_t width = call.x.width;
  const int32_t* rows = scratch.rows.data() + scratch.first[static_cast<size_t>(expert)];
  const int64_t count = scratch.first[static_cast<size_t>(expert) + 1] - scratch.first[static_cast<size_t>(expert)];
  if (count == 0) return;
  run_inner(call, piece, expert, gather(call, rows, count, scratch.gathered), count, scratch, linear_scratch);
  scratch.result.resize(std::max(scratch.result.size(), static_cast<size_t>(count * width)));
  const auto* down = static_cast<const std::byte*>(rows_from(call.down, expert * width)) +
                     static_cast<size_t>(piece.first_inner) * size_of(call.down.dtype);
  LinearArgs args = {scratch.inner.data(), down, call.down.dtype, scratch.result.data(), count, piece.inner, width, call.round_inputs};
  args.weight_stride = call.down.width();
  linear(args, linear_scratch);
  for (int64_t i = 0; i < count; ++i) {
    const float weight = weight_of(call, rows[i], expert);
    const float* result = scratch.result.data() + i * width;
    float* y = sum + rows[i] * width;
    for (int64_t k = 0; k < width; ++k) y[k] += weight * result[k];
  }
}

void run_piece(const ExpertsCall& call, const ExpertsPiece& piece, float* sum, ExpertsScratch& scratch, LinearScratch& linear_scratch) {
  std::fill_n(sum, call.y.rows * call.y.width, 0.0f);
  if (piece.inner == 0) return;
  for (int64_t expert = piece.first_expert; expert < piece.end_expert; ++expert) {
    run_expert(call, piece, expert, sum, scratch, linear_scratch);
  }
}

// sum = the pieces [first, first + count) in the order of the tree. The second branch of each level has memory of its own, so that few
// sums are held however many pieces there are.
void run_branch(const ExpertsCall& call, const std::vector<ExpertsPiece>& pieces, size_t first, size_t count, size_t level, float* sum,
                ExpertsScratch& scratch, LinearScratch& linear_scratch) {
  if (count == 1) return run_piece(call, pieces[first], sum, scratch, linear_scratch);
  const size_t branch = first_branch(count);
  const auto size = static_cast<size_t>(call.y.rows * call.y.width);
  run_branch(call, pieces, first, branch, level + 1, sum, scratch, linear_scratch);
  if (scratch.branches.size() <= level) scratch.branches.resize(level + 1);
  if (scratch.branches[level].size() < size) scratch.branches[level].resize(size);
  float* second = scratch.branches[level].data();  // stays where it is: deeper levels move the vectors, not their elements
  run_branch(call, pieces, first + branch, count - branch, level + 1, second, scratch, linear_scratch);
  for (size_t i = 0; i < size; ++i) sum[i] += second[i];
}

void find_pieces(const ExpertsCall& call, int64_t experts, std::vector<ExpertsPiece>& pieces) {
  const int64_t inner = call.down.width();
  pieces.clear();
  int64_t first = 0;
  for (const int64_t count : call.spec.expert_chunks) {
    pieces.push_back({first, first + count, 0, inner});
    first += count;
  }
  for (const int64_t width : call.spec.chunks) {
    pieces.push_back({0, experts, first, width});
    first += width;
  }
  if (pieces.empty()) pieces.push_back({0, experts, 0, inner});
}

}  // namespace

void experts(const ExpertsCall& call, ExpertsScratch& scratch, LinearScratch& linear_scratch) {
  const int64_t count = call.down.rows() / call.x.width;
  group_rows(call, count, scratch);
  find_pieces(call, count, scratch.pieces);
  run_branch(call, scratch.pieces, 0, scratch.pieces.size(), 0, call.y.floats(), scratch, linear_scratch);
}

}  // namespace heddle::cpu
