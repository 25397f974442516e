// Drives the dot kernels: four far blocks of weight rows, walked in parallel.
// The weights stream from memory once, whatever the number of rows of x.
#include <algorithm>

#include "cpu/linear_kernels.h"

namespace heddle::cpu {
namespace {

// Bytes that a single pass fetches ahead: near up to kNearColumns rows of x, far with more, as it pauses between weight
// rows then.
constexpr int64_t kNearDistance = 1024;
constexpr int64_t kFarDistance = 2048;
constexpr int64_t kNearColumns = 2;
constexpr int64_t kGroupDepth = 1024;  // elements: a group of weight rows and the next one fit the first cache well,
constexpr int64_t kWholeDepth = 1536;  // and up to so many just so, which costs less than a second group

struct DotPlan {
  const LinearArgs& args;
  const DotKernel& kernel;
  const std::byte* x;    // packed
  int64_t x_stride;      // bytes
  int64_t element_size;  // of weights
  int64_t passes;        // over a group, which stays in the first cache between them
  int64_t group_depth;   // elements of the weight rows that make up a group
  float* y;              // column group.columns[i] of it is weight row group.rows[i]
  int64_t y_stride;
};

// The part of four weight rows that all passes use before the next part is touched.
struct Group {
  int64_t rows[kDotWeights];
  int64_t columns[kDotWeights];
  int64_t row_count;  // from each of these on: more than one only in a single pass
  int64_t k;          // first element
  int64_t depth;
};

// With one pass the fetch runs a fixed distance ahead in the same stream. With several, only the first would meet
// memory: each pass fetches its share of the next group instead, so that memory is never idle.
void aim_prefetch(const DotPlan& plan, const Group& group, int64_t pass, DotTask& task) {
  const int64_t group_bytes = group.depth * plan.element_size;
  const int64_t distance = plan.passes > 1 ? group_bytes + pass * (group_bytes / plan.passes)
                                           : (plan.args.rows <= kNearColumns ? kNearDistance : kFarDistance);
  for (int i = 0; i < kDotWeights; ++i) task.prefetch[i] = task.weight[i] + distance;
  task.prefetch_step = plan.kernel.step_bytes / plan.passes;
}

void run_group(const DotPlan& plan, const Group& group) {
  const LinearArgs& args = plan.args;
  DotTask task;
  task.depth = group.depth;
  task.row_stride = args.weight_row() * plan.element_size;
  task.row_count = group.row_count;
  task.x_stride = plan.x_stride;
  task.y_stride = plan.y_stride;
  task.accumulate = group.k > 0;
  for (int i = 0; i < kDotWeights; ++i) {
    task.weight[i] =
        static_cast<const std::byte*>(args.weight) + (group.rows[i] * args.weight_row() + group.k) * plan.element_size;
  }
  int64_t first = 0;
  for (int64_t pass = 0; pass < plan.passes; ++pass) {
    const int64_t columns = (args.rows - first + plan.passes - pass - 1) / (plan.passes - pass);
    task.x = plan.x + first * plan.x_stride + group.k * plan.kernel.x_element_size;
    for (int i = 0; i < kDotWeights; ++i) task.y[i] = plan.y + first * plan.y_stride + group.columns[i];
    aim_prefetch(plan, group, pass, task);
    plan.kernel.run[columns - 1](task);
    first += columns;
  }
}

void run_rows(const DotPlan& plan, Group group) {
  for (group.k = 0; group.k < plan.args.in; group.k += plan.group_depth) {
    group.depth = std::min(plan.group_depth, plan.args.in - group.k);
    run_group(plan, group);
  }
}

// Up to three rows behind the last four, the last one repeated. They have sums of their own, as a repeated row must not be added to, and go
// through the same groups as all others: their bits do not tell that they are the rest.
void run_rest(DotPlan plan, int64_t first, float* sums) {
  const LinearArgs& args = plan.args;
  plan.y = sums;
  plan.y_stride = kDotWeights;
  const int64_t last = args.out - 1;
  run_rows(plan, {{first, std::min(first + 1, last), std::min(first + 2, last), last}, {0, 1, 2, 3}, 1, 0, 0});
  for (int64_t row = 0; row < args.rows; ++row) {
    std::copy_n(sums + row * kDotWeights, args.out - first, args.y + row * args.y_row() + first);
  }
}

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

void run_dot(const LinearArgs& args, const DotKernel& kernel, LinearScratch& scratch) {
  // Rows of packed x start at different cache sets.
  const int64_t x_stride = round_up(round_up(args.in, kMaxDotStep) * kernel.x_element_size, 64) + 64;
  const int64_t x_bytes = args.rows * x_stride;
  std::byte* x = scratch.reserve(static_cast<size_t>(x_bytes) + static_cast<size_t>(args.rows) * kDotWeights * sizeof(float));
  for (int64_t row = 0; row < args.rows; ++row) {
    kernel.pack_row(args.x + row * args.x_row(), args.in, args.round_inputs, x + row * x_stride);
  }
  const int64_t passes = (args.rows + kernel.columns - 1) / kernel.columns;
  const int64_t parts = passes == 1 || args.in <= kWholeDepth ? 1 : (args.in + kGroupDepth - 1) / kGroupDepth;
  const int64_t group_depth = round_up((args.in + parts - 1) / parts, kMaxDotStep);
  const auto element_size = static_cast<int64_t>(size_of(args.weight_dtype));
  const DotPlan plan{args, kernel, x, x_stride, element_size, passes, group_depth, args.y, args.y_row()};
  const int64_t block = args.out / kDotWeights;
  const int64_t row_count = passes == 1 ? block : 1;
  for (int64_t row = 0; row < block; row += row_count) {
    const int64_t second = block + row, third = 2 * block + row, fourth = 3 * block + row;
    run_rows(plan, {{row, second, third, fourth}, {row, second, third, fourth}, row_count, 0, 0});
  }
  if (const int64_t rest = block * kDotWeights; rest < args.out) run_rest(plan, rest, reinterpret_cast<float*>(x + x_bytes));
}

}  // namespace heddle::cpu
