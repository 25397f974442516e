// Keys and values of a step into the cache, and queries as the tensor-core kernel wants them. One block a token, one warp a head.
#include "cuda/attention_head.cuh"
#include "cuda/launch.h"

namespace heddle::cuda {

namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) append_kernel(AttentionParameters p, bool queries) {
  __shared__ float2 rotation[kMaxHeadDim / 2];
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int token = static_cast<int>(blockIdx.x);
  if (token >= p.step.counts->tokens) return;
  const int sequence = p.step.sequence_of_token[token];
  if (p.decode_follows && p.step.sequence_starts[sequence + 1] - p.step.sequence_starts[sequence] == 1) return;
  const int position = p.step.positions[token];
  fill_rotation(p, position, rotation);
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / kLanes;
  const int32_t* blocks = blocks_of(p, sequence);
  T* cache = static_cast<T*>(p.cache);
  for (int i = warp_id(); i < 2 * p.kv_head_count; i += warps) {
    const bool value = i >= p.kv_head_count;
    const int kv_head = value ? i - p.kv_head_count : i;
    T* row = cache + (int64_t{cache_row(p, blocks, kv_head, position)} + (value ? p.cache_rows : 0)) * p.head_dim;
    if (value) {
      const int64_t offset = value_offset(p, token, kv_head);
      for (int k = lane_id(); k < p.head_dim; k += kLanes) from_float(load_number(p.qkv, p.qkv_dtype, offset + k), row[k]);
    } else {
      prepare_head(p, key_offset(p, token, kv_head), p.key_norm, rotation, [&](int k, float x) { from_float(x, row[k]); });
    }
  }
  if (!queries) return;
  for (int head = warp_id(); head < p.head_count; head += warps) {
    const int64_t target = (int64_t{token} * p.head_count + head) * p.head_dim;
    prepare_head(p, query_offset(p, token, head), p.query_norm, rotation,
                 [&](int k, float x) { store_number(p.y, p.y_dtype, target + k, x); });
  }
}

}  // namespace

void attention_append(const Device& device, const AttentionParameters& p, const StepShape& shape, bool queries) {
  with_type(p.cache_dtype, [&](auto type) {
    launch("attention append",
           {.grid = dim3(static_cast<unsigned>(shape.tokens)), .block = dim3(kThreads), .stream = device.stream(),
            .dependent = device.dependent_launch()},
           append_kernel<decltype(type)>, p, queries);
  });
}

}  // namespace heddle::cuda
