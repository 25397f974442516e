// What every attention kernel is given, by value, and which kernels there are. Rule: kernels know nothing of Views and Tensors.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "cuda/attention.h"

namespace heddle::cuda {

constexpr int32_t kMaxHeads = 256;                    // query heads and KV heads of a rank: what HeadTable has room for
constexpr int32_t kMaxHeadDim = 256;
constexpr size_t kLeastSharedBytes = 99 * 1024;       // dynamic shared memory that a block can have on every GPU from sm_80 on

// Query heads in the order of their KV head. Heads of one KV head need not be neighbours.
struct HeadTable {
  uint8_t query[kMaxHeads];
  uint16_t start[kMaxHeads + 1];                      // of each KV head in `query`
};

struct AttentionParameters {
  DeviceStep step;
  const void* qkv;
  void* y;
  void* cache;
  const float* inverse_frequencies;                   // null: no rotary embedding
  const float* query_norm;                            // null: none
  const float* key_norm;
  DType qkv_dtype;
  DType y_dtype;
  DType cache_dtype;
  bool causal;
  bool decode_follows;                                // sequences of one token are left to attention_decode
  int32_t head_count;
  int32_t kv_head_count;
  int32_t head_dim;
  int32_t block_size;
  int32_t cache_rows;                                 // of keys, and as many of values behind them
  int32_t rope_half;                                  // ropeDim / 2; 0: no rotary embedding
  int32_t sliding_window;                             // 0: none
  float scale;
  float rope_scale;
  float norm_eps;
  HeadTable heads;

  constexpr int64_t qkv_width() const { return int64_t{head_count + 2 * kv_head_count} * head_dim; }
};

// Most query heads that one KV head has.
int32_t widest_group(const AttentionParameters& p);

// Keys and values into the cache; with `queries` also normalised and rotated queries into y, where attention_prefill reads them.
void attention_append(const Device& device, const AttentionParameters& p, const StepShape& shape, bool queries);

// Append and attend for the sequences that have one token in the step; others are left alone.
void attention_decode(const Device& device, const AttentionParameters& p, const StepShape& shape);

// On tensor cores, for sequences whose keys are in the cache and whose prepared queries are in y.
bool prefill_runs(const AttentionParameters& p);
void attention_prefill(const Device& device, const AttentionParameters& p, const StepShape& shape);

// The same for any head dimension and dtypes, with queries as they are in qkv.
void attention_plain(const Device& device, const AttentionParameters& p, const StepShape& shape);

}  // namespace heddle::cuda
