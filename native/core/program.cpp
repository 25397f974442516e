#include "core/program.h"

#include <algorithm>

#include "core/compiled_node.h"
#include "core/error.h"
#include "core/workspace_plan.h"

namespace heddle {

namespace {

[[noreturn]] void invalid(const std::string& text) { throw Error(ErrorCode::invalid_argument, "Program: " + text); }

// Adds up the bytes of all values: that sum bounds whatever the plan makes of them, so nothing overflows there.
class WorkspaceBytes {
 public:
  size_t add(int64_t rows, int64_t width, size_t element) {
    int64_t bytes = 0;
    const bool overflows = __builtin_mul_overflow(rows, width, &bytes) ||
                           __builtin_mul_overflow(bytes, static_cast<int64_t>(element), &bytes) ||
                           __builtin_add_overflow(sum_, bytes, &sum_) || sum_ > kLargest;
    if (overflows) {
      throw Error(ErrorCode::out_of_memory,
                  "Program: expected a workspace that fits into memory, got more than 2^60 bytes with " +
                      std::to_string(rows) + " rows of " + std::to_string(width));
    }
    return static_cast<size_t>(bytes);
  }

 private:
  static constexpr int64_t kLargest = int64_t{1} << 60;
  int64_t sum_ = 0;
};

}  // namespace

Program::Program(const CreateProgram& message, const TensorTable& tensors, Backend& backend, Communicator& communicator)
    : backend_(backend), communicator_(communicator), max_tokens_(message.max_tokens), max_sequences_(message.max_sequences) {
  if (max_tokens_ < 1 || max_sequences_ < 1 || max_sequences_ > max_tokens_) {
    invalid("expected 1 <= maxSequences <= maxTokens, got " + std::to_string(max_sequences_) + " and " + std::to_string(max_tokens_));
  }
  WorkspacePlan plan;
  WorkspaceBytes bytes;
  const size_t element = size_of(backend.activation_dtype());
  for (const Node& node : message.nodes) {
    nodes_.push_back(compile_node(node, nodes_, tensors, communicator.size()));
    const CompiledNode& made = *nodes_.back();
    if (made.op == Op::embed) vocab_size_ = made.sample.vocab_size;
    if (made.op == Op::attention) {
      if (block_size_ != 0 && block_size_ != made.attention.block_size) invalid("attention: all caches need the same block size");
      block_size_ = made.attention.block_size;
      cache_blocks_ = cache_blocks_ == 0 ? made.attention.block_count : std::min(cache_blocks_, made.attention.block_count);
    }
    const int64_t rows = made.by_sequence ? max_sequences_ : max_tokens_;
    plan.add(made.inputs, has_value(made.op) ? bytes.add(rows, made.width, element) : 0, works_in_place(made.op));
  }
  plan.place();
  for (size_t i = 0; i < nodes_.size(); ++i) nodes_[i]->offset = plan.offset(i);
  workspace_ = backend.allocate(std::max<size_t>(plan.bytes(), 64));
}

void Program::check(const Step& step) const {
  const int64_t tokens = step.token_count();
  const int64_t sequences = step.sequence_count();
  if (tokens < 1 || tokens > max_tokens_) {
    invalid("a step takes 1 to " + std::to_string(max_tokens_) + " tokens, got " + std::to_string(tokens));
  }
  if (sequences < 1 || sequences > max_sequences_) {
    invalid("a step takes 1 to " + std::to_string(max_sequences_) + " sequences, got " + std::to_string(sequences));
  }
  if (static_cast<int64_t>(step.sequence_starts.size()) != sequences + 1 || step.sequence_starts.front() != 0 ||
      step.sequence_starts.back() != tokens) {
    invalid("sequenceStarts must hold sequences + 1 offsets from 0 to the token count");
  }
  if (!step.sampling.empty() && static_cast<int64_t>(step.sampling.size()) != sequences) {
    invalid("expected sampling for each of " + std::to_string(sequences) + " sequences, got " + std::to_string(step.sampling.size()));
  }
  for (const int32_t slot : step.slots) {
    if (slot < 0 || slot >= kMaxSlots) invalid("slot " + std::to_string(slot) + " is out of range");
  }
  if (vocab_size_ > 0) check_tokens(step);
  for (int64_t i = 0; i < sequences; ++i) check_sequence(step, i);
  for (const auto& node : nodes_) {
    if (node->op == Op::input) check_input(step, node->name, node->width);
  }
}

void Program::check_tokens(const Step& step) const {
  if (step.tokens.size() != step.positions.size()) invalid("expected as many tokens as positions");
  for (const int32_t token : step.tokens) {
    if (token >= vocab_size_ || token < -kMaxSlots) {
      invalid("token id " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(vocab_size_));
    }
  }
}

void Program::check_sequence(const Step& step, int64_t index) const {
  const auto i = static_cast<size_t>(index);
  const int32_t first = step.sequence_starts[i];
  const int32_t last = step.sequence_starts[i + 1];
  if (first < 0 || last <= first || last > step.token_count()) invalid("sequence " + std::to_string(index) + " has no tokens in the step");
  for (int32_t t = first; t < last; ++t) {
    const int32_t position = step.positions[static_cast<size_t>(t)];
    if (position < 0 || position != int64_t{step.positions[static_cast<size_t>(first)]} + (t - first)) {
      invalid("positions of sequence " + std::to_string(index) + " must be consecutive and not negative");
    }
  }
  if (block_size_ == 0) return;
  const int64_t blocks = step.positions[static_cast<size_t>(last) - 1] / block_size_ + 1;
  if (blocks > step.blocks_per_sequence()) invalid("the block table is too short for sequence " + std::to_string(index));
  for (int64_t b = 0; b < blocks; ++b) {
    const int32_t block = step.block_table[static_cast<size_t>(index * step.blocks_per_sequence() + b)];
    if (block < 0 || block >= cache_blocks_) invalid("cache block " + std::to_string(block) + " is out of range");
  }
}

void Program::check_input(const Step& step, const std::string& name, int64_t width) const {
  const auto found = step.inputs.find(name);
  if (found == step.inputs.end()) invalid("the step lacks input " + name);
  const HostMatrix& matrix = found->second;
  const auto expected = static_cast<size_t>(step.token_count() * width);
  if (matrix.data.size() != expected) {
    invalid("input " + name + ": expected " + std::to_string(expected) + " elements, got " + std::to_string(matrix.data.size()));
  }
}

View Program::view_of(int32_t value, const Step& step) const {
  const CompiledNode& node = *nodes_[static_cast<size_t>(value)];
  return {static_cast<char*>(workspace_.data()) + node.offset, backend_.activation_dtype(),
          node.by_sequence ? step.sequence_count() : step.token_count(), node.width};
}

RunResult Program::run(const Step& step, const std::atomic<bool>& cancelled) {
  entered_ = false;
  check(step);
  entered_ = true;
  RunResult result;
  const StepView view = begin(step);
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (cancelled.load(std::memory_order_relaxed)) throw Error(ErrorCode::closed, "Program: the group was closed during a run");
    execute(*nodes_[i], static_cast<int32_t>(i), step, view, result);
  }
  backend_.synchronize();
  return result;
}

