#include <cstdint>

#include "core/attributes.h"
#include "core/compiled_node.h"
#include "core/error.h"

namespace heddle {

namespace {

[[noreturn]] void invalid(const std::string& text) { throw Error(ErrorCode::invalid_argument, "Program: " + text); }

// Attention attributes, checked against the cache and norm tensors that they describe.
AttentionSpec attention_spec(const Attributes& attributes, const Tensor& cache) {
  AttentionSpec spec;
  spec.head_count = attributes.integer("headCount");
  spec.kv_head_count = attributes.integer("kvHeadCount");
  spec.head_dim = attributes.integer("headDim");
  spec.kv_head_of_query = attributes.integers("kvHeadOfQuery");
  spec.scale = static_cast<float>(attributes.number("scale"));
  spec.causal = attributes.integer("causal") != 0;
  spec.sliding_window = attributes.integer("slidingWindow");
  spec.rope_dim = attributes.integer("ropeDim");
  spec.rope_scale = static_cast<float>(attributes.number("ropeScale"));
  spec.norm_eps = static_cast<float>(attributes.number("normEps"));
  if (cache.shape.size() != 5 || cache.shape[0] != 2 || cache.shape[2] != spec.kv_head_count || cache.shape[4] != spec.head_dim) {
    invalid("attention: the cache must be [2, blockCount, " + std::to_string(spec.kv_head_count) + ", blockSize, " +
            std::to_string(spec.head_dim) + "]");
  }
  if (cache.dtype == DType::float16) invalid("attention: expected a float32 or bfloat16 cache, got float16");
  spec.block_count = cache.shape[1];
  spec.block_size = cache.shape[3];
  const bool positive = spec.head_count > 0 && spec.kv_head_count > 0 && spec.head_dim > 0;
  if (spec.block_count < 1 || spec.block_size < 1) {
    invalid("attention: expected a cache of at least one block, got none");
  }
  if (!positive || static_cast<int64_t>(spec.kv_head_of_query.size()) != spec.head_count) {
    invalid("attention: expected positive head counts and a KV head for each of " + std::to_string(spec.head_count) + " query heads");
  }
  for (const int32_t head : spec.kv_head_of_query) {
    if (head < 0 || head >= spec.kv_head_count) invalid("attention: kvHeadOfQuery holds " + std::to_string(head));
  }
  if (spec.rope_dim < 0 || spec.rope_dim > spec.head_dim || spec.rope_dim % 2 != 0) {
    invalid("attention: ropeDim must be even and at most headDim, got " + std::to_string(spec.rope_dim));
  }
  if (spec.sliding_window < 0) invalid("attention: slidingWindow must not be negative");
  return spec;
}

// Ids are numbers of 32 bits, the largest of which stands for none.
int64_t vocab_size(const Attributes& attributes, const char* where) {
  const int64_t size = attributes.integer("vocabSize");
  if (size > 0 && size <= INT32_MAX) return size;
  invalid(std::string(where) + ": expected a vocabSize from 1 to " + std::to_string(INT32_MAX) + ", got " +
          std::to_string(size));
}

SampleSpec sample_spec(const Attributes& attributes, int64_t width) {
  const int64_t first = attributes.integer("firstId");
  if (first < 0 || first + width > INT32_MAX) {
    invalid("sample: expected ids from 0 to " + std::to_string(INT32_MAX - 1) + ", got " + std::to_string(width) +
            " from " + std::to_string(first));
  }
  return {first, vocab_size(attributes, "sample")};
}

size_t input_count(Op op) {
  if (op == Op::input || op == Op::embed) return 0;
  return op == Op::add || op == Op::experts ? 2 : 1;
}

void expect_vector(const Tensor& tensor, int64_t count, const char* what) {
  if (tensor.count() == count && tensor.dtype == DType::float32) return;
  invalid(std::string(what) + ": expected float32 [" + std::to_string(count) + "], got " + name_of(tensor.dtype) + " with " +
          std::to_string(tensor.count()) + " elements");
}

Activation activation_named(const std::string& kind) {
  if (kind == "gelu") return Activation::gelu;
  if (kind == "gelu_tanh") return Activation::gelu_tanh;
  if (kind == "relu") return Activation::relu;
  if (kind == "silu") return Activation::silu;
  invalid("activation kind must be gelu, gelu_tanh, relu or silu, got " + kind);
}

// Turns one node into its compiled form; `made` are the nodes before it.
class NodeCompiler {
 public:
  NodeCompiler(const Node& node, const std::vector<std::shared_ptr<CompiledNode>>& made, const TensorTable& tensors, int size)
      : node_(node), made_(made), tensors_(tensors), size_(size), attributes_(node) {}

