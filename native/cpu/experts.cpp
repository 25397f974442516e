// y = sum over experts of weight * down · (kind(gate · x) * (up · x)), experts in the order of their numbers.
#include "cpu/experts.h"

#include <algorithm>

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

void run_expert(const ExpertsCall& call, int64_t expert, const int32_t* rows, int64_t count, ExpertsScratch& scratch,
                LinearScratch& linear_scratch) {
  const int64_t width = call.x.width, inner = call.down.width();
  const float* x = gather(call, rows, count, scratch.gathered);
  scratch.inner.resize(std::max(scratch.inner.size(), static_cast<size_t>(count * 2 * inner)));
  scratch.result.resize(std::max(scratch.result.size(), static_cast<size_t>(count * width)));
  linear({x, rows_from(call.gate_up, expert * 2 * inner), call.gate_up.dtype, scratch.inner.data(), count, width,
          2 * inner, call.round_inputs},
         linear_scratch);
  const RowKernels& kernels = row_kernels();
  for (int64_t i = 0; i < count; ++i) {  // row i of the result takes the place of what rows before it were made of
    const float* gate = scratch.inner.data() + i * 2 * inner;
    kernels.gated(call.spec.activation, gate, gate + inner, inner, scratch.inner.data() + i * inner);
  }
  linear({scratch.inner.data(), rows_from(call.down, expert * width), call.down.dtype, scratch.result.data(), count,
          inner, width, call.round_inputs},
         linear_scratch);
  for (int64_t i = 0; i < count; ++i) {
    const float weight = weight_of(call, rows[i], expert);
    const float* result = scratch.result.data() + i * width;
    float* y = call.y.floats() + rows[i] * width;
    for (int64_t k = 0; k < width; ++k) y[k] += weight * result[k];
  }
}

}  // namespace

void experts(const ExpertsCall& call, ExpertsScratch& scratch, LinearScratch& linear_scratch) {
  const int64_t count = call.down.rows() / call.x.width;
  group_rows(call, count, scratch);
  std::fill_n(call.y.floats(), call.y.rows * call.y.width, 0.0f);
  for (int64_t expert = 0; expert < count; ++expert) {
    const int32_t first = scratch.first[static_cast<size_t>(expert)];
    const int32_t end = scratch.first[static_cast<size_t>(expert) + 1];
    if (end > first) run_expert(call, expert, scratch.rows.data() + first, end - first, scratch, linear_scratch);
  }
}

}  // namespace heddle::cpu
