// Schedules of programs, without a GPU: what is folded, the data type of every value, and that no value is overwritten while it is
// needed, whichever form each stage runs in.
#include "cuda/schedule.h"

#include <algorithm>
#include <string>
#include <vector>

#include "decoder.h"

namespace heddle::test {
namespace {

using cuda::kNone;
using cuda::make_schedule;
using cuda::Schedule;
using cuda::ScheduleOptions;
using cuda::Stage;

const char* name_of(Op op) {
  switch (op) {
    case Op::input: return "input";
    case Op::embed: return "embed";
    case Op::linear: return "linear";
    case Op::route: return "route";
    case Op::experts: return "experts";
    case Op::add_bias: return "bias";
    case Op::add: return "add";
    case Op::all_reduce: return "all_reduce";
    case Op::all_gather: return "all_gather";
    case Op::slice: return "slice";
    case Op::rms_norm: return "norm";
    case Op::layer_norm: return "layer_norm";
    case Op::gated: return "gated";
    case Op::activation: return "activation";
    case Op::attention: return "attention";
    case Op::last_rows: return "last_rows";
    case Op::sample: return "sample";
    case Op::output: return "output";
  }
  return "?";
}

// "norm+linear+gated | attention": stages in order, each by its nodes.
std::string described(const ProgramPlan& plan, const Schedule& schedule) {
  std::string text;
  for (const Stage& stage : schedule.stages) {
    text += text.empty() ? "" : " | ";
    if (stage.kind == Stage::Kind::linear && stage.norm != kNone) text += "norm+";
    for (const int32_t node : stage.nodes) {
      if (node != stage.main()) text += "+";
      text += name_of(plan.nodes[static_cast<size_t>(node)]->op);
    }
  }
  return text;
}

TensorTable without_memory(const Decoder& decoder) {
  TensorTable table;
  for (const auto& [id, spec] : decoder.tensors()) {
    table[id] = std::make_shared<Tensor>();
    table[id]->dtype = spec.dtype;
    table[id]->shape = spec.shape;
    table[id]->role = spec.role;
  }
  return table;
}

ProgramPlan plan_of(const DecoderOptions& options) {
  const Decoder decoder(options);
  return compiled(decoder.nodes(), without_memory(decoder), options.size, 48, 6);
}

std::string described(const DecoderOptions& options, ScheduleOptions how = {}) {
  how.size = options.size;
  const ProgramPlan plan = plan_of(options);
  return described(plan, make_schedule(plan, how));
}

void expect_text(const std::string& got, const std::string& expected) {
  check(got == expected, "expected ", expected, "\n  got      ", got);
}

// ---- memory: what a device would hold, in units of 64 bytes ----

// Runs a schedule on a memory that remembers whose bytes it holds.
class MemoryCheck {
 public:
  MemoryCheck(const ProgramPlan& plan, const Schedule& schedule, const std::string& what)
      : plan_(plan), schedule_(schedule), what_(what), owners_((schedule.workspace_bytes + kUnit - 1) / kUnit, kNone),
        made_(plan.nodes.size(), false) {}

  // `fused` says in which form a stage runs.
  void run(const std::function<bool(const Stage&)>& fused) {
    for (const Stage& stage : schedule_.stages) {
      if (stage.kind == Stage::Kind::linear && fused(stage)) {
        run_linear(stage);
      } else if (stage.kind == Stage::Kind::all_reduce && stage.fused() && fused(stage)) {
        run_all_reduce(stage);
      } else {
        for (const int32_t node : stage.nodes) run_node(node);
      }
    }
    for (size_t i = 0; i < plan_.nodes.size(); ++i) {
      if (plan_.nodes[i]->op == Op::output) read(inputs(static_cast<int32_t>(i))[0], "output at the end");
    }
  }

 private:
  static constexpr size_t kUnit = 64;
  enum class Relation { apart, same, overlapping };

