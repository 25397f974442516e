// The workspace plan: values that live at the same time never overlap, and memory is reused after the last use.
#include "core/workspace_plan.h"

#include <vector>

#include "tests/test.h"

namespace {

using heddle::WorkspacePlan;
using heddle::test::check;
using heddle::test::Random;

struct Made {
  std::vector<int32_t> inputs;
  size_t bytes;
  bool in_place;
};

std::vector<size_t> last_uses(const std::vector<Made>& values) {
  std::vector<size_t> last(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    last[i] = i;
    for (const int32_t input : values[i].inputs) last[static_cast<size_t>(input)] = i;
  }
  return last;
}

WorkspacePlan planned(const std::vector<Made>& values) {
  WorkspacePlan plan;
  for (const Made& value : values) plan.add(value.inputs, value.bytes, value.in_place);
  plan.place();
  return plan;
}

HEDDLE_TEST(workspace_plan_reuses_memory_of_dead_values) {
  const WorkspacePlan plan = planned({{{}, 640, false}, {{0}, 640, false}, {{1}, 640, false}, {{2}, 640, false}});
  check(plan.bytes() == 1280, "a chain needs two buffers");
}

HEDDLE_TEST(workspace_plan_works_in_place_only_when_the_input_dies) {
  const WorkspacePlan dies = planned({{{}, 64, false}, {{0}, 64, true}});
  check(dies.offset(0) == dies.offset(1), "the result takes the memory of a dead input");
  const WorkspacePlan lives = planned({{{}, 64, false}, {{0}, 64, true}, {{0, 1}, 64, false}});
  check(lives.offset(0) != lives.offset(1), "an input that is read later keeps its memory");
}

HEDDLE_TEST(workspace_plan_never_overlaps_live_values) {
  Random random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<Made> values;
    for (int i = 0; i < 40; ++i) {
      Made value{{}, random.next() % 5 == 0 ? 0 : random.next() % 5000 + 1, random.next() % 2 == 0};
      const size_t inputs = values.empty() ? 0 : random.next() % 3;
      for (size_t k = 0; k < inputs; ++k) value.inputs.push_back(static_cast<int32_t>(random.next() % values.size()));
      values.push_back(value);
    }
    const WorkspacePlan plan = planned(values);
    const std::vector<size_t> last = last_uses(values);
    for (size_t i = 0; i < values.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        const bool taken_over = values[i].in_place && !values[i].inputs.empty() && values[i].inputs[0] == static_cast<int32_t>(j);
        const bool together = last[j] > i || (last[j] == i && !taken_over);
        if (!together || values[i].bytes == 0 || values[j].bytes == 0) continue;
        const bool apart = plan.offset(i) + values[i].bytes <= plan.offset(j) || plan.offset(j) + values[j].bytes <= plan.offset(i);
        check(apart, "values that live together do not overlap");
      }
      check(plan.offset(i) + values[i].bytes <= plan.bytes() || values[i].bytes == 0, "inside the workspace");
    }
  }
}

}  // namespace
