// A small decoder as the nodes and tensors that one rank gets, for tests of schedules and executors.
// Rule: recorded as lib/models/decoder.ts records it; in a group of one nothing is summed or gathered.
#pragma once
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/compiled_node.h"
#include "core/executor.h"
#include "core/message.h"
#include "core/program.h"
#include "../test.h"

namespace heddle::test {

struct DecoderOptions {
  int size = 1;
  int64_t hidden = 32;
  int64_t head_count = 8;
  int64_t kv_head_count = 4;
  int64_t head_dim = 8;
  int64_t intermediate = 48;
  int64_t layer_count = 2;
  int64_t vocab_size = 40;
  int64_t block_count = 12;
  int64_t block_size = 4;
  bool bias = false;
  bool gated = true;
  bool head_norms = true;                             // of queries and keys
  bool tied = false;
  bool outputs = false;                               // all logits and the hidden states, in place of sampled tokens
  DType weights = DType::float32;
  DType cache = DType::float32;
};

// A tensor of a rank: random, around `center`, and zero for caches.
struct TensorSpec {
  std::vector<int64_t> shape;
  DType dtype = DType::float32;
  TensorRole role = TensorRole::weight;
  bool replicated = false;
  float center = 0;
  float spread = 0;
};

class Decoder {
 public:
  explicit Decoder(const DecoderOptions& options, int rank = 0) : options_(options), rank_(rank) { record(); }

  const std::vector<Node>& nodes() const { return nodes_; }
  const std::map<int64_t, TensorSpec>& tensors() const { return tensors_; }

  // The elements of a tensor on this rank.
  std::vector<float> values(int64_t id) const {
    const TensorSpec& spec = tensors_.at(id);
    int64_t count = 1;
    for (const int64_t length : spec.shape) count *= length;
    Random random(static_cast<uint64_t>(id) * 64 + static_cast<uint64_t>(spec.replicated ? 63 : rank_));
    return random.uniform_vector(static_cast<size_t>(count), spec.center - spec.spread, spec.center + spec.spread);
  }

 private:
  void record() {
    const int64_t embedding = matrix(options_.vocab_size / options_.size, options_.hidden, 1);
    frequencies_ = vector(options_.head_dim / 2, 0.5f, 0.4f);
    int32_t x = reduced(embed(embedding));
    for (int64_t layer = 0; layer < options_.layer_count; ++layer) {
      x = node(Op::add, {x, attention_block(norm(x))}, {}, options_.hidden);
      x = node(Op::add, {x, feed_forward(norm(x))}, {}, options_.hidden);
    }
    const int64_t head = options_.tied ? embedding : matrix(options_.vocab_size / options_.size, options_.hidden, 0.3f);
    if (options_.outputs) return record_outputs(x, head);
    sample(linear(norm(node(Op::last_rows, {x}, {}, options_.hidden)), head));
  }

  void record_outputs(int32_t x, int64_t head) {
    int32_t logits = linear(norm(x), head);
    if (options_.size > 1) {
      logits = node(Op::all_gather, {logits}, {}, options_.vocab_size);
      nodes_.back().lists["widths"].assign(static_cast<size_t>(options_.size), static_cast<double>(options_.vocab_size / options_.size));
    }
    output(x, "hidden");
    output(logits, "logits");
  }

  int32_t attention_block(int32_t x) {
    const int64_t heads = options_.head_count / options_.size;
    const int64_t kv_heads = options_.kv_head_count / options_.size;
    const int64_t dim = options_.head_dim;
    const int32_t qkv = biased(linear(x, matrix((heads + 2 * kv_heads) * dim, options_.hidden, 0.3f)), false);
    const std::vector<int64_t> cache_shape = {2, options_.block_count, kv_heads, options_.block_size, dim};
    const int64_t cache = tensor(cache_shape, options_.cache, TensorRole::cache, 0, 0, false);
    const int64_t query_norm = options_.head_norms ? vector(dim, 1, 0.2f) : -1;
    const int64_t key_norm = options_.head_norms ? vector(dim, 1, 0.2f) : -1;
    const int32_t y = node(Op::attention, {qkv}, {cache, frequencies_, query_norm, key_norm}, heads * dim);
    nodes_.back().numbers = {{"headCount", double(heads)}, {"kvHeadCount", double(kv_heads)}, {"headDim", double(dim)},
                             {"scale", 1 / std::sqrt(double(dim))}, {"causal", 1}, {"slidingWindow", 0}, {"ropeDim", double(dim)},
                             {"ropeScale", 1}, {"normEps", 1e-6}};
    for (int64_t head = 0; head < heads; ++head) nodes_.back().lists["kvHeadOfQuery"].push_back(double(head * kv_heads / heads));
    return biased(reduced(linear(y, matrix(options_.hidden, heads * dim, 0.3f))), true);
  }