  const CompiledNode& node(int32_t index) const { return *plan_.nodes[static_cast<size_t>(index)]; }
  const std::vector<int32_t>& inputs(int32_t index) const { return schedule_.inputs[static_cast<size_t>(index)]; }
  const cuda::Place& place(int32_t value) const { return schedule_.places[static_cast<size_t>(value)]; }
  size_t begin(int32_t value) const { return place(value).offset / kUnit; }
  size_t end(int32_t value) const {
    const int64_t rows = node(value).by_sequence ? plan_.max_sequences : plan_.max_tokens;
    return begin(value) + (static_cast<size_t>(rows * node(value).width) * size_of(place(value).dtype) + kUnit - 1) / kUnit;
  }
  Relation relation(int32_t a, int32_t b) const {
    if (begin(a) == begin(b) && end(a) == end(b) && place(a).dtype == place(b).dtype) return Relation::same;
    return end(a) <= begin(b) || end(b) <= begin(a) ? Relation::apart : Relation::overlapping;
  }

  void expect_apart(int32_t a, int32_t b, const char* why) {
    check(relation(a, b) == Relation::apart, what_, ": ", a, " and ", b, ": ", why);
  }
  void expect_apart_or_same(int32_t a, int32_t b, const char* why) {
    check(relation(a, b) != Relation::overlapping, what_, ": ", a, " and ", b, ": ", why);
  }

  void read(int32_t value, const char* by) {
    bool whole = end(value) <= owners_.size();
    for (size_t unit = begin(value); whole && unit < end(value); ++unit) whole = owners_[unit] == value;
    check(whole, what_, ": value ", value, " was overwritten or never made before its use by ", by);
  }
  void write(int32_t value) {
    check(place(value).offset % kUnit == 0, what_, ": value ", value, " is not aligned");
    if (!check(end(value) <= owners_.size(), what_, ": value ", value, " lies outside the workspace")) return;
    for (size_t unit = begin(value); unit < end(value); ++unit) owners_[unit] = value;
    made_[static_cast<size_t>(value)] = true;
  }

  void run_node(int32_t index) {
    for (const int32_t input : inputs(index)) {
      if (schedule_.on_demand[static_cast<size_t>(input)] && !made_[static_cast<size_t>(input)]) run_node(input);
    }
    for (const int32_t input : inputs(index)) read(input, name_of(node(index).op));
    if (!has_value(node(index).op)) return;
    for (const int32_t input : inputs(index)) {
      if (works_in_place(node(index).op)) {
        expect_apart_or_same(index, input, "in place means the same memory");
      } else {
        expect_apart(index, input, "does not work in place");
      }
    }
    write(index);
  }

  // Reads its input while it writes its result; only the residual may be the result's memory.
  void run_linear(const Stage& stage) {
    const int32_t x = inputs(stage.norm != kNone ? stage.norm : stage.main())[0];
    read(x, "a fused linear");
    expect_apart(stage.last(), x, "a linear's result and input");
    if (stage.residual != kNone) {
      read(stage.residual, "a fused linear");
      expect_apart_or_same(stage.last(), stage.residual, "a linear's result and residual");
    }
    write(stage.last());
  }

  void run_all_reduce(const Stage& stage) {
    const int32_t x = inputs(stage.main())[0];
    const int32_t y = stage.add != kNone ? stage.add : stage.main();
    read(x, "a fused all_reduce");
    expect_apart_or_same(stage.main(), x, "a sum and its parts");
    write(stage.main());
    if (stage.residual != kNone) {
      read(stage.residual, "a fused all_reduce");
      expect_apart_or_same(y, stage.residual, "the sum and the residual");
    }
    expect_apart_or_same(y, stage.main(), "the sum and its parts");
    if (stage.norm != kNone) {
      expect_apart(stage.norm, stage.main(), "the norm and the parts of the sum");
      expect_apart(stage.norm, y, "the norm and the sum");
      if (stage.residual != kNone) expect_apart(stage.norm, stage.residual, "the norm and the residual");
    }
    write(y);
    if (stage.norm != kNone) write(stage.norm);
  }