  std::shared_ptr<CompiledNode> compile() {
    result_ = std::make_shared<CompiledNode>();
    result_->op = node_.op;
    result_->inputs = node_.inputs;
    result_->width = node_.width;
    if (node_.width <= 0 || node_.width > (int64_t{1} << 31)) invalid("node width " + std::to_string(node_.width));
    check_inputs();
    for (const int64_t id : node_.tensors) result_->tensors.push_back(id < 0 ? nullptr : tensor(id));
    if (!node_.inputs.empty()) result_->by_sequence = input(0).by_sequence;
    resolve();
    return result_;
  }

 private:
  // The number matters too: rows of the result are those of the first input.
  void check_inputs() const {
    const size_t count = input_count(node_.op);
    if (node_.inputs.size() != count) {
      invalid("node " + std::to_string(made_.size()) + ": expected inputs: " + std::to_string(count) + ", got " +
              std::to_string(node_.inputs.size()));
    }
    for (const int32_t input : node_.inputs) {
      const std::string what = "node input " + std::to_string(input);
      if (input < 0 || input >= static_cast<int32_t>(made_.size())) invalid(what + " is not an earlier node");
      if (!has_value(made_[static_cast<size_t>(input)]->op)) invalid(what + " has no value");
    }
  }

  std::shared_ptr<Tensor> tensor(int64_t id) const {
    const auto found = tensors_.find(id);
    if (found == tensors_.end()) throw Error(ErrorCode::closed, "Program: tensor " + std::to_string(id) + " was disposed");
    return found->second;
  }
  const CompiledNode& input(size_t index) const {
    if (index >= node_.inputs.size()) invalid("a node lacks input " + std::to_string(index));
    return *made_[static_cast<size_t>(node_.inputs[index])];
  }
  const Tensor& needed(size_t index) const {
    if (index >= result_->tensors.size() || !result_->tensors[index]) invalid("a node lacks tensor " + std::to_string(index));
    return *result_->tensors[index];
  }
  const Tensor* optional(size_t index) const {
    return index < result_->tensors.size() ? result_->tensors[index].get() : nullptr;
  }
  void expect_width(const char* where, int64_t expected, int64_t got) const {
    if (expected != got) invalid(std::string(where) + ": expected width " + std::to_string(expected) + ", got " + std::to_string(got));
  }

  void resolve() {
    switch (node_.op) {
      case Op::input: result_->name = attributes_.text("name"); break;
      case Op::output:
        result_->name = attributes_.text("name");
        expect_width("output", input(0).width, node_.width);
        break;
      case Op::embed:
        result_->embed = {attributes_.integer("firstRow"), attributes_.integer("byPosition") != 0,
                          static_cast<float>(attributes_.number("scale"))};
        result_->sample.vocab_size = vocab_size(attributes_, "embed");
        expect_width("embed", needed(0).width(), node_.width);
        break;
      case Op::linear:
        expect_width("linear: weight [out, in] against its input", needed(0).width(), input(0).width);
        expect_width("linear: weight [out, in] against its result", needed(0).rows(), node_.width);
        result_->linear.chunks = chunks("chunks", input(0).width);
        break;
      case Op::add_bias:
        expect_vector(needed(0), node_.width, "addBias");
        expect_width("addBias", input(0).width, node_.width);
        break;
      case Op::add:
        expect_width("add", input(0).width, node_.width);
        expect_width("add", input(1).width, node_.width);
        if (input(0).by_sequence != input(1).by_sequence) invalid("add: one input has token rows, the other sequence rows");
        break;
      case Op::all_reduce: expect_width("allReduce", input(0).width, node_.width); break;
      case Op::all_gather: resolve_all_gather(); break;
      case Op::slice:
        result_->start = attributes_.integer("start");
        if (result_->start < 0 || result_->start + node_.width > input(0).width) invalid("slice: outside its input");
        break;
      case Op::rms_norm:
      case Op::layer_norm:
        result_->eps = static_cast<float>(attributes_.number("eps"));
        expect_width("norm", input(0).width, node_.width);
        expect_vector(needed(0), node_.width, "norm weight");
        if (optional(1)) expect_vector(*optional(1), node_.width, "norm bias");
        break;
      case Op::activation:
        result_->activation = activation_named(attributes_.text("kind"));
        expect_width("activation", input(0).width, node_.width);
        break;
      case Op::gated:
        result_->activation = activation_named(attributes_.text("kind"));
        expect_width("gated", input(0).width, 2 * node_.width);
        break;
      case Op::route:
        result_->route = {experts_per_token(input(0).width), attributes_.integer("normalized") != 0};
        expect_width("route", input(0).width, node_.width);
        break;
      case Op::experts: resolve_experts(); break;
      case Op::attention: resolve_attention(); break;
      case Op::last_rows:
        expect_width("lastRows", input(0).width, node_.width);
        if (result_->by_sequence) invalid("lastRows: its input already has sequence rows");
        result_->by_sequence = true;
        break;
      case Op::sample:
        result_->sample = sample_spec(attributes_, input(0).width);
        if (!result_->by_sequence) invalid("sample: expected sequence rows (lastRows)");
        break;
    }
  }

