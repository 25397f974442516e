// StepSpec → Step. Program checks on each rank what the numbers mean; here only their kinds and ranges.
#include <limits>
#include <memory>

#include "addon/parse.h"
#include "addon/read.h"
#include "core/error.h"

namespace heddle::addon {

namespace {

constexpr uint32_t kMaxSequences = 1u << 20;
constexpr uint32_t kMaxInputs = 1024;
constexpr size_t kMaxName = 256;

double read_fraction(const Napi::Value& value, const std::string& where) {
  const double number = read_number(value, where);
  if (number < 0 || number > 1) refuse(where, "a number from 0 to 1", value);
  return number;
}

// Absent ones leave what is there.
void read_optional(const Napi::Object& object, const char* name, const std::string& where, float& target) {
  const Napi::Value value = object.Get(name);
  if (!value.IsUndefined()) target = static_cast<float>(read_number(value, where + "." + name));
}

int64_t read_optional_integer(const Napi::Object& object, const char* name, int64_t least, int64_t most, int64_t otherwise,
                              const std::string& where) {
  const Napi::Value value = object.Get(name);
  return value.IsUndefined() ? otherwise : read_integer(value, least, most, where + "." + name);
}

void read_penalties(const Napi::Object& object, const std::string& where, SamplingParams& params) {
  read_optional(object, "repetitionPenalty", where, params.repetition_penalty);
  read_optional(object, "presencePenalty", where, params.presence_penalty);
  read_optional(object, "frequencyPenalty", where, params.frequency_penalty);
  if (!(params.repetition_penalty > 0)) {
    refuse(where + ".repetitionPenalty", "a number above 0", object.Get("repetitionPenalty"));
  }
  const int64_t never = params.answer_start;
  params.answer_start = static_cast<int32_t>(read_optional_integer(object, "answerStart", 0, INT32_MAX, never, where));
}

SamplingParams parse_sampling(const Napi::Value& value, const std::string& where) {
  const auto object = read_object(value, where);
  const Napi::Value temperature = object.Get("temperature");
  SamplingParams params;
  const double heat = read_number(temperature, where + ".temperature");
  if (heat < 0 || heat > std::numeric_limits<float>::max()) {
    refuse(where + ".temperature", "a number of at least 0", temperature);
  }
  params.temperature = static_cast<float>(heat);
  params.top_k = static_cast<int32_t>(read_integer(object.Get("topK"), 0, INT32_MAX, where + ".topK"));
  params.top_p = static_cast<float>(read_fraction(object.Get("topP"), where + ".topP"));
  params.min_p = static_cast<float>(read_fraction(object.Get("minP"), where + ".minP"));
  read_penalties(object, where, params);
  params.logprobs = static_cast<int32_t>(read_optional_integer(object, "logprobs", -1, kMaxLogprobs, params.logprobs, where));
  params.seed = static_cast<uint64_t>(read_integer(object.Get("seed"), 0, kMaxSafeInteger, where + ".seed"));
  return params;
}

std::vector<SamplingParams> parse_sampling_list(const Napi::Value& value) {
  const auto array = read_array(value, kMaxSequences, "runProgram: sampling");
  const uint32_t length = array.Length();
  std::vector<SamplingParams> list;
  for (uint32_t i = 0; i < length; ++i) {
    list.push_back(parse_sampling(array.Get(i), element("runProgram: sampling", i)));
  }
  return list;
}

HostMatrix parse_matrix(const Napi::Value& value, const std::string& where) {
  const auto object = read_object(value, where);
  HostMatrix matrix;
  matrix.shape = read_shape(object.Get("shape"), where + ".shape");
  matrix.data = read_float32_array(object.Get("data"), where + ".data");
  const int64_t count = count_of(matrix.shape, where + ".shape");
  if (static_cast<int64_t>(matrix.data.size()) != count) {
    refuse(where, std::to_string(count) + " elements as its shape says", std::to_string(matrix.data.size()));
  }
  return matrix;
}

std::map<std::string, HostMatrix> parse_inputs(const Napi::Value& value) {
  const auto object = read_object(value, "runProgram: inputs");
  const auto names = read_array(object.GetPropertyNames(), kMaxInputs, "runProgram: inputs");
  const uint32_t length = names.Length();
  std::map<std::string, HostMatrix> inputs;
  for (uint32_t i = 0; i < length; ++i) {
    const Napi::Value key = names.Get(i);
    const std::string name = read_text(key, kMaxName, "runProgram: inputs");
    inputs[name] = parse_matrix(object.Get(key), "runProgram: inputs." + name);
  }
  return inputs;
}

void parse_edits(const Napi::Value& value, Step& step) {
  const auto object = read_object(value, "runProgram: edits");
  step.edit_starts = read_int32_array(object.Get("starts"), "runProgram: edits.starts");
  const std::vector<int32_t> ids = read_int32_array(object.Get("ids"), "runProgram: edits.ids");
  const std::vector<int32_t> counts = read_int32_array(object.Get("counts"), "runProgram: edits.counts");
  const std::vector<float> biases = read_float32_array(object.Get("biases"), "runProgram: edits.biases");
  if (counts.size() != ids.size() || biases.size() != ids.size()) {
    refuse("runProgram: edits", "as many counts and biases as ids, " + std::to_string(ids.size()),
           std::to_string(counts.size()) + " and " + std::to_string(biases.size()));
  }
  step.edits.resize(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) step.edits[i] = {ids[i], counts[i], biases[i]};
}

}  // namespace

std::shared_ptr<const Step> parse_step(const Napi::Value& value) {
  const auto object = read_object(value, "runProgram: step");
  const auto array = [&](const char* name) {
    return read_int32_array(object.Get(name), std::string("runProgram: ") + name);
  };
  auto step = std::make_shared<Step>();
  step->tokens = array("tokens");
  step->positions = array("positions");
  step->sequence_starts = array("sequenceStarts");
  step->slots = array("slots");
  step->block_table = array("blockTable");
  const Napi::Value sampling = object.Get("sampling");
  if (!sampling.IsUndefined()) step->sampling = parse_sampling_list(sampling);
  const Napi::Value edits = object.Get("edits");
  if (!edits.IsUndefined()) parse_edits(edits, *step);
  const Napi::Value inputs = object.Get("inputs");
  if (!inputs.IsUndefined()) step->inputs = parse_inputs(inputs);
  return step;
}

}  // namespace heddle::addon
