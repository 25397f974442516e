// ProgramSpec → CreateProgram.
// Rule: the same operations on every rank; one that does another would leave its peers waiting.
#include <algorithm>
#include <array>

#include "addon/parse.h"
#include "addon/read.h"
#include "core/error.h"

namespace heddle::addon {

namespace {

constexpr uint32_t kMaxNodes = 1u << 17;
constexpr uint32_t kMaxOperands = 64;
constexpr uint32_t kMaxAttributes = 64;
constexpr uint32_t kMaxListLength = 1u << 20;
constexpr size_t kMaxText = 256;
constexpr int64_t kMaxRows = 1 << 24;

// In the order of Op.
constexpr std::array kOpNames = {
    "input",   "embed",     "linear", "addBias",    "add",       "allReduce", "allGather", "slice",
    "rmsNorm", "layerNorm", "gated",  "activation", "route", "experts", "attention", "lastRows",  "sample",    "output",
};
static_assert(kOpNames.size() == static_cast<size_t>(Op::output) + 1);

Op parse_op(const Napi::Value& value, const std::string& where) {
  const std::string name = value.IsString() ? read_text(value, kMaxText, where) : "";
  const auto found = std::find(kOpNames.begin(), kOpNames.end(), name);
  if (found == kOpNames.end()) refuse(where, "the name of an operation", value);
  return static_cast<Op>(found - kOpNames.begin());
}

std::vector<double> parse_numbers(const Napi::Value& value, const std::string& where) {
  const auto array = read_array(value, kMaxListLength, where);
  const uint32_t length = array.Length();
  std::vector<double> numbers;
  for (uint32_t i = 0; i < length; ++i) numbers.push_back(read_number(array.Get(i), where));
  return numbers;
}

void parse_attribute(Node& node, const std::string& name, const Napi::Value& value, const std::string& where) {
  if (value.IsBoolean()) {
    node.numbers[name] = value.As<Napi::Boolean>().Value() ? 1 : 0;
  } else if (value.IsNumber()) {
    node.numbers[name] = read_number(value, where);
  } else if (value.IsString()) {
    node.texts[name] = read_text(value, kMaxText, where);
  } else if (value.IsArray()) {
    node.lists[name] = parse_numbers(value, where);
  } else {
    refuse(where, "a number, a boolean, a text or a list of numbers", value);
  }
}

void parse_attributes(Node& node, const Napi::Value& value, const std::string& where) {
  const auto object = read_object(value, where);
  const auto names = read_array(object.GetPropertyNames(), kMaxAttributes, where);
  const uint32_t length = names.Length();
  for (uint32_t i = 0; i < length; ++i) {
    const Napi::Value key = names.Get(i);
    const std::string name = read_text(key, kMaxText, where);
    parse_attribute(node, name, object.Get(key), where + "." + name);
  }
}

Node parse_node(const Napi::Value& value, int64_t index, const std::string& where) {
  const auto object = read_object(value, where);
  Node node;
  node.op = parse_op(object.Get("op"), where + ".op");
  node.width = read_integer(object.Get("width"), 0, INT32_MAX, where + ".width");
  const auto inputs = read_array(object.Get("inputs"), kMaxOperands, where + ".inputs");
  const uint32_t input_count = inputs.Length();
  for (uint32_t i = 0; i < input_count; ++i) {
    node.inputs.push_back(static_cast<int32_t>(read_integer(inputs.Get(i), 0, index - 1, where + ".inputs")));
  }
  const auto tensors = read_array(object.Get("tensors"), kMaxOperands, where + ".tensors");
  const uint32_t tensor_count = tensors.Length();
  for (uint32_t i = 0; i < tensor_count; ++i) {
    node.tensors.push_back(read_integer(tensors.Get(i), -1, kMaxSafeInteger, where + ".tensors"));
  }
  parse_attributes(node, object.Get("attributes"), where + ".attributes");
  return node;
}

// All values of a step together stay below 2^53 bytes, so that no sum over them overflows later.
void check_workspace(const CreateProgram& message, const std::string& where) {
  int64_t elements = 0;
  for (const Node& node : message.nodes) {
    elements = sum_of(elements, product_of(node.width, message.max_tokens, where), where);
  }
  product_of(elements, 4, where);
}

// What decides whether and how much ranks exchange, or whether a step is refused before they do.
bool same_for_peers(const Node& mine, const Node& first) {
  if (mine.op == Op::all_gather) return mine.lists == first.lists;
  if (mine.op == Op::all_reduce) return mine.width == first.width;
  if (mine.op != Op::embed && mine.op != Op::sample) return true;
  const auto vocabulary = [](const Node& node) {
    const auto found = node.numbers.find("vocabSize");
    return found == node.numbers.end() ? -1 : found->second;
  };
  return vocabulary(mine) == vocabulary(first);
}

void check_same_operations(const CreateProgram& mine, const CreateProgram& first, const std::string& where) {
  if (mine.nodes.size() != first.nodes.size()) {
    refuse(where, std::to_string(first.nodes.size()) + " nodes as on rank 0", std::to_string(mine.nodes.size()));
  }
  for (size_t i = 0; i < mine.nodes.size(); ++i) {
    const Op op = mine.nodes[i].op, expected = first.nodes[i].op;
    const std::string name = kOpNames[static_cast<size_t>(expected)];
    if (op != expected) refuse(element(where, i) + ".op", name + " as on rank 0", kOpNames[static_cast<size_t>(op)]);
    if (!same_for_peers(mine.nodes[i], first.nodes[i])) {
      refuse(element(where, i), "widths and vocabSize of " + name + " as on rank 0", "others");
    }
  }
}

}  // namespace

std::vector<Message> parse_create_program(int64_t id, const Napi::Value& spec, int size) {
  const auto object = read_object(spec, "createProgram: spec");
  CreateProgram common;
  common.id = id;
  common.max_tokens = read_integer(object.Get("maxTokens"), 1, kMaxRows, "createProgram: maxTokens");
  common.max_sequences = read_integer(object.Get("maxSequences"), 1, kMaxRows, "createProgram: maxSequences");
  const auto ranks = read_array(object.Get("nodes"), kMaxGroupSize, "createProgram: nodes");
  if (ranks.Length() != static_cast<uint32_t>(size)) {
    refuse("createProgram: nodes", "one list for each of " + std::to_string(size) + " ranks",
           std::to_string(ranks.Length()));
  }
  std::vector<Message> messages;
  for (uint32_t rank = 0; rank < static_cast<uint32_t>(size); ++rank) {
    const std::string where = element("createProgram: nodes", rank);
    const auto nodes = read_array(ranks.Get(rank), kMaxNodes, where);
    const uint32_t length = nodes.Length();
    CreateProgram message = common;
    for (uint32_t i = 0; i < length; ++i) message.nodes.push_back(parse_node(nodes.Get(i), i, element(where, i)));
    check_workspace(message, where);
    if (rank > 0) check_same_operations(message, std::get<CreateProgram>(messages.front()), where);
    messages.emplace_back(std::move(message));
  }
  return messages;
}

}  // namespace heddle::addon