  const ProgramPlan& plan_;
  const Schedule& schedule_;
  const std::string what_;
  std::vector<int32_t> owners_;                       // of every unit: the value whose bytes it holds
  std::vector<bool> made_;
};

// All fused, none, and mixtures: a step runs its token rows in one form and its sequence rows in another.
void expect_no_overwriting(const ProgramPlan& plan, const Schedule& schedule, const std::string& what, Random& random) {
  MemoryCheck(plan, schedule, what + ", fused").run([](const Stage&) { return true; });
  MemoryCheck(plan, schedule, what + ", node by node").run([](const Stage&) { return false; });
  for (int round = 0; round < 4; ++round) {
    MemoryCheck(plan, schedule, what + ", mixed").run([&](const Stage&) { return random.below(2) == 0; });
  }
}

// Every node that does something is in exactly one stage, in order, or a norm on demand.
void expect_complete(const ProgramPlan& plan, const Schedule& schedule, int size, const std::string& what) {
  std::vector<int32_t> times(plan.nodes.size(), 0);
  int32_t before = kNone;
  for (const Stage& stage : schedule.stages) {
    for (const int32_t node : stage.nodes) {
      check(node > before, what, ": node ", node, " runs out of order");
      before = node;
      ++times[static_cast<size_t>(node)];
    }
  }
  for (size_t i = 0; i < times.size(); ++i) {
    const Op op = plan.nodes[i]->op;
    const bool nothing = size == 1 && (op == Op::all_reduce || op == Op::all_gather);
    check(times[i] == (nothing || schedule.on_demand[i] ? 0 : 1), what, ": node ", i, " (", name_of(op), ") runs ", times[i], " times");
  }
}

void expect_dtypes(const ProgramPlan& plan, const Schedule& schedule, DType dtype, const std::string& what) {
  const auto dtype_of = [&](int32_t value) { return schedule.places[static_cast<size_t>(value)].dtype; };
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    const CompiledNode& node = *plan.nodes[i];
    const bool reads_single = node.op == Op::add || node.op == Op::sample || node.op == Op::output;
    const bool keeps = node.op == Op::all_reduce || node.op == Op::all_gather || node.op == Op::slice || node.op == Op::last_rows ||
                       node.op == Op::add_bias;
    for (const int32_t input : schedule.inputs[i]) {
      if (reads_single) check(dtype_of(input) == DType::float32, what, ": ", name_of(node.op), " reads a rounded value ", input);
      if (keeps) check(dtype_of(input) == schedule.places[i].dtype, what, ": ", name_of(node.op), " ", i, " changes the data type");
    }
    if (node.op == Op::add || node.op == Op::input) check(schedule.places[i].dtype == DType::float32, what, ": value ", i);
    if (node.op == Op::attention) check(schedule.places[i].dtype == dtype, what, ": attention ", i);
  }
}

// ---- decoders ----

HEDDLE_TEST(schedule_of_a_decoder_takes_five_launches_a_layer) {
  const std::string layer = " | norm+linear | attention | linear+add | norm+linear+gated | linear+add";
  expect_text(described(DecoderOptions{}), "embed" + layer + layer + " | last_rows | norm+linear | sample");
  expect_text(described({.tied = true}), "embed" + layer + layer + " | last_rows | norm+linear | sample");
}

HEDDLE_TEST(schedule_of_a_decoder_folds_what_follows_a_sum_over_ranks) {
  const std::string layer = " | linear | attention | linear | all_reduce+add+norm | linear+gated | linear | all_reduce+add";
  expect_text(described({.size = 2}), "embed | all_reduce+norm" + layer + "+norm" + layer + " | last_rows | norm+linear | sample");
}

HEDDLE_TEST(schedule_follows_what_the_communicator_can_fuse) {
  const auto refusing = [](bool norms, bool residuals) {
    ScheduleOptions how;
    how.fuses_all_reduce = [=](const Schedule&, const Stage& stage) {
      return (norms || stage.norm == kNone) && (residuals || stage.residual == kNone);
    };
    return described({.size = 2, .layer_count = 1}, how);
  };
  expect_text(refusing(false, true),
              "embed | all_reduce | norm+linear | attention | linear | all_reduce+add | norm+linear+gated | linear | all_reduce+add | "
              "last_rows | norm+linear | sample");
  expect_text(refusing(false, false),
              "embed | all_reduce | norm+linear | attention | linear | all_reduce | add | norm+linear+gated | linear | all_reduce | add | "
              "last_rows | norm+linear | sample");
}

HEDDLE_TEST(schedule_of_a_decoder_with_biases) {
  expect_text(described({.layer_count = 1, .bias = true, .gated = false}),
              "embed | norm+linear+bias | attention | linear+bias+add | norm+linear+bias+activation | linear+bias+add | last_rows | "
              "norm+linear | sample");
  expect_text(described({.size = 2, .layer_count = 1, .bias = true}),
              "embed | all_reduce+norm | linear+bias | attention | linear | all_reduce | bias | add | norm+linear+bias+gated | linear | "
              "all_reduce | bias | add | last_rows | norm+linear | sample");
}

HEDDLE_TEST(schedule_of_a_decoder_with_outputs) {
  expect_text(described({.layer_count = 1, .outputs = true}),
              "embed | norm+linear | attention | linear+add | norm+linear+gated | linear+add | norm+linear | output | output");
  expect_text(described({.size = 2, .layer_count = 1, .outputs = true}),
              "embed | all_reduce+norm | linear | attention | linear | all_reduce+add+norm | linear+gated | linear | all_reduce+add+norm | "
              "linear | all_gather | output | output");
}

HEDDLE_TEST(schedule_without_fusion_has_a_stage_for_every_node) {
  ScheduleOptions how;
  how.fuse = false;
  expect_text(described({.layer_count = 1}, how),
              "embed | norm | linear | attention | linear | add | norm | linear | gated | linear | add | "
              "last_rows | norm | linear | sample");
}

HEDDLE_TEST(schedule_rounds_neither_the_residual_stream_nor_logits) {
  const ProgramPlan plan = plan_of({.layer_count = 1, .weights = DType::bfloat16});
  const Schedule schedule = make_schedule(plan, {DType::bfloat16, 1, true, {}});
  std::string got;
  for (size_t i = 0; i + 1 < plan.nodes.size(); ++i) got += schedule.places[i].dtype == DType::float32 ? 'f' : 'b';
  // embed norm qkv attention o add, norm gate_up gated down add, last_rows norm head
  expect_text(got, "fbbbff" "bbbff" "fbf");
}

HEDDLE_TEST(schedule_of_a_reproducible_group_rounds_the_same_values_and_folds_no_norm) {
  ScheduleOptions how;
  how.reproducible = true;
  expect_text(described({.size = 1, .layer_count = 1}, how),
              "embed | norm | linear | attention | linear+add | norm | linear+gated | linear+add | last_rows | norm | linear | sample");
  expect_text(described({.size = 2, .layer_count = 1}, how),
              "embed | all_reduce | norm | linear | attention | linear | all_reduce+add | norm | linear+gated | linear | all_reduce+add | "
              "last_rows | norm | linear | sample");
}

HEDDLE_TEST(schedule_never_overwrites_what_a_decoder_needs) {
  Random random(5);
  for (const int size : {1, 2, 4}) {
    for (int variant = 0; variant < 64; ++variant) {
      DecoderOptions options{.size = size};
      options.bias = variant & 1;
      options.gated = variant & 2;
      options.outputs = variant & 4;
      const DType dtype = variant & 8 ? DType::bfloat16 : DType::float32;
      const bool fuse = variant & 16;
      const bool reproducible = variant & 32;
      const ProgramPlan plan = plan_of(options);
      const Schedule schedule = make_schedule(plan, {dtype, size, fuse, {}, reproducible});
      const std::string what = "size " + std::to_string(size) + ", variant " + std::to_string(variant);
      expect_complete(plan, schedule, size, what);
      expect_dtypes(plan, schedule, dtype, what);
      expect_no_overwriting(plan, schedule, what, random);
    }
  }
}

HEDDLE_TEST(schedule_keeps_a_decoder_in_few_buffers) {
  const auto bytes = [](int64_t layers) {
    const ProgramPlan plan = plan_of({.layer_count = layers});
    return make_schedule(plan, {}).workspace_bytes;
  };
  check(bytes(8) == bytes(2), "more layers take no more memory: ", bytes(8), " and ", bytes(2));
}

// ---- what must not be folded ----

// Records nodes one by one; tensors are made as they are needed.
class Recorder {
 public:
  explicit Recorder(int size = 1) : size_(size) {}