  int32_t feed_forward(int32_t x) {
    const int64_t inner = options_.intermediate / options_.size;
    int32_t y = biased(linear(x, matrix(options_.gated ? 2 * inner : inner, options_.hidden, 0.3f)), false);
    y = node(options_.gated ? Op::gated : Op::activation, {y}, {}, inner);
    nodes_.back().texts["kind"] = options_.gated ? "silu" : "gelu_tanh";
    return biased(reduced(linear(y, matrix(options_.hidden, inner, 0.3f))), true);
  }

  int32_t embed(int64_t weight) {
    const int32_t y = node(Op::embed, {}, {weight}, options_.hidden);
    nodes_.back().numbers = {{"firstRow", double(rank_ * options_.vocab_size / options_.size)}, {"vocabSize", double(options_.vocab_size)},
                             {"byPosition", 0}, {"scale", 1}};
    return y;
  }

  void sample(int32_t logits) {
    node(Op::sample, {logits}, {}, 1);
    nodes_.back().numbers = {{"firstId", double(rank_ * options_.vocab_size / options_.size)}, {"vocabSize", double(options_.vocab_size)}};
  }

  void output(int32_t x, const std::string& name) {
    node(Op::output, {x}, {}, width(x));
    nodes_.back().texts["name"] = name;
  }

  int32_t linear(int32_t x, int64_t weight) { return node(Op::linear, {x}, {weight}, tensors_.at(weight).shape[0]); }
  int32_t reduced(int32_t x) { return options_.size == 1 ? x : node(Op::all_reduce, {x}, {}, width(x)); }
  int32_t norm(int32_t x) {
    const int32_t y = node(Op::rms_norm, {x}, {vector(width(x), 1, 0.2f)}, width(x));
    nodes_.back().numbers["eps"] = 1e-6;
    return y;
  }
  int32_t biased(int32_t x, bool replicated) {
    if (!options_.bias) return x;
    return node(Op::add_bias, {x}, {tensor({width(x)}, DType::float32, TensorRole::weight, 0, 0.2f, replicated)}, width(x));
  }

  int64_t width(int32_t x) const { return nodes_[static_cast<size_t>(x)].width; }

  int32_t node(Op op, std::vector<int32_t> inputs, std::vector<int64_t> tensors, int64_t width) {
    Node made;
    made.op = op;
    made.inputs = std::move(inputs);
    made.tensors = std::move(tensors);
    made.width = width;
    nodes_.push_back(std::move(made));
    return static_cast<int32_t>(nodes_.size()) - 1;
  }

  int64_t tensor(std::vector<int64_t> shape, DType dtype, TensorRole role, float center, float spread, bool replicated) {
    const auto id = static_cast<int64_t>(tensors_.size()) + 1;
    tensors_[id] = {std::move(shape), dtype, role, replicated, center, spread};
    return id;
  }
  int64_t matrix(int64_t rows, int64_t columns, float spread) {
    return tensor({rows, columns}, options_.weights, TensorRole::weight, 0, spread, false);
  }
  int64_t vector(int64_t count, float center, float spread) {
    return tensor({count}, DType::float32, TensorRole::weight, center, spread, true);
  }

  const DecoderOptions options_;
  const int rank_;
  int64_t frequencies_ = -1;
  std::vector<Node> nodes_;
  std::map<int64_t, TensorSpec> tensors_;
};

// As Program compiles them.
inline ProgramPlan compiled(const std::vector<Node>& nodes, const TensorTable& tensors, int size, int64_t max_tokens,
                            int64_t max_sequences) {
  ProgramPlan plan;
  plan.max_tokens = max_tokens;
  plan.max_sequences = max_sequences;
  for (const Node& node : nodes) plan.nodes.push_back(compile_node(node, plan.nodes, tensors, size));
  return plan;
}

}  // namespace heddle::test
