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
  const Napi::Value inputs = object.Get("inputs");
  if (!inputs.IsUndefined()) step->inputs = parse_inputs(inputs);
  return step;
}

}  // namespace heddle::addon
