// Attention of long prompts by a library, where there is one: each sequence's keys and values leave the paged cache for memory where they
// lie side by side, and a plan made for the shape does the rest.
// Rule: a plan is trusted once its first result agrees with that of the own kernel; one that differs or fails is never asked again, and
// says why in info().
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "core/backend_abi.h"
#include "cuda/attention_parameters.h"
#include "cuda/device.h"

namespace heddle::cuda {

// What a plan is made for. Counts are rounded up, so that few plans serve all steps.
struct PromptShape {
  int64_t sequences = 0;
  int64_t queries = 0;                                // most new tokens of a sequence
  int64_t keys = 0;                                   // most keys of a sequence
  int64_t head_count = 0;                             // query head i reads KV head i / (headCount / kvHeadCount)
  int64_t kv_head_count = 0;
  int64_t head_dim = 0;
  int64_t sliding_window = 0;                         // 0: none
  bool causal = true;                                 // the last query sees all keys of its sequence
  float scale = 1;
  DType dtype = DType::bfloat16;                      // of queries, keys, values and y

  auto tie() const {
    return std::tie(sequences, queries, keys, head_count, kv_head_count, head_dim, sliding_window, causal, scale, dtype);
  }
  bool operator<(const PromptShape& other) const { return tie() < other.tie(); }
};

// Device memory. Sequences of queries lie as the step has them, those of keys one behind the other.
struct PromptTensors {
  const void* queries = nullptr;                      // [tokens, headCount, headDim], normalised and rotated
  const void* keys = nullptr;                         // [keys, kvHeadCount, headDim]
  const void* values = nullptr;
  void* y = nullptr;                                  // as queries
  const int32_t* query_counts = nullptr;              // [sequences] 0: none of this sequence's y may be written
  const int32_t* key_counts = nullptr;
  const int32_t* query_starts = nullptr;              // [sequences + 1] in elements of queries
  const int32_t* key_starts = nullptr;                // [sequences + 1] in elements of keys
};

class PromptPlan {
 public:
  virtual ~PromptPlan() = default;
  virtual size_t workspace_bytes() const = 0;
  // Submits to the engine's stream. Throws where nothing was submitted.
  virtual void run(const PromptTensors& tensors, void* workspace) = 0;
};

class PromptEngine {
 public:
  virtual ~PromptEngine() = default;
  virtual std::unique_ptr<PromptPlan> plan(const PromptShape& shape) = 0;  // throws where the library cannot do it
};

// Below these a prompt's attention is so short that gathering its keys and the library's own launch would cost what it gains.
struct PromptLimits {
  int64_t least_queries = 128;                        // new tokens of the longest sequence
  int64_t least_keys = 2048;                          // of the longest sequence
};

// One rank's. Nothing here waits for another rank.
class PromptLibrary {
 public:
  // `start` makes the engine at the first prompt that is worth it; what it throws is a reason like any other. `report` is told every
  // reason why prompts stay with the own kernel.
  using Start = std::function<std::unique_ptr<PromptEngine>()>;
  using Report = std::function<void(const std::string&)>;
  PromptLibrary(Start start, Report report, const PromptLimits& limits = {})
      : start_(std::move(start)), report_(std::move(report)), limits_(limits) {}

  // Replaces the prepared queries in y of sequences with more than one token in the step by outputs; their keys are in the cache. False:
  // y is as it was. To be called where `attention_prefill` could be, and before attention_decode writes rows of y.
  bool run(const Device& device, const AttentionParameters& p, const StepShape& shape);

 private:
  struct Entry {
    std::unique_ptr<PromptPlan> plan;                 // null: never ask again
    bool trusted = false;
  };

  struct Parts;                                       // of the scratch memory of one call

  bool is_worth_it(const AttentionParameters& p, const StepShape& shape) const;
  PromptShape plan_shape(const AttentionParameters& p, const StepShape& shape) const;
  template <class Body>
  bool attempt(const PromptShape& shape, const Body& body);
  Entry& entry_of(const PromptShape& shape);
  void compare(const Device& device, const AttentionParameters& p, const StepShape& shape, const PromptShape& wanted, const Parts& parts);

  Start start_;
  Report report_;
  PromptLimits limits_;
  std::unique_ptr<PromptEngine> engine_;
  bool failed_ = false;                               // wrong once, or not to be started
  std::map<PromptShape, Entry> entries_;
};

// ---- kernels ----

// Counts and starts of `sequences` sequences, those beyond the step's being empty; and keys and values side by side.
void lay_out_prompts(const Device& device, const AttentionParameters& p, int64_t sequences, int32_t* query_counts, int32_t* key_counts,
                     int32_t* query_starts, int32_t* key_starts);
void gather_keys(const Device& device, const AttentionParameters& p, const StepShape& shape, const int32_t* key_starts, void* keys,
                 void* values);
// {largest |a - b|, largest |b|} over the rows of sequences that have more than one token; NaN counts as infinite. `result` is device
// memory and is written, not read.
void compare_prompts(const Device& device, const AttentionParameters& p, const StepShape& shape, const void* a, const void* b, float* result);

// ---- cuDNN (attention_cudnn.cpp, or attention_no_cudnn.cpp where it was built without) ----

// Opened at the first question: version and path, or why there is none; and why prompts stay with the own kernel, once they do.
LibraryInfo describe_cudnn();
// Of the rank with that device; null where HEDDLE_CUDNN is 0 or there is no cuDNN.
std::unique_ptr<PromptLibrary> create_cudnn(const Device& device, const PromptLimits& limits = {});

}  // namespace heddle::cuda
