// Memory and kernels of one kind of device. One object per rank, used by that rank's thread alone.
// A backend is complete or absent: every operation of a Program is one method here and one file in its folder.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/communicator.h"
#include "core/executor.h"
#include "core/fill_target.h"
#include "core/message.h"
#include "core/tensor.h"

namespace heddle {

enum class Activation : uint8_t { gelu, gelu_tanh, relu, silu };

struct AttentionSpec {
  int64_t head_count = 0;                             // query heads of this rank
  int64_t kv_head_count = 0;                          // KV heads that this rank holds
  int64_t head_dim = 0;
  std::vector<int32_t> kv_head_of_query;              // [head_count] local KV head of each local query head
  float scale = 0;                                    // usually 1 / sqrt(headDim)
  bool causal = true;
  int64_t sliding_window = 0;                         // keys seen: the last slidingWindow positions, own included; 0: all
  int64_t block_size = 0;                             // tokens of a cache block
  int64_t block_count = 0;
  int64_t rope_dim = 0;                               // leading elements of a head that rotate; 0: no rotary embedding
  float rope_scale = 1;                               // factor on cos and sin (YaRN); 1 otherwise
  float norm_eps = 0;                                 // of the query and key norms
};

// The tensors attention reads beside its input; absent ones are null.
struct AttentionTensors {
  Tensor* cache = nullptr;                            // [2 (keys, values), blockCount, kvHeadCount, blockSize, headDim]
  const Tensor* inverse_frequencies = nullptr;        // float32 [ropeDim / 2]; angle = position * frequency, in float32
  const Tensor* query_norm = nullptr;                 // [headDim]: RMS norm of every head before the rotation
  const Tensor* key_norm = nullptr;
};

// The step as the kernels see it; arrays as in Step, with tokens resolved.
struct StepView {
  int64_t token_count = 0;
  int64_t sequence_count = 0;
  int64_t blocks_per_sequence = 0;
  const int32_t* tokens = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* sequence_starts = nullptr;
  const int32_t* slots = nullptr;
  const int32_t* block_table = nullptr;
  const SamplingParams* sampling = nullptr;           // [sequenceCount]
  const int32_t* edit_starts = nullptr;               // [sequenceCount + 1]; null: no edits
  const LogitEdit* edits = nullptr;
};

struct EmbedSpec {
  int64_t first_row = 0;                              // id of row 0 of this rank's part of the table
  bool by_position = false;                           // rows by the positions of the tokens, not by their ids
  float scale = 1;                                    // factor on every row
};

struct RouteSpec {
  int64_t experts_per_token = 0;
  bool normalized = false;                            // the weights of a row add up to one
};

// A contraction in pieces, for results that do not depend on the number of ranks: every piece is a sum in float32 of its own, and the sums
// are added as core/sum_tree.h says. Widths in order from column 0 on; a piece of width 0 is +0, and columns behind the last piece are
// padding that counts nowhere. Empty: one piece, all of it.
using Chunks = std::vector<int64_t>;
constexpr size_t kMaxChunks = 8;

struct LinearSpec {
  Chunks chunks = {};                                 // of the width of x
};

struct ExpertsSpec {
  int64_t first_expert = 0;                           // column of the routing for the first expert of this rank
  int64_t experts_per_token = 0;                      // weights of a row that are not 0, at most, over all ranks
  Activation activation = Activation::silu;
  Chunks chunks = {};                                 // of the inner width; within a piece experts are added in ascending order
  Chunks expert_chunks = {};                          // of this rank's experts, not both: within a piece likewise
};

struct SampleSpec {
  int64_t first_id = 0;                               // token id of column 0 of this rank's logits
  int64_t vocab_size = 0;                             // ids from here on are padding and never win
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string description() const = 0;        // for info(): "cpu (avx512bf16)"
  virtual Buffer allocate(size_t bytes) = 0;          // zeroed, 64-byte aligned; throws out_of_memory
  virtual DType activation_dtype() const = 0;         // of every View
  virtual void upload(void* target, const void* source, size_t bytes) = 0;    // host → device
  virtual void download(void* target, const void* source, size_t bytes) = 0;  // device → host
  // Takes the first bytes of a tensor, for memory that allocate gave. At most one at a time; here: for host memory.
  virtual std::unique_ptr<FillTarget> fill_target(const Buffer& memory) { return std::make_unique<HostFillTarget>(memory.data()); }

  // This backend's own way of running a program; null: node by node, through the operations below (core/node_executor.h). Both objects
  // outlive the executor.
  virtual std::unique_ptr<Executor> compile(const ProgramPlan& /*plan*/, Communicator& /*communicator*/) { return nullptr; }

  // Makes the step's arrays resident until the next begin_step and puts sampled tokens in place of "-1 - slot".
  virtual StepView begin_step(const Step& step) = 0;

  // Every y may be the same memory as x where widths agree, except for linear, slice, gated, experts and attention.
  virtual void embed(const StepView& step, const Tensor& weight, const EmbedSpec& spec, View y) = 0;  // foreign ids: zero rows
  virtual void linear(View x, const Tensor& weight, const LinearSpec& spec, View y) = 0;  // y = x · weightᵀ; weight [out, in]
  virtual void add_bias(View x, const Tensor& bias, View y) = 0;
  virtual void add(View a, View b, View y) = 0;
  virtual void slice(View x, int64_t start, View y) = 0;                      // columns [start, start + y.width)
  virtual void rms_norm(View x, const Tensor& weight, float eps, View y) = 0;
  virtual void layer_norm(View x, const Tensor& weight, const Tensor* bias, float eps, View y) = 0;
  virtual void activation(View x, Activation kind, View y) = 0;
  virtual void gated(View x, Activation kind, View y) = 0;                    // x = [gate | up]; y = kind(gate) * up
  // x: a logit for each expert; y: softmax, of which the largest stay (at a tie the first) and the others become 0.
  virtual void route(View x, const RouteSpec& spec, View y) = 0;
  // y = sum over this rank's experts with a weight other than 0 of weight * down · (kind(gate · x) * (up · x)). routing [rows, experts];
  // gate_up [experts of this rank, 2 (gate, up) * inner, width of x], down [experts of this rank, width of x, inner], as matrices
  virtual void experts(View x, View routing, const Tensor& gate_up, const Tensor& down, const ExpertsSpec& spec, View y) = 0;
  // qkv = [queries | keys | values] of the step's tokens; appends to the cache, then attends. y [tokens, headCount * headDim]
  virtual void attention(const StepView& step, View qkv, const AttentionTensors& tensors, const AttentionSpec& spec, View y) = 0;
  virtual void last_rows(const StepView& step, View x, View y) = 0;           // y[i] = x[last token of sequence i]
  // One token per sequence, the same on every rank; kept in the sequence's slot and written to `tokens` (host). The step's edits apply; the
  // logits are as before when it is done.
  virtual void sample(const StepView& step, View logits, const SampleSpec& spec, Communicator& communicator, int32_t* tokens) = 0;

  // What sequences asked to be told of the tokens just sampled from these logits: see RunResult. Called where one asked.
  virtual void logprobs(const StepView& step, View logits, const SampleSpec& spec, Communicator& communicator, const int32_t* tokens,
                        std::vector<TokenLogprob>& found) = 0;

  virtual void synchronize() = 0;                     // until all submitted work is done
};

}  // namespace heddle
