// Attention of one rank: which kernels a step needs. Rule: the choice for decode steps follows from shapes and dtypes alone, so that a
// graph of one bucket always holds the same kernels; that of prompts also from what is found of the library.
#include "cuda/attention.h"

#include <algorithm>
#include <climits>
#include <string>
#include <vector>

#include "core/error.h"
#include "cuda/attention_library.h"
#include "cuda/attention_parameters.h"

namespace heddle::cuda {

namespace {

[[noreturn]] void invalid(const std::string& what) { throw Error(ErrorCode::invalid_argument, "attention: expected " + what); }

void check_limits(const AttentionSpec& spec) {
  if (spec.head_count > kMaxHeads || spec.kv_head_count > kMaxHeads) {
    invalid("at most " + std::to_string(kMaxHeads) + " heads on a rank, got " + std::to_string(spec.head_count) + " query and " +
            std::to_string(spec.kv_head_count) + " KV heads");
  }
  if (spec.head_dim > kMaxHeadDim) {
    invalid("a headDim of at most " + std::to_string(kMaxHeadDim) + ", got " + std::to_string(spec.head_dim));
  }
  const int64_t rows = spec.block_count * spec.kv_head_count * spec.block_size;
  if (rows > INT32_MAX) invalid("at most " + std::to_string(INT32_MAX) + " keys in a cache, got " + std::to_string(rows));
}

HeadTable head_table(const AttentionSpec& spec) {
  HeadTable table = {};
  int count = 0;
  for (int64_t kv_head = 0; kv_head < spec.kv_head_count; ++kv_head) {
    table.start[kv_head] = static_cast<uint16_t>(count);
    for (int64_t head = 0; head < spec.head_count; ++head) {
      if (spec.kv_head_of_query[static_cast<size_t>(head)] == kv_head) table.query[count++] = static_cast<uint8_t>(head);
    }
  }
  table.start[spec.kv_head_count] = static_cast<uint16_t>(count);
  return table;
}

const float* floats_of(const Tensor* tensor) { return tensor ? static_cast<const float*>(tensor->buffer.data()) : nullptr; }

AttentionParameters parameters_of(const AttentionCall& call) {
  const AttentionSpec& spec = *call.spec;
  check_limits(spec);
  AttentionParameters p = {};
  p.step = call.step;
  p.qkv = call.qkv.data;
  p.y = call.y.data;
  p.cache = call.tensors.cache->buffer.data();
  p.inverse_frequencies = floats_of(call.tensors.inverse_frequencies);
  p.query_norm = floats_of(call.tensors.query_norm);
  p.key_norm = floats_of(call.tensors.key_norm);
  p.qkv_dtype = call.qkv.dtype;
  p.y_dtype = call.y.dtype;
  p.cache_dtype = call.tensors.cache->dtype;
  p.causal = spec.causal;
  p.head_count = static_cast<int32_t>(spec.head_count);
  p.kv_head_count = static_cast<int32_t>(spec.kv_head_count);
  p.head_dim = static_cast<int32_t>(spec.head_dim);
  p.block_size = static_cast<int32_t>(spec.block_size);
  p.cache_rows = static_cast<int32_t>(spec.block_count * spec.kv_head_count * spec.block_size);
  p.rope_half = static_cast<int32_t>(spec.rope_dim / 2);
  p.sliding_window = spec.sliding_window > INT32_MAX ? 0 : static_cast<int32_t>(spec.sliding_window);
  p.scale = spec.scale;
  p.rope_scale = spec.rope_scale;
  p.norm_eps = spec.norm_eps;
  p.heads = head_table(spec);
  return p;
}

}  // namespace

int32_t widest_group(const AttentionParameters& p) {
  int32_t widest = 0;
  for (int32_t i = 0; i < p.kv_head_count; ++i) widest = std::max<int32_t>(widest, p.heads.start[i + 1] - p.heads.start[i]);
  return widest;
}

void attention(const Device& device, const AttentionCall& call) {
  if (call.shape.tokens == 0 || call.shape.sequences == 0) return;
  AttentionParameters p = parameters_of(call);
  if (call.shape.longest_part == 1) return attention_decode(device, p, call.shape);
  // A sequence of one token among longer ones has one query and maybe a long context, which the decode kernels share out better.
  p.decode_follows = call.shape.sequences > 1;
  const bool tensor_cores = prefill_runs(p);
  attention_append(device, p, call.shape, tensor_cores);
  const bool done = tensor_cores && device.prompts && device.prompts->run(device, p, call.shape);
  if (p.decode_follows) attention_decode(device, p, call.shape);
  if (done) return;
  if (tensor_cores) {
    attention_prefill(device, p, call.shape);
  } else {
    attention_plain(device, p, call.shape);
  }
}

}  // namespace heddle::cuda
