#include "core/node_executor.h"

#include <algorithm>
#include <utility>

#include "core/compiled_node.h"
#include "core/error.h"

namespace heddle {

NodeExecutor::NodeExecutor(const ProgramPlan& program, Backend& backend, Communicator& communicator)
    : program_(program), backend_(backend), communicator_(communicator) {
  place_values();
  workspace_ = backend_.allocate(std::max<size_t>(places_.bytes(), 64));
}

void NodeExecutor::place_values() {
  ValueBytes bytes;
  const size_t element = size_of(backend_.activation_dtype());
  for (const auto& node : program_.nodes) {
    const int64_t rows = node->by_sequence ? program_.max_sequences : program_.max_tokens;
    places_.add(node->inputs, has_value(node->op) ? bytes.add(rows, node->width, element) : 0, works_in_place(node->op));
  }
  places_.place();
}

// invalid_argument of begin_step is a refusal: a slot without a token lacks it on every rank, since all of them sampled the same. The
// same code from a kernel is none, so it must not leave from here.
void NodeExecutor::start(const Step& step, const std::atomic<bool>& cancelled) {
  const StepView view = backend_.begin_step(step);
  result_ = {};
  failure_ = nullptr;
  try {
    run(step, view, cancelled);
  } catch (...) {
    failure_ = std::current_exception();
  }
}

RunResult NodeExecutor::finish(const std::atomic<bool>&) {
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  return std::exchange(result_, {});
}

void NodeExecutor::run(const Step& step, const StepView& view, const std::atomic<bool>& cancelled) {
  for (size_t i = 0; i < program_.nodes.size(); ++i) {
    if (cancelled.load(std::memory_order_relaxed)) throw Error(ErrorCode::closed, "Program: the group was closed during a run");
    execute(*program_.nodes[i], view_of(i, step), step, view);
  }
  backend_.synchronize();
}

View NodeExecutor::view_of(size_t value, const Step& step) const {
  const CompiledNode& node = *program_.nodes[value];
  return {static_cast<char*>(workspace_.data()) + places_.offset(value), backend_.activation_dtype(),
          node.by_sequence ? step.sequence_count() : step.token_count(), node.width};
}

void NodeExecutor::execute(const CompiledNode& node, View y, const Step& step, const StepView& view) {
  const auto x = [&](size_t input) { return view_of(static_cast<size_t>(node.inputs[input]), step); };
  const auto tensor = [&](size_t i) { return i < node.tensors.size() ? node.tensors[i].get() : nullptr; };
  switch (node.op) {
    case Op::input: return upload_input(step.inputs.at(node.name), y);
    case Op::embed: return backend_.embed(view, *tensor(0), node.embed, y);
    case Op::linear: return backend_.linear(x(0), *tensor(0), node.linear, y);
    case Op::add_bias: return backend_.add_bias(x(0), *tensor(0), y);
    case Op::add: return backend_.add(x(0), x(1), y);
    case Op::all_reduce: return all_reduce(x(0), y);
    case Op::all_gather: return communicator_.all_gather(x(0), node.widths, y);
    case Op::slice: return backend_.slice(x(0), node.start, y);
    case Op::rms_norm: return backend_.rms_norm(x(0), *tensor(0), node.eps, y);
    case Op::layer_norm: return backend_.layer_norm(x(0), *tensor(0), tensor(1), node.eps, y);
    case Op::activation: return backend_.activation(x(0), node.activation, y);
    case Op::gated: return backend_.gated(x(0), node.activation, y);
    case Op::route: return backend_.route(x(0), node.route, y);
    case Op::experts: return backend_.experts(x(0), x(1), *tensor(0), *tensor(1), node.experts, y);
    case Op::attention:
      return backend_.attention(view, x(0), {tensor(0), tensor(1), tensor(2), tensor(3)}, node.attention, y);
    case Op::last_rows: return backend_.last_rows(view, x(0), y);
    case Op::sample:
      return sample(node, x(0), step, view);
    case Op::output:
      if (communicator_.rank() == 0) result_.outputs[node.name] = download(x(0));
      return;
  }
}

void NodeExecutor::sample(const CompiledNode& node, View logits, const Step& step, const StepView& view) {
  result_.tokens.resize(static_cast<size_t>(step.sequence_count()));
  backend_.sample(view, logits, node.sample, communicator_, result_.tokens.data());
  if (!asks_for_logprobs(step)) return;
  backend_.logprobs(view, logits, node.sample, communicator_, result_.tokens.data(), result_.logprobs);
}

void NodeExecutor::all_reduce(View x, View y) {
  if (x.data != y.data) backend_.slice(x, 0, y);  // the plan could not give y the memory of x: x is read again later
  communicator_.all_reduce(y);
}

void NodeExecutor::upload_input(const HostMatrix& matrix, View y) {
  const size_t count = matrix.data.size();
  if (y.dtype == DType::float32) return backend_.upload(y.data, matrix.data.data(), count * sizeof(float));
  std::vector<uint16_t> converted(count);
  convert(matrix.data.data(), DType::float32, converted.data(), y.dtype, count);
  backend_.upload(y.data, converted.data(), count * sizeof(uint16_t));
}

HostMatrix NodeExecutor::download(View x) {
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
