#include "core/program.h"

#include <algorithm>

#include "core/compiled_node.h"
#include "core/error.h"
#include "core/node_executor.h"

namespace heddle {

namespace {

[[noreturn]] void invalid(const std::string& text) { throw Error(ErrorCode::invalid_argument, "Program: " + text); }

}  // namespace

Program::Program(const CreateProgram& message, const TensorTable& tensors, Backend& backend, Communicator& communicator) {
  compile(message, tensors, communicator.size());
  executor_ = backend.compile(plan_, communicator);
  if (!executor_) executor_ = std::make_unique<NodeExecutor>(plan_, backend, communicator);
}

void Program::compile(const CreateProgram& message, const TensorTable& tensors, int size) {
  plan_.max_tokens = message.max_tokens;
  plan_.max_sequences = message.max_sequences;
  if (plan_.max_tokens < 1 || plan_.max_sequences < 1 || plan_.max_sequences > plan_.max_tokens) {
    invalid("expected 1 <= maxSequences <= maxTokens, got " + std::to_string(plan_.max_sequences) + " and " +
            std::to_string(plan_.max_tokens));
  }
  for (const Node& node : message.nodes) {
    plan_.nodes.push_back(compile_node(node, plan_.nodes, tensors, size));
    const CompiledNode& made = *plan_.nodes.back();
    if (made.op == Op::embed) (made.embed.by_position ? position_count_ : vocab_size_) = made.sample.vocab_size;
    if (made.op == Op::attention) {
      if (block_size_ != 0 && block_size_ != made.attention.block_size) invalid("attention: all caches need the same block size");
      block_size_ = made.attention.block_size;
      cache_blocks_ = cache_blocks_ == 0 ? made.attention.block_count : std::min(cache_blocks_, made.attention.block_count);
    }
  }
}

void Program::check(const Step& step) const {
  const int64_t tokens = step.token_count();
  const int64_t sequences = step.sequence_count();
  if (tokens < 1 || tokens > plan_.max_tokens) {
    invalid("a step takes 1 to " + std::to_string(plan_.max_tokens) + " tokens, got " + std::to_string(tokens));
  }
  if (sequences < 1 || sequences > plan_.max_sequences) {
    invalid("a step takes 1 to " + std::to_string(plan_.max_sequences) + " sequences, got " + std::to_string(sequences));
  }
  if (static_cast<int64_t>(step.sequence_starts.size()) != sequences + 1 || step.sequence_starts.front() != 0 ||
      step.sequence_starts.back() != tokens) {
    invalid("sequenceStarts must hold sequences + 1 offsets from 0 to the token count");
  }
  if (!step.sampling.empty() && static_cast<int64_t>(step.sampling.size()) != sequences) {
    invalid("expected sampling for each of " + std::to_string(sequences) + " sequences, got " + std::to_string(step.sampling.size()));
  }
  check_edits(step);
  for (const int32_t slot : step.slots) {
    if (slot < 0 || slot >= kMaxSlots) invalid("slot " + std::to_string(slot) + " is out of range");
  }
  if (vocab_size_ > 0) check_tokens(step);
  for (int64_t i = 0; i < sequences; ++i) check_sequence(step, i);
  for (const auto& node : plan_.nodes) {
    if (node->op == Op::input) check_input(step, node->name, node->width);
  }
}

void Program::check_edits(const Step& step) const {
  for (const SamplingParams& params : step.sampling) {
    if (params.logprobs > kMaxLogprobs) invalid("expected at most " + std::to_string(kMaxLogprobs) + " logprobs, got " + std::to_string(params.logprobs));
  }
  const std::vector<int32_t>& starts = step.edit_starts;
  if (starts.empty() && step.edits.empty()) return;
  const bool whole = starts.size() == step.slots.size() + 1 && starts.front() == 0 && std::is_sorted(starts.begin(), starts.end()) &&
                     starts.back() == static_cast<int64_t>(step.edits.size());
  if (!whole) invalid("edit starts must hold sequences + 1 offsets from 0 to the number of edits");
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
  const int64_t end = int64_t{step.positions[static_cast<size_t>(last) - 1]} + 1;
  if (position_count_ > 0 && end > position_count_) {
    invalid("expected sequences of at most " + std::to_string(position_count_) + " positions, got " + std::to_string(end));
  }
  if (block_size_ == 0) return;
  const int64_t blocks = (end - 1) / block_size_ + 1;
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

void Program::start(const Step& step, const std::atomic<bool>& cancelled) {
  entered_ = false;
  check(step);
  entered_ = true;
  try {
    executor_->start(step, cancelled);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::invalid_argument) entered_ = false;  // nothing was submitted, on every rank alike
    throw;
  }
}

}  // namespace heddle