  int32_t add(Op op, std::vector<int32_t> inputs, int64_t width, std::vector<std::vector<int64_t>> shapes = {}) {
    Node node;
    node.op = op;
    node.inputs = std::move(inputs);
    node.width = width;
    for (std::vector<int64_t>& shape : shapes) {
      const auto id = static_cast<int64_t>(tensors_.size()) + 1;
      tensors_[id] = std::make_shared<Tensor>();
      tensors_[id]->shape = std::move(shape);
      node.tensors.push_back(id);
    }
    node.numbers = {{"eps", 1e-6}, {"start", 0}, {"firstId", 0}, {"vocabSize", double(width)}};
    node.texts = {{"kind", "silu"}, {"name", "value" + std::to_string(nodes_.size())}};
    if (op == Op::all_gather) node.lists["widths"].assign(static_cast<size_t>(size_), double(width / size_));
    nodes_.push_back(std::move(node));
    return static_cast<int32_t>(nodes_.size()) - 1;
  }
  int32_t input(int64_t width) { return add(Op::input, {}, width); }
  int32_t linear(int32_t x, int64_t width) { return add(Op::linear, {x}, width, {{width, width_of(x)}}); }
  int32_t norm(int32_t x) { return add(Op::rms_norm, {x}, width_of(x), {{width_of(x)}}); }
  int32_t bias(int32_t x) { return add(Op::add_bias, {x}, width_of(x), {{width_of(x)}}); }
  int32_t sum(int32_t a, int32_t b) { return add(Op::add, {a, b}, width_of(a)); }
  int32_t same(Op op, int32_t x) { return add(op, {x}, width_of(x)); }
  void output(int32_t x) { add(Op::output, {x}, width_of(x)); }

