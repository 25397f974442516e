#include "cuda/stage_runner.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "cuda/attention.h"
#include "cuda/experts.h"
#include "cuda/logprobs.h"
#include "cuda/operations.h"

namespace heddle::cuda {

namespace {

// Before the workspace exists: an address like those in it, for questions about data types and sizes.
void* stand_in_address() {
  alignas(64) static unsigned char byte;
  return &byte;
}

}  // namespace

StageRunner::StageRunner(const ProgramPlan& program, DType dtype, bool fuse, const Device& device, DeviceCommunicator& communicator)
    : program_(program), dtype_(dtype), device_(device), communicator_(communicator) {
  ScheduleOptions options{dtype, communicator.size(), fuse, {}, device.reproducible};
  options.fuses_all_reduce = [this](const Schedule& schedule, const Stage& stage) { return fuses(schedule, stage); };
  schedule_ = make_schedule(program, options);
  made_.resize(program.nodes.size());
  for (const auto& node : program.nodes) sums_ = sums_ || node->op == Op::all_reduce;
  const size_t bytes = std::max<size_t>(schedule_.workspace_bytes, 64);
  const char* what = "the workspace of a program";
  workspace_ = sums_ ? communicator.allocate(device, bytes, what) : device.allocate(bytes, what);
}

StageRunner::~StageRunner() {
  if (registered_) communicator_.forget_memory(workspace_);
}

// At the first step, since all ranks come to that together or fail together; and that is never captured.
void StageRunner::register_workspace() {
  registered_ = true;
  uint64_t layout = 0xcbf29ce484222325u;              // FNV-1a over the places of the sums
  for (size_t i = 0; i < program_.nodes.size(); ++i) {
    if (program_.nodes[i]->op == Op::all_reduce) layout = (layout ^ schedule_.places[i].offset) * 0x100000001b3u;
  }
  communicator_.register_memory(workspace_, layout);
}

// Asked for the smallest step; a larger one that the communicator refuses runs node by node.
bool StageRunner::fuses(const Schedule& schedule, const Stage& stage) const {
  const auto one_row = [&](int32_t value) {
    return View{stand_in_address(), schedule.places[static_cast<size_t>(value)].dtype, 1, node(value).width};
  };
  AllReduceEpilogue epilogue;
  if (stage.residual != kNone) epilogue.residual = one_row(stage.residual);
  epilogue.y = one_row(stage.add != kNone ? stage.add : stage.main());
  if (stage.norm != kNone) {
    epilogue.norm_weight = node(stage.norm).tensors[0].get();
    epilogue.norm_eps = node(stage.norm).eps;
    epilogue.normed = one_row(stage.norm);
  }
  return communicator_.fuses(one_row(stage.main()), epilogue);
}

View StageRunner::view(int32_t index, const StepShape& shape) const {
  const Place& place = schedule_.places[static_cast<size_t>(index)];
  const CompiledNode& made = node(index);
  return {static_cast<char*>(workspace_.data()) + place.offset, place.dtype, made.by_sequence ? shape.sequences : shape.tokens, made.width};
}

void StageRunner::run(const StepRun& run, const std::atomic<bool>& cancelled) {
  if (sums_ && !registered_) register_workspace();
  made_.assign(made_.size(), false);
  for (const Stage& stage : schedule_.stages) {
    if (cancelled.load(std::memory_order_relaxed)) throw Error(ErrorCode::closed, "Program: the group was closed during a run");
    switch (stage.kind) {
      case Stage::Kind::single: run_node(stage.main(), run); break;
      case Stage::Kind::linear: run_linear(stage, run); break;
      case Stage::Kind::all_reduce: run_all_reduce(stage, run); break;
    }
  }
}

void StageRunner::run_linear(const Stage& stage, const StepRun& run) {
  const LinearCall call = linear_call(stage, run.shape);
  if (can_fold(call)) return linear(device_, call);
  run_single(stage, run);
}

LinearCall StageRunner::product(int32_t index, View x, View y) const {
  LinearCall call;
  call.x = x;
  call.weight = node(index).tensors[0].get();
  call.y = y;
  call.exact = dtype_ == DType::float32;
  call.chunks = &node(index).linear.chunks;
  return call;
}

LinearCall StageRunner::linear_call(const Stage& stage, const StepShape& shape) const {
  LinearCall call = product(stage.main(), view(input(stage.norm != kNone ? stage.norm : stage.main()), shape), view(stage.last(), shape));
  if (stage.norm != kNone) {
    call.norm_weight = node(stage.norm).tensors[0].get();
    call.norm_eps = node(stage.norm).eps;
  }
  if (stage.bias != kNone) call.bias = node(stage.bias).tensors[0].get();
  if (stage.activation != kNone) {
    const CompiledNode& made = node(stage.activation);
    (made.op == Op::gated ? call.gated : call.activation) = made.activation;
  }
  if (stage.residual != kNone) call.residual = view(stage.residual, shape);
  return call;
}

void StageRunner::run_all_reduce(const Stage& stage, const StepRun& run) {
  const AllReduceEpilogue after = epilogue(stage, run.shape);
  const View x = view(input(stage.main()), run.shape);
  const View sum = view(stage.main(), run.shape);
  if (!stage.fused() || !communicator_.fuses(sum, after)) return run_single(stage, run);
  if (x.data != sum.data) slice(device_, x, 0, sum);  // x is read again later
  communicator_.all_reduce_fused(sum, after);
}

AllReduceEpilogue StageRunner::epilogue(const Stage& stage, const StepShape& shape) const {
  AllReduceEpilogue after;
  if (stage.residual != kNone) after.residual = view(stage.residual, shape);
  after.y = view(stage.add != kNone ? stage.add : stage.main(), shape);
  if (stage.norm == kNone) return after;
  after.norm_weight = node(stage.norm).tensors[0].get();
  after.norm_eps = node(stage.norm).eps;
  after.normed = view(stage.norm, shape);
  return after;
}

void StageRunner::run_single(const Stage& stage, const StepRun& run) {
  for (const int32_t index : stage.nodes) run_node(index, run);
}

void StageRunner::run_node(int32_t index, const StepRun& run) {
  const CompiledNode& made = node(index);
  const auto x = [&](size_t which) { return view(input(index, which), run.shape); };
  const auto tensor = [&](size_t i) { return i < made.tensors.size() ? made.tensors[i].get() : nullptr; };
  if (!made.inputs.empty() && schedule_.on_demand[static_cast<size_t>(input(index))]) need_norm(input(index), run);
  if (!has_value(made.op)) return made.op == Op::sample ? run_sample(index, run) : void();
  const View y = view(index, run.shape);
  switch (made.op) {
    case Op::input: return upload(run.host->inputs.at(made.name), y);
    case Op::embed: return embed(device_, run.step, *tensor(0), made.embed, y);
    case Op::linear: return linear(device_, product(index, x(0), y));
    case Op::add_bias: return add_bias(device_, x(0), *tensor(0), y);
    case Op::add: return run_add(x(0), x(1), y);
    case Op::all_reduce: return run_sum(x(0), y);
    case Op::all_gather: return communicator_.all_gather(x(0), made.widths, y);
    case Op::slice: return slice(device_, x(0), made.start, y);
    case Op::rms_norm: return rms_norm(device_, x(0), *tensor(0), made.eps, y);
    case Op::layer_norm: return layer_norm(device_, x(0), *tensor(0), tensor(1), made.eps, y);
    case Op::activation: return activation(device_, x(0), made.activation, y);
    case Op::gated: return gated(device_, x(0), made.activation, y);
    case Op::route: return route(device_, x(0), made.route, y);
    case Op::experts:
      return experts(device_, {x(0), x(1), tensor(0), tensor(1), &made.experts, y, dtype_ == DType::float32});
    case Op::attention:
      return attention(device_, {run.step, run.shape, x(0), {tensor(0), tensor(1), tensor(2), tensor(3)}, &made.attention, y});
    case Op::last_rows: return last_rows(device_, run.step, x(0), y);
    case Op::sample:
    case Op::output: return;
  }
}

void StageRunner::need_norm(int32_t index, const StepRun& run) {
  if (made_[static_cast<size_t>(index)]) return;
  run_node(index, run);
  made_[static_cast<size_t>(index)] = true;
}

void StageRunner::run_sample(int32_t index, const StepRun& run) {
  const View logits = view(input(index), run.shape);
  if (most_columns_ == 0) most_columns_ = most_columns(logits.width, communicator_);
  const SampleCall call = {run.step, run.shape, logits, node(index).sample, run.methods, most_columns_};
  sample(device_, call, communicator_);
  if (run.methods.logprobs) logprobs(device_, call, communicator_);
}

// The sum may have the memory of either term; the operation expects it to be that of the first.
void StageRunner::run_add(View a, View b, View y) {
  if (y.data == b.data) std::swap(a, b);
  add(device_, a, b, y);
}

void StageRunner::run_sum(View x, View y) {
  if (x.data != y.data) slice(device_, x, 0, y);  // x is read again later
  communicator_.all_reduce(y);
}

// Inputs are float32 in every group. The host's memory is pageable, so it may change once this returns.
void StageRunner::upload(const HostMatrix& matrix, View y) {
  check(cudaMemcpyAsync(y.data, matrix.data.data(), matrix.data.size() * sizeof(float), cudaMemcpyHostToDevice, device_.stream()), "input");
}

}  // namespace heddle::cuda
