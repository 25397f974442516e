// Split decode for any head dimension and dtypes: the warps of a block take turns at the keys of its part.
#include "cuda/attention_scalar.cuh"
#include "cuda/attention_split.cuh"
#include "cuda/launch.h"

namespace heddle::cuda {

namespace {

constexpr int kWarps = 4;
constexpr int kTurnKeys = kSplitKeys / kWarps;

template <class T>
struct Shared {
  float queries[kScalarRows * kMaxHeadDim];
  T fresh[2 * kMaxHeadDim];                           // the new key, and behind its headDim elements the new value
  float2 rotation[kMaxHeadDim / 2];
};

template <class T>
__device__ __forceinline__ void prepare(const AttentionParameters& p, const SplitPart& part, Shared<T>& shared) {
  fill_rotation(p, part.position, shared.rotation);
  __syncthreads();
  const int tasks = part.rows + (part.newest ? 2 : 0);
  const float scale = p.scale * kLog2e;
  for (int task = warp_id(); task < tasks; task += kWarps) {
    if (task < part.rows) {
      const int head = p.heads.query[part.first_row + task];
      prepare_head(p, query_offset(p, part.token, head), p.query_norm, shared.rotation,
                   [&](int i, float x) { shared.queries[task * p.head_dim + i] = x * scale; });
    } else if (task == part.rows) {
      append_key(p, part, shared.rotation, shared.fresh);
    } else {
      append_value(p, part, shared.fresh + p.head_dim);
    }
  }
  __syncthreads();
}

template <class T, int Elements>
__global__ void __launch_bounds__(kWarps* kLanes) decode_plain_kernel(AttentionParameters p, SplitPlan plan) {
  __shared__ Shared<T> shared;
  HEDDLE_DYNAMIC_SHARED(memory);
  ptx::dependency_wait();
  ptx::dependency_launch();
  SplitPart part;
  if (!find_part(p, plan, part)) return;
  prepare(p, part, shared);
  if (part.rows <= 0) return;
  ScalarAttention<T, Elements> attention(p, shared.queries, part.rows);
  const int32_t* blocks = blocks_of(p, part.sequence);
  for (int first = part.begin + warp_id() * kTurnKeys; first < part.end; first += kSplitKeys) {
    attention.attend(blocks, part.kv_head, first, min(first + kTurnKeys, part.end), part.position, part.newest ? shared.fresh : nullptr);
  }
  const MergeMemory results = merge_memory(plan, memory, kWarps);
  const int base = warp_id() * plan.rows;
  attention.results(part.rows, [&](int row, int column, float x, float maximum, float sum) {
    results.values[(base + row) * plan.width + column] = x;
    if (column == 0) results.stats[base + row] = make_float2(maximum, sum);
  });
  __syncthreads();
  finish_part(p, plan, part, results);
}

}  // namespace

void attention_decode_plain(const Device& device, const AttentionParameters& p, const StepShape& shape) {
  const SplitPlan plan = plan_split(device, p, shape, kScalarRows);
  with_type(p.cache_dtype, [&](auto type) {
    with_elements(p.head_dim, [&](auto elements) {
      launch("attention decode",
             {.grid = grid_of(plan, p, shape), .block = dim3(kWarps * kLanes), .shared_bytes = merge_bytes(plan, kWarps),
              .stream = device.stream(), .dependent = device.dependent_launch()},
             decode_plain_kernel<decltype(type), elements.value>, p, plan);
    });
  });
}

}  // namespace heddle::cuda