  void resolve_all_gather() {
    for (const int32_t width : attributes_.integers("widths")) result_->widths.push_back(width);
    int64_t sum = 0;
    for (const int64_t width : result_->widths) {
      if (width < 1) invalid("allGather: expected widths of at least 1, got " + std::to_string(width));
      sum += width;
    }
    if (static_cast<int>(result_->widths.size()) != size_) invalid("allGather: expected one width for each rank");
    expect_width("allGather", sum, node_.width);
  }

  int64_t experts_per_token(int64_t experts) const {
    const int64_t count = attributes_.integer("expertsPerToken");
    if (count > 0 && count <= experts) return count;
    invalid("expected expertsPerToken from 1 to " + std::to_string(experts) + ", got " + std::to_string(count));
  }

  // Pieces of `length` elements: see Chunks.
  Chunks chunks(const char* name, int64_t length) const {
    Chunks pieces;
    int64_t sum = 0;
    for (const int32_t piece : attributes_.optional_integers(name)) {
      if (piece < 0) invalid(std::string(name) + ": expected pieces of at least 0, got " + std::to_string(piece));
      pieces.push_back(piece);
      sum += piece;
    }
    if (pieces.size() > kMaxChunks) invalid(std::string(name) + ": expected at most " + std::to_string(kMaxChunks) + " pieces");
    if (sum > length) invalid(std::string(name) + ": expected a sum of at most " + std::to_string(length) + ", got " + std::to_string(sum));
    return pieces;
  }

  void resolve_experts() {
    const int64_t all = input(1).width;
    result_->experts.first_expert = attributes_.integer("firstExpert");
    result_->experts.experts_per_token = experts_per_token(all);
    result_->experts.activation = activation_named(attributes_.text("kind"));
    expect_width("experts", input(0).width, node_.width);
    expect_width("experts: gateUp against its input", needed(0).width(), node_.width);
    if (input(0).by_sequence != input(1).by_sequence) invalid("experts: one input has token rows, the other sequence rows");
    const int64_t inner = needed(1).width();
    const int64_t held = needed(1).rows() / node_.width;
    const bool fits = held > 0 && inner > 0 && needed(1).rows() == held * node_.width && needed(0).rows() == held * 2 * inner;
    if (!fits) {
      invalid("experts: expected gateUp [experts * 2 * inner, width] and down [experts * width, inner] for width " +
              std::to_string(node_.width) + ", got " + std::to_string(needed(0).rows()) + " rows, and " +
              std::to_string(needed(1).rows()) + " of " + std::to_string(inner));
    }
    result_->experts.chunks = chunks("chunks", inner);
    result_->experts.expert_chunks = chunks("expertChunks", held);
    if (!result_->experts.chunks.empty() && !result_->experts.expert_chunks.empty()) invalid("experts: expected chunks or expertChunks, got both");
    const int64_t first = result_->experts.first_expert;
    if (first < 0 || first > all - held) {
      invalid("experts: expected experts within the " + std::to_string(all) + " of the routing, got " + std::to_string(held) + " from " +
              std::to_string(first));
    }
  }

  void resolve_attention() {
    result_->attention = attention_spec(attributes_, needed(0));
    const AttentionSpec& spec = result_->attention;
    if (result_->by_sequence) invalid("attention: expected token rows");
    expect_width("attention: its input [queries | keys | values]", (spec.head_count + 2 * spec.kv_head_count) * spec.head_dim, input(0).width);
    expect_width("attention", spec.head_count * spec.head_dim, node_.width);
    if (spec.rope_dim > 0) expect_vector(needed(1), spec.rope_dim / 2, "attention inverse frequencies");
    for (const size_t norm : {2, 3}) {
      if (optional(norm)) expect_vector(*optional(norm), spec.head_dim, "attention query and key norm");
    }
  }

  const Node& node_;
  const std::vector<std::shared_ptr<CompiledNode>>& made_;
  const TensorTable& tensors_;
  int size_;
  Attributes attributes_;
  std::shared_ptr<CompiledNode> result_;
};

}  // namespace

std::shared_ptr<CompiledNode> compile_node(const Node& node, const std::vector<std::shared_ptr<CompiledNode>>& made, const TensorTable& tensors,
                                           int size) {
  return NodeCompiler(node, made, tensors, size).compile();
}

bool has_value(Op op) { return op != Op::output && op != Op::sample; }

bool works_in_place(Op op) {
  switch (op) {
    case Op::add_bias:
    case Op::add:
    case Op::all_reduce:
    case Op::rms_norm:
    case Op::layer_norm:
    case Op::activation:
      return true;
    default:
      return false;
  }
}

}  // namespace heddle