  int64_t width_of(int32_t x) const { return nodes_[static_cast<size_t>(x)].width; }
  size_t count() const { return nodes_.size(); }
  ProgramPlan plan(int64_t max_tokens = 8, int64_t max_sequences = 2) const {
    return compiled(nodes_, tensors_, size_, max_tokens, max_sequences);
  }

 private:
  int size_;
  std::vector<Node> nodes_;
  TensorTable tensors_;
};

void expect_stages(const Recorder& recorder, int size, const std::string& expected) {
  const ProgramPlan plan = recorder.plan();
  const Schedule schedule = make_schedule(plan, {DType::bfloat16, size, true, {}});
  expect_text(described(plan, schedule), expected);
  Random random(11);
  expect_complete(plan, schedule, size, expected);
  expect_dtypes(plan, schedule, DType::bfloat16, expected);
  expect_no_overwriting(plan, schedule, expected, random);
}

HEDDLE_TEST(schedule_folds_nothing_that_has_another_reader) {
  Recorder product;
  const int32_t y = product.linear(product.input(16), 16);
  product.output(product.bias(y));
  product.output(y);
  expect_stages(product, 1, "input | linear | bias | output | output");

  Recorder norm;
  const int32_t normed = norm.norm(norm.input(16));
  norm.output(norm.linear(normed, 16));
  norm.output(normed);
  expect_stages(norm, 1, "input | norm | linear | output | output");

  Recorder sum(2);
  const int32_t x = sum.input(16);
  const int32_t reduced = sum.same(Op::all_reduce, sum.linear(x, 16));
  sum.output(sum.sum(x, reduced));
  sum.output(reduced);
  expect_stages(sum, 2, "input | linear | all_reduce | add | output | output");

  Recorder twice;
  const int32_t term = twice.linear(twice.input(16), 16);
  twice.output(twice.sum(term, term));
  expect_stages(twice, 1, "input | linear | add | output");
}

HEDDLE_TEST(schedule_of_a_reproducible_group_sums_in_float32_at_every_size) {
  for (const int size : {1, 2}) {
    Recorder recorder(size);
    const int32_t part = recorder.linear(recorder.input(16), 16);
    const int32_t sum = size > 1 ? recorder.same(Op::all_reduce, part) : part;
    const int32_t norm = recorder.norm(sum);
    recorder.output(recorder.linear(norm, 16));       // nobody asks for more than the group's type
    const ProgramPlan plan = recorder.plan();
    plan.nodes[static_cast<size_t>(part)]->linear.chunks = {8, 8};
    for (const bool reproducible : {true, false}) {
      const Schedule schedule = make_schedule(plan, {DType::bfloat16, size, true, {}, reproducible});
      const DType expected = reproducible ? DType::float32 : DType::bfloat16;
      const auto dtype_of = [&](int32_t value) { return schedule.places[static_cast<size_t>(value)].dtype; };
      check(dtype_of(part) == expected && dtype_of(sum) == expected, "size ", size, ": the part and the sum");
      check(dtype_of(norm) == DType::bfloat16, "size ", size, ": the norm");
    }
  }
}

HEDDLE_TEST(schedule_folds_nothing_that_comes_later) {
  Recorder recorder;
  const int32_t x = recorder.input(16);
  const int32_t first = recorder.linear(x, 16);
  const int32_t second = recorder.linear(x, 16);
  recorder.output(recorder.sum(first, second));
  expect_stages(recorder, 1, "input | linear | linear+add | output");
}

HEDDLE_TEST(schedule_computes_a_norm_that_several_linears_share_in_each) {
  Recorder recorder;
  const int32_t x = recorder.input(16);
  const int32_t normed = recorder.norm(x);
  const int32_t gate = recorder.linear(normed, 8);
  const int32_t activated = recorder.same(Op::activation, gate);
  const int32_t up = recorder.linear(normed, 8);
  recorder.output(recorder.sum(activated, up));
  expect_stages(recorder, 1, "input | norm+linear+activation | norm+linear+add | output");
}

// The sum may not take the memory of the residual here: other blocks still read it as the input.
HEDDLE_TEST(schedule_keeps_an_input_that_is_its_own_residual) {
  Recorder recorder;
  const int32_t x = recorder.linear(recorder.input(8), 16);
  recorder.output(recorder.linear(recorder.sum(x, recorder.linear(recorder.norm(x), 16)), 8));
  expect_stages(recorder, 1, "input | linear | norm+linear+add | linear | output");
}

HEDDLE_TEST(schedule_takes_a_residual_from_either_side) {
  for (const bool first : {false, true}) {
    Recorder recorder(2);
    const int32_t x = recorder.same(Op::activation, recorder.input(16));
    const int32_t y = recorder.same(Op::all_reduce, recorder.linear(recorder.norm(x), 16));
    recorder.output(recorder.linear(recorder.norm(first ? recorder.sum(x, y) : recorder.sum(y, x)), 16));
    expect_stages(recorder, 2, "input | activation | norm+linear | all_reduce+add+norm | linear | output");
  }
}

HEDDLE_TEST(schedule_leaves_out_collectives_of_a_group_of_one) {
  Recorder recorder;
  const int32_t x = recorder.input(16);
  const int32_t y = recorder.bias(recorder.same(Op::all_reduce, recorder.linear(x, 16)));
  recorder.output(recorder.same(Op::all_gather, recorder.sum(x, y)));
  recorder.output(recorder.same(Op::all_reduce, x));
  expect_stages(recorder, 1, "input | linear+bias+add | output | output");
}

HEDDLE_TEST(schedule_too_large_to_count_is_out_of_memory) {
  Recorder recorder;
  const int32_t x = recorder.input(int64_t{1} << 31);
  recorder.output(recorder.same(Op::activation, x));
  const ProgramPlan plan = recorder.plan(int64_t{1} << 30, 1);
  check_throws(ErrorCode::out_of_memory, [&] { make_schedule(plan, {}); }, "2^61 elements");
}

// Small values of different types have the same rounded size, and must not share memory for that.
HEDDLE_TEST(schedule_never_changes_the_data_type_in_place) {
  Recorder recorder;
  const int32_t x = recorder.sum(recorder.input(2), recorder.input(2));
  recorder.output(recorder.linear(recorder.same(Op::activation, recorder.add(Op::layer_norm, {x}, 2, {{2}})), 2));
  const ProgramPlan plan = recorder.plan(1, 1);
  const Schedule schedule = make_schedule(plan, {DType::bfloat16, 1, true, {}});
  check(schedule.places[3].dtype == DType::bfloat16 && schedule.places[2].dtype == DType::float32, "types of the norm and its input");
  check(schedule.places[3].offset != schedule.places[2].offset, "a norm that changes the type has memory of its own");
}

// ---- random programs ----

class RandomProgram {
 public:
  RandomProgram(Random& random, int size) : random_(random), recorder_(size) {
    for (int i = 0; i < 2; ++i) keep(recorder_.input(width()));
    while (recorder_.count() < 40) step();
    for (const int32_t value : tokens_) {
      if (random_.below(12) == 0) recorder_.output(value);
    }
  }
  const Recorder& recorder() const { return recorder_; }

