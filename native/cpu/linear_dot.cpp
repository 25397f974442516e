// Drives the dot kernels: four far blocks of weight rows, walked in parallel.
// The weights stream from memory once, whatever the number of rows of x.
#include <algorithm>
#include <array>
#include <optional>

#include "core/sum_tree.h"
#include "cpu/linear_kernels.h"

namespace heddle::cpu {
namespace {

// Bytes that a single pass fetches ahead: near up to kNearColumns rows of x, far with more, as it pauses between weight
// rows then, and farther where it takes them in pairs. Were it more, what is fetched would drive x out of the first
// cache.
constexpr int64_t kNearDistance = 1024;
constexpr int64_t kFarDistance = 2048;
constexpr int64_t kPairDistance = 2688;
constexpr int64_t kNearColumns = 2;
constexpr int64_t kGroupDepth = 1024;  // elements: a group of weight rows and the next one fit the first cache well,
constexpr int64_t kWholeDepth = 1536;  // and up to so many just so, which costs less than a second group
// Results of so many weight rows from each place gather before they leave by the line: rows of y are often a multiple
// of 4 KB apart, so that the lines of all columns meet the same few cache sets and each would be lost before its next
// use. Where x fills the first cache, one more buffer costs more than that.
constexpr int64_t kGathered = 16;
constexpr int64_t kGatherStride = kDotWeights * kGathered;
constexpr int64_t kGatherBytes = 33 << 10;  // of packed x at most

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

int64_t single_distance(const DotPlan& plan) {
  if (plan.args.rows <= kNearColumns) return kNearDistance;
  return plan.args.rows <= plan.kernel.columns ? kFarDistance : kPairDistance;
}

// With one pass the fetch runs a fixed distance ahead in the same stream. With several, only the first would meet
// memory: each pass fetches its share of the next group instead, so that memory is never idle.
void aim_prefetch(const DotPlan& plan, const Group& group, int64_t pass, DotTask& task) {
  const int64_t group_bytes = group.depth * plan.element_size;
  const int64_t distance =
      plan.passes > 1 ? group_bytes + pass * (group_bytes / plan.passes) : single_distance(plan);
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

// The places from which weight rows are taken together, the first row of each.
struct Places {
  int64_t rows[kDotWeights];
  int count;  // those behind it repeat the last one: their results go nowhere
};

void put(const float* results, int64_t count, float* y) {
  if (count == kGathered) {
    std::copy_n(results, kGathered, y);  // a few moves instead of a call
  } else {
    std::copy_n(results, count, y);
  }
}

// `count` rows from each place: at once in a single pass, else all passes over one before the next.
void run_places(const DotPlan& plan, const int64_t (&rows)[kDotWeights], const int64_t (&columns)[kDotWeights],
                int64_t count) {
  const int64_t row_count = plan.passes == 1 ? count : 1;
  for (int64_t row = 0; row < count; row += row_count) {
    Group group{{}, {}, row_count, 0, 0};
    for (int i = 0; i < kDotWeights; ++i) {
      group.rows[i] = rows[i] + row;
      group.columns[i] = columns[i] + row;
    }
    run_rows(plan, group);
  }
}

// The same by way of `gathered`. Behind the first `distinct` places, one is repeated: its results go nowhere.
void run_gathered(DotPlan plan, float* gathered, const int64_t (&rows)[kDotWeights], int distinct, int64_t count) {
  const LinearArgs& args = plan.args;
  plan.y = gathered;
  plan.y_stride = kGatherStride;
  run_places(plan, rows, {0, kGathered, 2 * kGathered, 3 * kGathered}, count);
  for (int64_t row = 0; row < args.rows; ++row, gathered += kGatherStride) {
    for (int i = 0; i < distinct; ++i) put(gathered + i * kGathered, count, args.y + row * args.y_row() + rows[i]);
  }
}

void run_all(const DotPlan& plan, bool gather, float* gathered) {
  const int64_t out = plan.args.out, block = out / kDotWeights;
  const int64_t step = gather ? kGathered : block;
  for (int64_t row = 0; row < block; row += step) {
    const int64_t rows[] = {row, block + row, 2 * block + row, 3 * block + row};
    const int64_t count = std::min(step, block - row);
    if (gather) {
      run_gathered(plan, gathered, rows, kDotWeights, count);
    } else {
      run_places(plan, rows, rows, count);
    }
  }
  if (const int64_t rest = block * kDotWeights; rest < out) {
    // Up to three rows, through the same groups as all others: their bits do not tell that they are the rest.
    const int64_t last = out - 1, second = std::min(rest + 1, last), third = std::min(rest + 2, last);
    run_gathered(plan, gathered, {rest, second, third, last}, static_cast<int>(out - rest), 1);
  }
}

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Rows of packed x start at different cache sets.
int64_t packed_stride(const LinearArgs& args, const DotKernel& kernel) {
  return round_up(round_up(args.in, kMaxDotStep) * kernel.x_element_size, 64) + 64;
}

// Packs x, into args.rows * packed_stride bytes.
DotPlan plan_of(const LinearArgs& args, const DotKernel& kernel, std::byte* x) {
  const int64_t x_stride = packed_stride(args, kernel);
  for (int64_t row = 0; row < args.rows; ++row) {
    kernel.pack_row(args.x + row * args.x_row(), args.in, args.round_inputs, x + row * x_stride);
  }
  const bool single = args.rows <= kernel.single_columns && args.in <= kernel.single_depth;
  const int64_t passes = single ? 1 : (args.rows + kernel.columns - 1) / kernel.columns;
  const int64_t parts = passes == 1 || args.in <= kWholeDepth ? 1 : (args.in + kGroupDepth - 1) / kGroupDepth;
  const int64_t group_depth = round_up((args.in + parts - 1) / parts, kMaxDotStep);
  const auto element_size = static_cast<int64_t>(size_of(args.weight_dtype));
  return {args, kernel, x, x_stride, element_size, passes, group_depth, args.y, args.y_row()};
}

// The pieces of a contraction, each a product of its own; none where its width is 0. Plans refer to the arguments beside them.
struct Pieces {
  size_t count = 0;
  std::array<LinearArgs, kMaxChunks> args;
  std::array<std::optional<DotPlan>, kMaxChunks> plans;
  float* sums = nullptr;  // of piece after piece, [rows][kGatherStride] each
};

// Up to kGathered rows from each of the places; behind the first `distinct` of these, one is repeated. All pieces of a row before the next
// row: so the weights stream as they do where there are no pieces.
void run_pieces(const LinearArgs& args, const Pieces& pieces, const int64_t (&rows)[kDotWeights], int distinct, int64_t count) {
  const int64_t size = args.rows * kGatherStride;
  for (size_t i = 0; i < pieces.count; ++i) {
    if (!pieces.plans[i]) std::fill_n(pieces.sums + static_cast<int64_t>(i) * size, size, 0.0f);
  }
  for (int64_t row = 0; row < count; ++row) {
    const Group group = {{rows[0] + row, rows[1] + row, rows[2] + row, rows[3] + row},
                         {row, kGathered + row, 2 * kGathered + row, 3 * kGathered + row}, 1, 0, 0};
    for (size_t i = 0; i < pieces.count; ++i) {
      if (pieces.plans[i]) run_rows(*pieces.plans[i], group);
    }
  }
  add_tree(pieces.sums, size, 0, pieces.count, size);
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* gathered = pieces.sums + row * kGatherStride;
    for (int i = 0; i < distinct; ++i) put(gathered + i * kGathered, count, args.y + row * args.y_row() + rows[i]);
  }
}

}  // namespace

void run_dot(const LinearArgs& args, const DotKernel& kernel, LinearScratch& scratch) {
  const int64_t x_bytes = args.rows * packed_stride(args, kernel);
  const auto gathered_bytes = static_cast<int64_t>(sizeof(float)) * args.rows * kGatherStride;
  std::byte* x = scratch.reserve(static_cast<size_t>(x_bytes + gathered_bytes));
  const DotPlan plan = plan_of(args, kernel, x);
  const bool gather = args.rows > kNearColumns && x_bytes <= kGatherBytes;
  run_all(plan, gather, reinterpret_cast<float*>(x + x_bytes));
}

void run_dot_chunks(const LinearArgs& args, const Chunks& chunks, const DotKernel& kernel, LinearScratch& scratch) {
  Pieces pieces;
  pieces.count = chunks.size();
  int64_t x_bytes = 0, first = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    LinearArgs& piece = pieces.args[i] = args;
    piece.in = chunks[i];
    piece.x = args.x + first;
    piece.weight = static_cast<const std::byte*>(args.weight) + first * static_cast<int64_t>(size_of(args.weight_dtype));
    piece.x_stride = args.x_row();
    piece.weight_stride = args.weight_row();
    first += chunks[i];
    x_bytes += args.rows * packed_stride(piece, kernel);
  }
  const int64_t sums_size = static_cast<int64_t>(chunks.size()) * args.rows * kGatherStride;
  std::byte* memory = scratch.reserve(static_cast<size_t>(x_bytes) + static_cast<size_t>(sums_size) * sizeof(float));
  pieces.sums = reinterpret_cast<float*>(memory + x_bytes);
  std::byte* x = memory;
  for (size_t i = 0; i < chunks.size(); ++i) {
    LinearArgs& piece = pieces.args[i];
    if (piece.in == 0) continue;
    DotPlan plan = plan_of(piece, kernel, x);
    plan.y = pieces.sums + static_cast<int64_t>(i) * args.rows * kGatherStride;
    plan.y_stride = kGatherStride;
    pieces.plans[i].emplace(plan);
    x += args.rows * packed_stride(piece, kernel);
  }
  const int64_t block = args.out / kDotWeights;
  for (int64_t row = 0; row < block; row += kGathered) {
    run_pieces(args, pieces, {row, block + row, 2 * block + row, 3 * block + row}, kDotWeights, std::min(kGathered, block - row));
  }
  if (const int64_t rest = block * kDotWeights; rest < args.out) {
    const int64_t last = args.out - 1, second = std::min(rest + 1, last), third = std::min(rest + 2, last);
    run_pieces(args, pieces, {rest, second, third, last}, static_cast<int>(args.out - rest), 1);
  }
}

}  // namespace heddle::cpu
