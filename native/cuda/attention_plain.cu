// Attention of prompts for any head dimension and dtypes: one warp has one token and up to four query heads of one KV head, and goes
// through all keys that the token sees. Correct for everything, fast for nothing.
#include <algorithm>

#include "cuda/attention_scalar.cuh"
#include "cuda/launch.h"

namespace heddle::cuda {

namespace {

constexpr int kWarps = 4;

struct Shared {
  float queries[kWarps][kScalarRows * kMaxHeadDim];
  float2 rotation[kMaxHeadDim / 2];
};

template <class T, int Elements>
__global__ void __launch_bounds__(kWarps* kLanes) plain_kernel(AttentionParameters p, int chunks) {
  __shared__ Shared shared;
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int token = static_cast<int>(blockIdx.x);
  if (token >= p.step.counts->tokens) return;
  const int sequence = p.step.sequence_of_token[token];
  const int first = p.step.sequence_starts[sequence];
  const int end = p.step.sequence_starts[sequence + 1];
  if (p.decode_follows && end - first == 1) return;
  const int position = p.step.positions[token];
  fill_rotation(p, position, shared.rotation);
  __syncthreads();
  const int unit = static_cast<int>(blockIdx.y) * kWarps + warp_id();
  const int kv_head = min(unit / chunks, p.kv_head_count - 1);
  const int first_row = p.heads.start[kv_head] + unit % chunks * kScalarRows;
  const int rows = unit < p.kv_head_count * chunks ? min(kScalarRows, p.heads.start[kv_head + 1] - first_row) : 0;
  if (rows <= 0) return;                              // all lanes of the warp, and no barrier follows
  float* queries = shared.queries[warp_id()];
  const float scale = p.scale * kLog2e;
  for (int row = 0; row < rows; ++row) {
    prepare_head(p, query_offset(p, token, p.heads.query[first_row + row]), p.query_norm, shared.rotation,
                 [&](int i, float x) { queries[row * p.head_dim + i] = x * scale; });
  }
  __syncwarp();
  ScalarAttention<T, Elements> attention(p, queries, rows);
  const KeyRange keys = visible_keys(p, position, position + (end - token));
  attention.attend(blocks_of(p, sequence), kv_head, keys.begin, keys.end, -1, nullptr);
  attention.results(rows, [&](int row, int column, float x, float, float sum) {
    const int64_t head = p.heads.query[first_row + row];
    store_number(p.y, p.y_dtype, (int64_t{token} * p.head_count + head) * p.head_dim + column, x / sum);
  });
}

}  // namespace

void attention_plain(const Device& device, const AttentionParameters& p, const StepShape& shape) {
  const int32_t chunks = std::max(1, (widest_group(p) + kScalarRows - 1) / kScalarRows);
  const int32_t units = p.kv_head_count * chunks;
  with_type(p.cache_dtype, [&](auto type) {
    with_elements(p.head_dim, [&](auto elements) {
      launch("attention",
             {.grid = dim3(static_cast<unsigned>(shape.tokens), static_cast<unsigned>((units + kWarps - 1) / kWarps)),
              .block = dim3(kWarps * kLanes), .stream = device.stream(), .dependent = device.dependent_launch()},
             plain_kernel<decltype(type), elements.value>, p, chunks);
    });
  });
}

}  // namespace heddle::cuda