StepView Program::begin(const Step& step) {
  try {
    return backend_.begin_step(step);
  } catch (const Error& error) {  // a slot without a token lacks it on every rank, since all of them sampled the same
    if (error.code() == ErrorCode::invalid_argument) entered_ = false;
    throw;
  }
}

void Program::execute(const CompiledNode& node, int32_t index, const Step& step, const StepView& view, RunResult& result) {
  const View y = view_of(index, step);
  const auto x = [&](size_t input) { return view_of(node.inputs[input], step); };
  const auto tensor = [&](size_t i) { return i < node.tensors.size() ? node.tensors[i].get() : nullptr; };
  switch (node.op) {
    case Op::input: return upload_input(step.inputs.at(node.name), y);
    case Op::embed: return backend_.embed(view, *tensor(0), node.start, y);
    case Op::linear: return backend_.linear(x(0), *tensor(0), y);
    case Op::add_bias: return backend_.add_bias(x(0), *tensor(0), y);
    case Op::add: return backend_.add(x(0), x(1), y);
    case Op::all_reduce: return all_reduce(x(0), y);
    case Op::all_gather: return communicator_.all_gather(x(0), node.widths, y);
    case Op::slice: return backend_.slice(x(0), node.start, y);
    case Op::rms_norm: return backend_.rms_norm(x(0), *tensor(0), node.eps, y);
    case Op::layer_norm: return backend_.layer_norm(x(0), *tensor(0), tensor(1), node.eps, y);
    case Op::activation: return backend_.activation(x(0), node.activation, y);
    case Op::gated: return backend_.gated(x(0), node.activation, y);
    case Op::attention:
      return backend_.attention(view, x(0), {tensor(0), tensor(1), tensor(2), tensor(3)}, node.attention, y);
    case Op::last_rows: return backend_.last_rows(view, x(0), y);
    case Op::sample:
      result.tokens.resize(static_cast<size_t>(step.sequence_count()));
      return backend_.sample(view, x(0), node.sample, communicator_, result.tokens.data());
    case Op::output:
      if (communicator_.rank() == 0) result.outputs[node.name] = download(x(0));
      return;
  }
}

void Program::all_reduce(View x, View y) {
  if (x.data != y.data) backend_.slice(x, 0, y);  // the plan could not give y the memory of x: x is read again later
  communicator_.all_reduce(y);
}

void Program::upload_input(const HostMatrix& matrix, View y) {
  const size_t count = matrix.data.size();
  if (y.dtype == DType::float32) return backend_.upload(y.data, matrix.data.data(), count * sizeof(float));
  std::vector<uint16_t> converted(count);
  convert(matrix.data.data(), DType::float32, converted.data(), y.dtype, count);
  backend_.upload(y.data, converted.data(), count * sizeof(uint16_t));
}

HostMatrix Program::download(View x) {
  const auto count = static_cast<size_t>(x.rows * x.width);
  HostMatrix matrix{std::vector<float>(count), {x.rows, x.width}};
  if (x.dtype == DType::float32) {
    backend_.download(matrix.data.data(), x.data, count * sizeof(float));
    return matrix;
  }
  std::vector<uint16_t> raw(count);
  backend_.download(raw.data(), x.data, count * sizeof(uint16_t));
  convert(raw.data(), x.dtype, matrix.data.data(), DType::float32, count);
  return matrix;
}

}  // namespace heddle
