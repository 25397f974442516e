#include "cuda/schedule.h"

#include <algorithm>
#include <utility>

#include "core/workspace_plan.h"

namespace heddle::cuda {

namespace {

size_t at(int32_t node) { return static_cast<size_t>(node); }

// Operations that hand on their input's elements, or sums of them: they give the data type that they read.
bool passes_on(Op op) {
  return op == Op::all_reduce || op == Op::all_gather || op == Op::add_bias || op == Op::slice || op == Op::last_rows;
}

class Scheduler {
 public:
  Scheduler(const ProgramPlan& program, const ScheduleOptions& options)
      : program_(program), options_(options), count_(static_cast<int32_t>(program.nodes.size())) {}

  Schedule make() {
    resolve_inputs();
    choose_dtypes();
    form_stages();
    place_values();
    return std::move(schedule_);
  }

 private:
  const CompiledNode& node(int32_t index) const { return *program_.nodes[at(index)]; }
  const std::vector<int32_t>& inputs(int32_t index) const { return schedule_.inputs[at(index)]; }
  DType dtype(int32_t value) const { return schedule_.places[at(value)].dtype; }

  // In a group of one the sum is the part and the whole is the part: such a node is its input.
  bool does_nothing(int32_t index) const {
    return options_.size == 1 && (node(index).op == Op::all_reduce || node(index).op == Op::all_gather);
  }

  void resolve_inputs() {
    std::vector<int32_t> same_as;
    readers_.resize(at(count_));
    for (int32_t i = 0; i < count_; ++i) {
      schedule_.inputs.push_back(node(i).inputs);
      for (int32_t& input : schedule_.inputs.back()) input = same_as[at(input)];
      same_as.push_back(does_nothing(i) ? inputs(i)[0] : i);
      if (does_nothing(i)) continue;
      for (const int32_t input : inputs(i)) readers_[at(input)].push_back(i);
    }
  }

  void choose_dtypes() {
    schedule_.places.resize(at(count_));
    if (options_.dtype == DType::float32) return;
    const std::vector<bool> wanted = float32_wanted();
    for (int32_t i = 0; i < count_; ++i) {
      const Op op = node(i).op;
      const bool single = op == Op::input || op == Op::add || op == Op::route || wanted[at(i)] || is_part(node(i));
      schedule_.places[at(i)].dtype = passes_on(op) ? dtype(inputs(i)[0]) : single ? DType::float32 : options_.dtype;
    }
  }

  bool reads_float32(Op op) const {
    return op == Op::add || op == Op::route || op == Op::sample || op == Op::output || (options_.reproducible && op == Op::all_reduce);
  }

  // What ranks add up where there are several; in a group of one, where nothing is recorded behind it, it must be as wide.
  bool is_part(const CompiledNode& made) const {
    if (!options_.reproducible) return false;
    return made.op == Op::embed || !made.linear.chunks.empty() || !made.experts.chunks.empty() || !made.experts.expert_chunks.empty();
  }

  std::vector<bool> float32_wanted() const {
    std::vector<bool> wanted(at(count_), false);
    for (int32_t i = count_ - 1; i >= 0; --i) {
      const Op op = node(i).op;
      if (!reads_float32(op) && !(passes_on(op) && wanted[at(i)])) continue;
      for (const int32_t input : inputs(i)) wanted[at(input)] = true;
    }
    return wanted;
  }

  void form_stages() {
    schedule_.on_demand.resize(at(count_), false);
    for (int32_t i = next(kNone); i < count_;) {
      if (can_wait(i)) {
        schedule_.on_demand[at(i)] = true;
        i = next(i);
      } else {
        schedule_.stages.push_back(stage_at(i));
        i = next(schedule_.stages.back().last());
      }
    }
  }

  // The node after `index` that does something.
  int32_t next(int32_t index) const {
    do ++index;
    while (index < count_ && does_nothing(index));
    return index;
  }

  bool can_wait(int32_t index) const {
    const std::vector<int32_t>& readers = readers_[at(index)];
    return options_.fuse && !options_.reproducible && node(index).op == Op::rms_norm && !readers.empty() &&
           std::all_of(readers.begin(), readers.end(), [&](int32_t reader) { return node(reader).op == Op::linear; });
  }

  Stage stage_at(int32_t index) const {
    const Op op = node(index).op;
    if (options_.fuse && op == Op::linear) return linear_stage(index);
    if (options_.fuse && op == Op::all_reduce) return all_reduce_stage(index);
    return single_stage(index);
  }

  static Stage single_stage(int32_t index) {
    Stage stage;
    stage.nodes = {index};
    return stage;
  }

