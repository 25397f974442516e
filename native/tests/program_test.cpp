// Programs on the CPU backend: what compiling and the check of a step refuse, and that a recorded pass computes what its nodes say.
#include "core/program.h"

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/local/local.h"
#include "cpu/cpu_backend.h"
#include "tests/test.h"

namespace {

using namespace heddle;
using heddle::test::check;
using heddle::test::check_close;
using heddle::test::check_throws;

const std::atomic<bool> kNotCancelled{false};

// One rank with its tensors, driven from the test's own thread.
struct Fixture {
  std::vector<std::unique_ptr<Communicator>> communicators = comm::create_local(1);
  std::unique_ptr<Backend> backend = cpu::create_backend(DType::float32);
  TensorTable tensors;

  void add_tensor(int64_t id, const std::vector<int64_t>& shape, const std::vector<float>& values = {}) {
    auto tensor = std::make_shared<Tensor>();
    tensor->shape = shape;
    tensor->buffer = backend->allocate(static_cast<size_t>(tensor->count()) * sizeof(float));
    if (!values.empty()) std::memcpy(tensor->buffer.data(), values.data(), values.size() * sizeof(float));
    tensors[id] = tensor;
  }

  Program compile(std::vector<Node> nodes, int64_t max_tokens = 8, int64_t max_sequences = 2) {
    CreateProgram message;
    message.nodes = std::move(nodes);
    message.max_tokens = max_tokens;
    message.max_sequences = max_sequences;
    return Program(message, tensors, *backend, *communicators[0]);
  }
};

Node node(Op op, std::vector<int32_t> inputs, std::vector<int64_t> ids, int64_t width) {
  Node made;
  made.op = op;
  made.inputs = std::move(inputs);
  made.tensors = std::move(ids);
  made.width = width;
  return made;
}

Node named(Node made, const std::string& name) {
  made.texts["name"] = name;
  return made;
}

Node input(int64_t width) { return named(node(Op::input, {}, {}, width), "x"); }
Node output(int32_t value, int64_t width) { return named(node(Op::output, {value}, {}, width), "y"); }

Node embed(int64_t vocab_size) {
  Node made = node(Op::embed, {}, {1}, 4);
  made.numbers = {{"firstRow", 0}, {"vocabSize", static_cast<double>(vocab_size)}, {"byPosition", 0}, {"scale", 1}};
  return made;
}

Node sample(int32_t value, double first_id, double vocab_size) {
  Node made = node(Op::sample, {value}, {}, 1);
  made.numbers = {{"firstId", first_id}, {"vocabSize", vocab_size}};
  return made;
}

Node activation(int32_t value, int64_t width) {
  Node made = node(Op::activation, {value}, {}, width);
  made.texts["kind"] = "relu";
  return made;
}

Node attention(int64_t cache = 2) {
  Node made = node(Op::attention, {0}, {cache, -1, -1, -1}, 4);
  made.numbers = {{"headCount", 1}, {"kvHeadCount", 1}, {"headDim", 4},   {"scale", 0.5},  {"causal", 1},
                  {"slidingWindow", 0}, {"ropeDim", 0}, {"ropeScale", 1}, {"normEps", 0}};
  made.lists = {{"kvHeadOfQuery", {0}}};
  return made;
}

Step step_of(int32_t tokens, int32_t first_position = 0) {
  Step step;
  for (int32_t i = 0; i < tokens; ++i) {
    step.tokens.push_back(i);
    step.positions.push_back(first_position + i);
  }
  step.sequence_starts = {0, tokens};
  step.slots = {0};
  step.block_table = {0};
  return step;
}

HEDDLE_TEST(program_computes_its_nodes) {
  Fixture fixture;
  fixture.add_tensor(1, {2, 3}, {1, 2, 3, -1, 0, 1});
  fixture.add_tensor(2, {2}, {10, 20});
  Program program = fixture.compile({input(3), node(Op::linear, {0}, {1}, 2), node(Op::add_bias, {1}, {2}, 2),
                                     node(Op::add, {2, 1}, {}, 2), output(3, 2)});
  Step step = step_of(2);
  step.inputs["x"] = {{1, 1, 1, 2, 0, -1}, {2, 3}};
  const RunResult result = program.run(step, kNotCancelled);
  const HostMatrix& y = result.outputs.at("y");
  check(y.shape == std::vector<int64_t>{2, 2}, "shape of the output");
  const std::vector<float> expected = {6 + 10 + 6, 0 + 20 + 0, -1 + 10 - 1, -3 + 20 - 3};
  for (size_t i = 0; i < expected.size(); ++i) check_close(y.data[i], expected[i], 1e-6, "element ", i);
  check(program.entered(), "a run that passed its checks has entered");
}

HEDDLE_TEST(program_runs_steps_of_any_length_up_to_the_limit) {
  Fixture fixture;
  fixture.add_tensor(1, {8, 4});
  Program program = fixture.compile({embed(8), node(Op::last_rows, {0}, {}, 4), output(1, 4)});
  for (const int32_t tokens : {1, 3, 8}) {
    check(program.run(step_of(tokens), kNotCancelled).outputs.at("y").shape == std::vector<int64_t>{1, 4}, tokens, " tokens give one row");
  }
}

HEDDLE_TEST(program_refuses_positions_beyond_their_table) {
  Fixture fixture;
  fixture.add_tensor(1, {8, 4});
  Node positions = embed(8);
  positions.numbers["byPosition"] = 1;
  Program program = fixture.compile({embed(8), positions, node(Op::add, {0, 1}, {}, 4), output(2, 4)});
  Step step = step_of(8);
  check(program.run(step, kNotCancelled).outputs.at("y").shape == std::vector<int64_t>{8, 4}, "up to the last position");
  for (int32_t& position : step.positions) ++position;
  check_throws(ErrorCode::invalid_argument, [&] { program.run(step, kNotCancelled); }, "one position too many");
  check(!program.entered(), "refused before anything ran");
  for (const char* name : {"firstRow", "vocabSize", "byPosition", "scale"}) {
    Node incomplete = embed(8);
    incomplete.numbers.erase(name);
    check_throws(ErrorCode::invalid_argument, [&] { fixture.compile({incomplete}); }, name);
  }
}

HEDDLE_TEST(program_refuses_nodes_that_do_not_fit) {
  Fixture fixture;
  fixture.add_tensor(1, {2, 3});
  fixture.add_tensor(2, {2, 4, 1, 16, 4});
  const auto refused = [&](std::vector<Node> nodes, const char* what) {
    check_throws(ErrorCode::invalid_argument, [&] { fixture.compile(std::move(nodes)); }, what);
  };
  refused({input(4), node(Op::linear, {0}, {1}, 2)}, "an input wider than the weight");
  refused({input(3), node(Op::linear, {0}, {1}, 3)}, "a result of another width than the weight's rows");
  refused({input(3), node(Op::linear, {0}, {}, 2)}, "a linear node without a weight");
  refused({input(3), node(Op::linear, {1}, {1}, 2)}, "a node that reads itself");
  refused({input(3), node(Op::linear, {-1}, {1}, 2)}, "a negative input");
  refused({input(0)}, "no width");
  refused({node(Op::input, {}, {}, 3)}, "an input without a name");
  refused({input(3), node(Op::add_bias, {0}, {1}, 3)}, "a bias of another length");
  refused({input(2), node(Op::sample, {0}, {}, 1)}, "sample without attributes");
  refused({input(4), node(Op::slice, {0}, {}, 8)}, "a slice beyond its input");
  refused({input(4), node(Op::gated, {0}, {}, 2)}, "an activation without a kind");
  Node wide = attention();
  wide.numbers["headCount"] = 2;
  refused({input(12), wide}, "query heads without a KV head each");
  fixture.tensors[2]->dtype = DType::float16;
  refused({input(12), attention()}, "a float16 cache");
  fixture.tensors[2]->dtype = DType::float32;
  Node rope = attention();
  rope.numbers["ropeDim"] = 3;
  refused({input(12), rope}, "an odd ropeDim");
  check_throws(ErrorCode::closed, [&] { fixture.compile({input(3), node(Op::linear, {0}, {9}, 2)}); }, "a disposed tensor");
}

// Each of these would make a run read or write outside the workspace, the step or a cache.
HEDDLE_TEST(program_refuses_nodes_whose_rows_or_values_are_not_theirs) {
  Fixture fixture;
  fixture.add_tensor(1, {8, 4});
  fixture.add_tensor(2, {2, 4, 1, 16, 4});
  fixture.add_tensor(3, {2, 0, 1, 16, 4});
  const auto refused = [&](std::vector<Node> nodes, const char* what) {
    check_throws(ErrorCode::invalid_argument, [&] { fixture.compile(std::move(nodes)); }, what);
  };
  const Node last_row = node(Op::last_rows, {0}, {}, 4);
  Node embed_of_rows = embed(8);
  embed_of_rows.inputs = {1};
  refused({input(4), last_row, embed_of_rows}, "an embedding with the rows of sequences");
  Node input_of_rows = input(4);
  input_of_rows.inputs = {1};
  refused({input(4), last_row, input_of_rows}, "an input with the rows of sequences");
  refused({input(4), node(Op::add, {0}, {}, 4)}, "a sum of one value");
  refused({input(4), node(Op::slice, {0, 0}, {}, 4)}, "a slice of two values");
  Node wide = sample(1, 0, 8);
  wide.width = 1 << 20;
  refused({input(4), last_row, wide, activation(2, 1 << 20)}, "an activation of a sampled token");
  refused({input(4), output(0, 4), activation(1, 4)}, "an activation of an output");
  refused({embed(0)}, "an embedding of no vocabulary, whose tokens nobody would check");
  refused({embed(1e10)}, "a vocabulary beyond 32 bits");
  refused({input(4), last_row, sample(1, -1, 8)}, "a negative first id");
  refused({input(4), last_row, sample(1, INT32_MAX - 1, 8)}, "ids beyond 32 bits");
  refused({input(4), last_row, sample(1, 0, -1)}, "a negative vocabulary");
  refused({input(12), attention(3)}, "a cache without blocks");
  refused({input(12), attention(3), attention(2)}, "a cache without blocks beside one that has some");
  Node gather = node(Op::all_gather, {0}, {}, 4);
  gather.lists["widths"] = {-4, 8};
  refused({input(4), gather}, "a negative width of a rank");
  fixture.compile({input(4), last_row, sample(1, INT32_MAX - 4, INT32_MAX)});
}

HEDDLE_TEST(program_whose_workspace_fits_no_memory_is_out_of_memory) {
  Fixture fixture;
  const auto refused = [&](int64_t width, int64_t max_tokens) {
    const std::vector<Node> nodes = {input(width), activation(0, width), activation(1, width), output(2, width)};
    check_throws(ErrorCode::out_of_memory, [&] { fixture.compile(nodes, max_tokens, 1); }, width, " x ", max_tokens);
  };
  refused(1 << 20, int64_t{1} << 24);
  refused(int64_t{1} << 31, int64_t{1} << 24);
  refused(int64_t{1} << 31, int64_t{1} << 30);
  refused(int64_t{1} << 31, INT64_MAX);
}

HEDDLE_TEST(program_checks_a_step_before_it_enters) {
  Fixture fixture;
  fixture.add_tensor(1, {8, 4});
  fixture.add_tensor(2, {2, 4, 1, 16, 4});
  Program program = fixture.compile({input(12), attention(), embed(8), node(Op::add, {1, 2}, {}, 4), output(3, 4)});
  const auto valid = [] {
    Step step = step_of(3);
    step.inputs["x"] = {std::vector<float>(36), {3, 12}};
    return step;
  };
  program.run(valid(), kNotCancelled);
  const auto refused = [&](const std::function<void(Step&)>& spoil, const char* what) {
    Step step = valid();
    spoil(step);
    check_throws(ErrorCode::invalid_argument, [&] { program.run(step, kNotCancelled); }, what);
    check(!program.entered(), what, ": refused before it entered");
  };
  refused([](Step& step) { step.positions.clear(); }, "no tokens");
  refused([](Step& step) { step.positions = {0, 1, 2, 3, 4, 5, 6, 7, 8}; }, "more tokens than the program takes");
  refused([](Step& step) { step.slots = {0, 1, 2}; }, "more sequences than the program takes");
  refused([](Step& step) { step.sequence_starts = {0, 2}; }, "starts that end early");
  refused([](Step& step) { step.sequence_starts = {1, 3}; }, "starts that begin late");
  refused([](Step& step) { step.sequence_starts = {}; }, "no starts");
  refused([](Step& step) { step.slots = {-1}; }, "a negative slot");
  refused([](Step& step) { step.slots = {kMaxSlots}; }, "a slot beyond the last");
  refused([](Step& step) { step.tokens = {0, 1, 8}; }, "a token outside the vocabulary");
  refused([](Step& step) { step.tokens = {0, 1}; }, "fewer tokens than positions");
  refused([](Step& step) { step.tokens = {0, 1, INT32_MIN}; }, "a token far below zero");
  refused([](Step& step) { step.positions = {0, 2, 3}; }, "positions with a gap");
  refused([](Step& step) { step.positions = {-1, 0, 1}; }, "a negative position");
  refused([](Step& step) { step.positions = {INT32_MAX, 0, 1}; }, "positions that wrap around");
  refused([](Step& step) { step.positions = {15, 16, 17}; }, "positions beyond the block table");
  refused([](Step& step) { step.block_table = {4}; }, "a block beyond the cache");
  refused([](Step& step) { step.block_table = {-1}; }, "a missing block");
  refused([](Step& step) { step.block_table = {}; }, "no block table");
  refused([](Step& step) { step.sampling.resize(2); }, "sampling of another number of sequences");
  refused([](Step& step) { step.inputs.clear(); }, "a missing input");
  refused([](Step& step) { step.inputs["x"].data.pop_back(); }, "an input of another size");
  program.run(valid(), kNotCancelled);
}

HEDDLE_TEST(program_ends_a_cancelled_run) {
  Fixture fixture;
  Program program = fixture.compile({input(3), output(0, 3)});
  Step step = step_of(1);
  step.inputs["x"] = {{1, 2, 3}, {1, 3}};
  const std::atomic<bool> cancelled{true};
  check_throws(ErrorCode::closed, [&] { program.run(step, cancelled); }, "a cancelled run");
}

}  // namespace
