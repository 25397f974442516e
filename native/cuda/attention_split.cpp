#include "cuda/attention_split.h"

#include <algorithm>

namespace heddle::cuda {

namespace {

constexpr int64_t kUsualHeads = 4;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

SplitPlan plan_split(const Device& device, const AttentionParameters& p, const StepShape& shape, int32_t rows) {
  SplitPlan plan;
  plan.rows = rows;
  plan.chunks = static_cast<int32_t>(std::max<int64_t>(1, ceil_div(widest_group(p), rows)));
  plan.width = static_cast<int32_t>(ceil_div(p.head_dim, 4) * 4);
  const int64_t units = shape.sequences * p.kv_head_count * plan.chunks;
  // As if every rank had a few KV heads: in a reproducible group the parts, which the sums follow, may not depend on how many it has.
  const int64_t shared_units = device.reproducible ? shape.sequences * kUsualHeads : units;
  plan.splits = static_cast<int32_t>(std::clamp<int64_t>(ceil_div(2 * device.sm_count(), shared_units), 1, kMaxSplits));
  if (plan.splits == 1) return plan;
  const auto results = static_cast<size_t>(units * plan.splits * rows);
  const size_t stats_bytes = results * sizeof(float2);  // first: rows of `partial` then stay aligned to 16 bytes where rows is even
  const size_t partial_bytes = results * static_cast<size_t>(plan.width) * sizeof(float);
  auto* memory = static_cast<unsigned char*>(device.scratch(Scratch::attention_partial, stats_bytes + partial_bytes));
  plan.stats = reinterpret_cast<float2*>(memory);
  plan.partial = reinterpret_cast<float*>(memory + stats_bytes);
  plan.counters = static_cast<uint32_t*>(device.scratch(Scratch::attention_counter, static_cast<size_t>(units) * sizeof(uint32_t)));
  return plan;
}

dim3 grid_of(const SplitPlan& plan, const AttentionParameters& p, const StepShape& shape) {
  return dim3(static_cast<unsigned>(plan.splits), static_cast<unsigned>(p.kv_head_count * plan.chunks),
              static_cast<unsigned>(shape.sequences));
}

size_t merge_bytes(const SplitPlan& plan, int warps) {
  const auto rows = static_cast<size_t>(plan.rows);
  return std::max(static_cast<size_t>(warps) * rows * (sizeof(float2) + static_cast<size_t>(plan.width) * sizeof(float)),
                  rows * kMaxSplits * sizeof(float));
}

}  // namespace heddle::cuda