  Stage linear_stage(int32_t index) const {
    Stage stage = single_stage(index);
    stage.kind = Stage::Kind::linear;
    if (schedule_.on_demand[at(inputs(index)[0])]) stage.norm = inputs(index)[0];
    if (goes_into(stage.last(), Op::add_bias)) stage.bias = take_next(stage);
    if (goes_into(stage.last(), Op::activation) || goes_into(stage.last(), Op::gated)) stage.activation = take_next(stage);
    take_add(stage);
    return stage;
  }

  // The largest of the forms that the communicator can run.
  Stage all_reduce_stage(int32_t index) const {
    Stage stage = single_stage(index);
    stage.kind = Stage::Kind::all_reduce;
    take_add(stage);
    const auto possible = [&](const Stage& form) { return !options_.fuses_all_reduce || options_.fuses_all_reduce(schedule_, form); };
    const int32_t after = next(stage.last());
    if (!options_.reproducible && after < count_ && node(after).op == Op::rms_norm && inputs(after)[0] == stage.last()) {
      Stage with_norm = stage;
      with_norm.norm = take_next(with_norm);
      if (possible(with_norm)) return with_norm;
    }
    return stage.fused() && possible(stage) ? stage : single_stage(index);
  }

  // Whether the next node is of that kind and the one reader of `value`.
  bool goes_into(int32_t value, Op op) const {
    const int32_t reader = next(value);
    return reader < count_ && node(reader).op == op && readers_[at(value)] == std::vector<int32_t>{reader};
  }

  int32_t take_next(Stage& stage) const {
    stage.nodes.push_back(next(stage.last()));
    return stage.last();
  }

  void take_add(Stage& stage) const {
    const int32_t term = stage.last();
    if (!goes_into(term, Op::add)) return;
    stage.add = take_next(stage);
    stage.residual = inputs(stage.add)[inputs(stage.add)[0] == term ? 1 : 0];
  }

  // What the plan is told of a node.
  struct Plan {
    std::vector<int32_t> reads;
    bool in_place = false;
  };

  void place_values() {
    std::vector<Plan> plans;
    for (int32_t i = 0; i < count_; ++i) plans.push_back(alone(i));
    for (const Stage& stage : schedule_.stages) allow_fused(stage, plans);
    WorkspacePlan places;
    ValueBytes bytes;
    for (int32_t i = 0; i < count_; ++i) places.add(plans[at(i)].reads, bytes_of(i, bytes), in_place(plans[at(i)], i));
    places.add(outputs(), 0, false);
    places.place();
    for (int32_t i = 0; i < count_; ++i) schedule_.places[at(i)].offset = places.offset(at(i));
    schedule_.workspace_bytes = places.bytes();
  }

  Plan alone(int32_t index) const {
    if (does_nothing(index)) return {};
    return {inputs(index), works_in_place(node(index).op)};
  }

  // The fused form reads at its end what the single nodes read before, and knows nothing of the values between.
  void allow_fused(const Stage& stage, std::vector<Plan>& plans) const {
    if (stage.add != kNone) {  // the sum may take the memory of the residual, which both forms allow
      const std::vector<int32_t>& terms = inputs(stage.add);
      plans[at(stage.add)].reads = {stage.residual, stage.residual == terms[0] ? terms[1] : terms[0]};
    }
    Plan& last = plans[at(stage.last())];
    if (stage.kind == Stage::Kind::linear) {
      const int32_t x = inputs(stage.norm != kNone ? stage.norm : stage.main())[0];
      last.reads.push_back(x);
      if (x == stage.residual) last.in_place = false;  // every block reads all of x while others write y
    } else if (stage.kind == Stage::Kind::all_reduce && stage.norm != kNone) {
      last.reads.push_back(stage.main());               // its memory holds the parts that are summed
      last.in_place = false;                           // the sum and its norm are both written
    }
  }

  // Equal sizes are not enough: small values of different types are rounded up to the same size.
  bool in_place(const Plan& plan, int32_t index) const {
    return plan.in_place && !plan.reads.empty() && dtype(plan.reads[0]) == dtype(index);
  }

  size_t bytes_of(int32_t index, ValueBytes& bytes) const {
    if (!has_value(node(index).op) || does_nothing(index)) return 0;
    const int64_t rows = node(index).by_sequence ? program_.max_sequences : program_.max_tokens;
    return bytes.add(rows, node(index).width, size_of(dtype(index)));
  }

  std::vector<int32_t> outputs() const {
    std::vector<int32_t> values;
    for (int32_t i = 0; i < count_; ++i) {
      if (node(i).op == Op::output) values.push_back(inputs(i)[0]);
    }
    return values;
  }

  const ProgramPlan& program_;
  const ScheduleOptions& options_;
  const int32_t count_;
  std::vector<std::vector<int32_t>> readers_;         // of every value, once for each time that they read it
  Schedule schedule_;
};

}  // namespace

Schedule make_schedule(const ProgramPlan& program, const ScheduleOptions& options) { return Scheduler(program, options).make(); }

}  // namespace heddle::cuda
