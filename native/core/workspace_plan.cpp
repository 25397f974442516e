#include "core/workspace_plan.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/error.h"

namespace heddle {

namespace {

constexpr size_t kAlignment = 64;
constexpr int64_t kLargestSum = int64_t{1} << 60;

}  // namespace

size_t ValueBytes::add(int64_t rows, int64_t width, size_t element) {
  int64_t bytes = 0;
  const bool overflows = __builtin_mul_overflow(rows, width, &bytes) ||
                         __builtin_mul_overflow(bytes, static_cast<int64_t>(element), &bytes) ||
                         __builtin_add_overflow(sum_, bytes, &sum_) || sum_ > kLargestSum;
  if (overflows) {
    throw Error(ErrorCode::out_of_memory, "Program: expected a workspace that fits into memory, got more than 2^60 bytes with " +
                                              std::to_string(rows) + " rows of " + std::to_string(width));
  }
  return static_cast<size_t>(bytes);
}

void WorkspacePlan::add(const std::vector<int32_t>& inputs, size_t bytes, bool in_place) {
  Value value;
  value.inputs = inputs;
  value.bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  value.in_place = in_place;
  value.last_use = values_.size();
  values_.push_back(std::move(value));
}

void WorkspacePlan::find_last_uses() {
  for (size_t i = 0; i < values_.size(); ++i) {
    for (const int32_t input : values_[i].inputs) values_[static_cast<size_t>(input)].last_use = i;
  }
}

// Only when nothing reads the input later: then the result starts where the input ends its life.
bool WorkspacePlan::take_over_first_input(size_t index) {
  Value& value = values_[index];
  if (!value.in_place || value.inputs.empty()) return false;
  const Value& input = values_[static_cast<size_t>(value.inputs[0])];
  if (input.last_use != index || input.bytes != value.bytes || input.bytes == 0) return false;
  value.offset = input.offset;
  return true;
}

// The lowest offset where the value fits beside every value that is alive when it is made.
size_t WorkspacePlan::first_gap(size_t index) const {
  std::vector<std::pair<size_t, size_t>> taken;  // [start, end)
  for (size_t i = 0; i < index; ++i) {
    if (values_[i].bytes > 0 && values_[i].last_use >= index) taken.emplace_back(values_[i].offset, values_[i].offset + values_[i].bytes);
  }
  std::sort(taken.begin(), taken.end());
  size_t offset = 0;
  for (const auto& [start, end] : taken) {
    if (offset + values_[index].bytes <= start) break;
    offset = std::max(offset, end);
  }
  return offset;
}

void WorkspacePlan::place() {
  find_last_uses();
  for (size_t i = 0; i < values_.size(); ++i) {
    if (values_[i].bytes == 0) continue;
    if (!take_over_first_input(i)) values_[i].offset = first_gap(i);
    bytes_ = std::max(bytes_, values_[i].offset + values_[i].bytes);
  }
}

}  // namespace heddle
