// The six messages a rank understands, as plain data: no pointer into JavaScript and no closure crosses to a rank.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "core/dtype.h"
#include "core/tensor.h"

namespace heddle {

// A rectangle of elements that fills part of a tensor, from a region of a file or from bytes sent along.
struct Piece {
  std::string path;                                   // empty: the elements are in `bytes`
  std::shared_ptr<const std::vector<uint8_t>> bytes;
  DType dtype = DType::float32;                       // of the source; converted to the tensor's
  uint64_t offset = 0;                                // bytes from the start of the source to the first element
  int64_t rows = 0;
  int64_t row_elements = 0;
  uint64_t row_stride = 0;                            // bytes between the starts of two rows in the source
  int64_t target_offset = 0;                          // elements from the start of the tensor
  int64_t target_stride = 0;                          // elements between the starts of two rows in the tensor
  bool transposed = false;                            // the source holds columns: row_stride is between the starts of two of them
  float increment = 0;                                // added to every element, of a float32 tensor

  // The runs of elements that lie together in the source, row_stride apart.
  int64_t lines() const { return transposed ? row_elements : rows; }
  int64_t line_elements() const { return transposed ? rows : row_elements; }
};

struct CreateTensor {
  int64_t id = 0;
  DType dtype = DType::float32;
  std::vector<int64_t> shape;
  TensorRole role = TensorRole::weight;
  std::vector<Piece> pieces;                          // what they leave uncovered is zero
};

enum class Op : uint8_t {
  input, embed, linear, add_bias, add, all_reduce, all_gather, slice, rms_norm, layer_norm, gated, activation,
  route, experts, attention, last_rows, sample, output,
};

// One operation of a recorded forward pass. Values are numbered by the node that makes them.
struct Node {
  Op op = Op::input;
  std::vector<int32_t> inputs;                        // indices of earlier nodes
  std::vector<int64_t> tensors;                       // ids; -1: absent
  int64_t width = 0;                                  // of the result, on this rank
  std::map<std::string, double> numbers;              // named as in TypeScript: "eps", "headCount"
  std::map<std::string, std::vector<double>> lists;
  std::map<std::string, std::string> texts;
};

struct CreateProgram {
  int64_t id = 0;
  std::vector<Node> nodes;
  int64_t max_tokens = 0;                             // rows of a step at most
  int64_t max_sequences = 0;
};

struct SamplingParams {
  float temperature = 0;                              // 0: greedy
  int32_t top_k = 0;                                  // 0: off
  float top_p = 1;                                    // 1: off
  float min_p = 0;                                    // 0: off
  uint64_t seed = 0;
  // Of tokens that came before, as counted in the step's edits: see LogitEdit.
  float repetition_penalty = 1;                       // 1: off
  float presence_penalty = 0;                         // 0: off
  float frequency_penalty = 0;                        // 0: off
  int32_t answer_start = std::numeric_limits<int32_t>::max();  // position of the first token after the prompt
  int32_t logprobs = -1;                              // most likely tokens to tell beside the chosen one; -1: none, nor that

  bool has_penalties() const { return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0; }
};

constexpr int32_t kMaxLogprobs = 20;                  // SamplingParams::logprobs at most

// What changes one logit before a token is chosen. In this order: the bias is added; a token of the prompt or the answer has a logit
// above 0 divided, below 0 multiplied by the repetition penalty; one of the answer loses presence + frequency * count.
// A list of a sequence counts every token but the step's last, which may be known to the ranks alone: they count it themselves
// where its position is at least answer_start. Ids in a list are distinct.
struct LogitEdit {
  int32_t id = 0;
  int32_t count = -1;                                 // how often it is in the answer; 0: in the prompt alone; -1: in neither
  float bias = 0;                                     // -infinity: the token cannot be chosen
};

struct HostMatrix {
  std::vector<float> data;                            // row-major
  std::vector<int64_t> shape;
};

// A step: a flat, ragged list of the tokens of several sequences, some in prefill, some in decode.
struct Step {
  std::vector<int32_t> tokens;                        // [tokenCount]; -1 - slot: the token last sampled in that slot
  std::vector<int32_t> positions;                     // [tokenCount] consecutive within a sequence
  std::vector<int32_t> sequence_starts;               // [sequenceCount + 1] into tokens; 0 first, tokenCount last
  std::vector<int32_t> slots;                         // [sequenceCount] where the sampled token is kept
  std::vector<int32_t> block_table;                   // [sequenceCount, blocksPerSequence]; -1 beyond the sequence
  std::vector<SamplingParams> sampling;               // [sequenceCount], or empty: greedy
  std::vector<int32_t> edit_starts;                   // [sequenceCount + 1] into edits, or empty: no edits
  std::vector<LogitEdit> edits;
  std::map<std::string, HostMatrix> inputs;           // for nodes "input"

  int64_t token_count() const { return static_cast<int64_t>(positions.size()); }
  int64_t sequence_count() const { return static_cast<int64_t>(slots.size()); }
  int64_t blocks_per_sequence() const {
    return slots.empty() ? 0 : static_cast<int64_t>(block_table.size() / slots.size());
  }
};

inline bool asks_for_logprobs(const Step& step) {
  return std::any_of(step.sampling.begin(), step.sampling.end(), [](const SamplingParams& params) { return params.logprobs >= 0; });
}

struct RunProgram {
  int64_t id = 0;
  std::shared_ptr<const Step> step;
};

struct ReadTensor {
  int64_t id = 0;
};

struct Dispose {
  std::vector<int64_t> ids;                           // of tensors and programs, which share one sequence of ids
};

struct Close {};

using Message = std::variant<CreateTensor, CreateProgram, RunProgram, ReadTensor, Dispose, Close>;

struct TokenLogprob {
  int32_t id = -1;                                    // -1: the vocabulary has no more tokens
  float logprob = 0;                                  // of the softmax of the raw logits: before edits and temperature
};

// What a run gives back, from rank 0 alone: every rank holds the same.
struct RunResult {
  std::vector<int32_t> tokens;                        // [sequenceCount] where the program samples
  std::map<std::string, HostMatrix> outputs;
  // Of each sequence that asks: the chosen token, then the likeliest, best first.
  std::vector<TokenLogprob> logprobs = {};
};

using Result = std::variant<std::monostate, RunResult, HostMatrix>;

}  // namespace heddle