 private:
  int64_t width() { return int64_t{8} << random_.below(3); }
  void keep(int32_t value) { tokens_.push_back(value); }
  // Mostly the latest, so that chains form.
  int32_t some() {
    return random_.below(10) < 7 ? tokens_.back() : tokens_[static_cast<size_t>(random_.below(static_cast<int64_t>(tokens_.size())))];
  }
  int32_t like(int32_t value) {
    std::vector<int32_t> alike;
    for (const int32_t other : tokens_) {
      if (recorder_.width_of(other) == recorder_.width_of(value)) alike.push_back(other);
    }
    return alike[static_cast<size_t>(random_.below(static_cast<int64_t>(alike.size())))];
  }

  void step() {
    const int32_t x = some();
    const int64_t columns = recorder_.width_of(x);
    switch (random_.below(12)) {
      case 0:
      case 1:
      case 2: return keep(recorder_.linear(x, width()));
      case 3: return keep(recorder_.bias(x));
      case 4: return keep(recorder_.norm(x));
      case 5:
      case 6: {
        const int32_t other = like(x);
        return keep(random_.below(2) ? recorder_.sum(x, other) : recorder_.sum(other, x));
      }
      case 7:
      case 8: return keep(recorder_.same(Op::all_reduce, x));
      case 9: return keep(recorder_.same(Op::activation, x));
      case 10: return columns > 8 ? keep(recorder_.add(Op::gated, {x}, columns / 2)) : void();
      default: return recorder_.output(x);
    }
  }

  Random& random_;
  Recorder recorder_;
  std::vector<int32_t> tokens_;
};

HEDDLE_TEST(schedule_never_overwrites_what_random_programs_need) {
  Random random(2026);
  size_t folded = 0;
  for (int round = 0; round < 300; ++round) {
    const int size = round % 3 == 0 ? 1 : 2;
    const ProgramPlan plan = RandomProgram(random, size).recorder().plan(1 + random.below(9), 1);
    ScheduleOptions how{round % 2 == 0 ? DType::bfloat16 : DType::float32, size, true, {}};
    if (round % 5 == 0) how.fuses_all_reduce = [&](const Schedule&, const Stage&) { return random.below(2) == 0; };
    const Schedule schedule = make_schedule(plan, how);
    const std::string what = "program " + std::to_string(round);
    for (const Stage& stage : schedule.stages) folded += stage.fused();
    expect_complete(plan, schedule, size, what);
    if (how.dtype != DType::float32) expect_dtypes(plan, schedule, how.dtype, what);
    expect_no_overwriting(plan, schedule, what, random);
  }
  check(folded > 500, "random programs fold too little to show anything: ", folded);
}

}  // namespace
}  // namespace heddle::test
