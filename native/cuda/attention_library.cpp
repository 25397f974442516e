// Which prompts go to the library, and what becomes of its answers.
#include "cuda/attention_library.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <exception>
#include <utility>

#include "core/error.h"

namespace heddle::cuda {

namespace {

constexpr int64_t kMostSequences = 1024;
constexpr int64_t kMostKeyBytes = int64_t{256} << 20;  // of keys, and as much of values: memory that a plan of the caches knows nothing of

// The next power of `base`, so that neighbouring steps share a plan. Only launches are sized by these: what is masked costs little.
int64_t rounded_up(int64_t count, int64_t least, int64_t base) {
  int64_t bucket = least;
  while (bucket < count) bucket *= base;
  return bucket;
}

bool groups_are_neighbours(const AttentionParameters& p) {
  if (p.head_count % p.kv_head_count != 0) return false;
  const int32_t group = p.head_count / p.kv_head_count;
  for (int32_t kv_head = 0; kv_head < p.kv_head_count; ++kv_head) {
    if (p.heads.start[kv_head] != kv_head * group) return false;
  }
  for (int32_t i = 0; i < p.head_count; ++i) {
    if (p.heads.query[i] != i) return false;
  }
  return true;
}

int64_t query_elements(const AttentionParameters& p, const StepShape& shape) { return shape.tokens * p.head_count * p.head_dim; }
int64_t key_elements(const AttentionParameters& p, const StepShape& shape) { return shape.prompt_keys * p.kv_head_count * p.head_dim; }

std::string text_of(const PromptShape& shape) {
  return std::to_string(shape.sequences) + " sequences of up to " + std::to_string(shape.queries) + " tokens and " +
         std::to_string(shape.keys) + " keys, " + std::to_string(shape.head_count) + "/" + std::to_string(shape.kv_head_count) +
         " heads of " + std::to_string(shape.head_dim);
}

// Both sum the same products in another order, with weights and results rounded to 16 bits.
float tolerance_of(DType dtype) { return dtype == DType::bfloat16 ? 0.03f : 0.004f; }

}  // namespace

// One piece of scratch memory, each part aligned as tensor cores want it.
struct PromptLibrary::Parts {
  PromptTensors tensors;
  int32_t* query_counts = nullptr;
  int32_t* key_counts = nullptr;
  int32_t* query_starts = nullptr;
  int32_t* key_starts = nullptr;
  void* queries = nullptr;
  void* keys = nullptr;
  void* values = nullptr;
  void* workspace = nullptr;
  void* trial = nullptr;                              // a result that is only looked at
  float* difference = nullptr;
  size_t query_bytes = 0;
  size_t key_bytes = 0;

  Parts(const Device& device, const AttentionParameters& p, const StepShape& shape, int64_t sequences, size_t workspace_bytes, bool tried_out)
      : query_bytes(static_cast<size_t>(query_elements(p, shape)) * size_of(p.y_dtype)),
        key_bytes(static_cast<size_t>(key_elements(p, shape)) * size_of(p.cache_dtype)) {
    const size_t integers = static_cast<size_t>(sequences + 1) * sizeof(int32_t);
    size_t end = 0;
    const auto take = [&end](size_t bytes) { return std::exchange(end, (end + bytes + 255) / 256 * 256); };
    const size_t counts = take(2 * integers), starts = take(2 * integers), all_queries = take(query_bytes), all_keys = take(key_bytes);
    const size_t all_values = take(key_bytes), work = take(workspace_bytes);
    const size_t result = take(tried_out ? query_bytes : 0), differences = take(tried_out ? 2 * sizeof(float) : 0);
    auto* memory = static_cast<unsigned char*>(device.scratch(Scratch::attention_library, end));
    query_counts = reinterpret_cast<int32_t*>(memory + counts);
    key_counts = query_counts + sequences + 1;
    query_starts = reinterpret_cast<int32_t*>(memory + starts);
    key_starts = query_starts + sequences + 1;
    queries = memory + all_queries;
    keys = memory + all_keys;
    values = memory + all_values;
    workspace = memory + work;
    trial = memory + result;
    difference = reinterpret_cast<float*>(memory + differences);
    tensors = {queries, keys, values, tried_out ? trial : p.y, query_counts, key_counts, query_starts, key_starts};
  }
};

bool PromptLibrary::is_worth_it(const AttentionParameters& p, const StepShape& shape) const {
  if (shape.longest_part < limits_.least_queries || shape.longest_context < limits_.least_keys) return false;
  if (shape.prompt_keys == 0 || shape.sequences > kMostSequences || p.y_dtype != p.cache_dtype || !groups_are_neighbours(p)) return false;
  return key_elements(p, shape) * 2 <= kMostKeyBytes && query_elements(p, shape) <= INT32_MAX;
}

PromptShape PromptLibrary::plan_shape(const AttentionParameters& p, const StepShape& shape) const {
  PromptShape wanted;
  wanted.sequences = rounded_up(shape.sequences, 1, 4);
  wanted.queries = rounded_up(shape.longest_part, limits_.least_queries, 2);
  wanted.keys = rounded_up(shape.longest_context, limits_.least_keys, 4);
  wanted.head_count = p.head_count;
  wanted.kv_head_count = p.kv_head_count;
  wanted.head_dim = p.head_dim;
  wanted.sliding_window = p.sliding_window;
  wanted.causal = p.causal;
  wanted.scale = p.scale;
  wanted.dtype = p.cache_dtype;
  return wanted;
}

// False, with the reason reported and the plan gone, where the library or its memory fails; y is as it was then.
template <class Body>
bool PromptLibrary::attempt(const PromptShape& shape, const Body& body) {
  try {
    body();
    return true;
  } catch (const std::exception& error) {
    entries_[shape].plan.reset();
    report_("attention of " + text_of(shape) + ": " + error.what());
    return false;
  }
}

bool PromptLibrary::run(const Device& device, const AttentionParameters& p, const StepShape& shape) {
  if (failed_ || !is_worth_it(p, shape) || device.capturing()) return false;
  const PromptShape wanted = plan_shape(p, shape);
  Entry* entry = nullptr;
  std::unique_ptr<Parts> parts;
  const bool ready = attempt(wanted, [&] {
    entry = &entry_of(wanted);
    if (entry->plan) parts = std::make_unique<Parts>(device, p, shape, wanted.sequences, entry->plan->workspace_bytes(), !entry->trusted);
  });
  if (!ready || !parts) return false;
  lay_out_prompts(device, p, wanted.sequences, parts->query_counts, parts->key_counts, parts->query_starts, parts->key_starts);
  gather_keys(device, p, shape, parts->key_starts, parts->keys, parts->values);
  // The library's output goes where its queries are: they need a place of their own.
  check(cudaMemcpyAsync(parts->queries, p.y, parts->query_bytes, cudaMemcpyDeviceToDevice, device.stream()), "attention");
  if (!entry->trusted) check(cudaMemsetAsync(parts->trial, 0xff, parts->query_bytes, device.stream()), "attention");  // NaN
  if (!attempt(wanted, [&] { entry->plan->run(parts->tensors, parts->workspace); })) return false;
  if (!entry->trusted) compare(device, p, shape, wanted, *parts);
  return true;
}

PromptLibrary::Entry& PromptLibrary::entry_of(const PromptShape& shape) {
  if (!engine_) {
    failed_ = true;                                   // unless it starts
    engine_ = start_();
    failed_ = false;
  }
  const auto [found, fresh] = entries_.try_emplace(shape);
  if (fresh) found->second.plan = engine_->plan(shape);
  return found->second;
}

// The own kernel's result is the one that counts. This waits for the stream, once a plan.
void PromptLibrary::compare(const Device& device, const AttentionParameters& p, const StepShape& shape, const PromptShape& wanted,
                            const Parts& parts) {
  attention_prefill(device, p, shape);
  compare_prompts(device, p, shape, parts.trial, p.y, parts.difference);
  float found[2] = {};                                // largest difference, largest value
  check(cudaMemcpyAsync(found, parts.difference, sizeof(found), cudaMemcpyDeviceToHost, device.stream()), "attention");
  check(cudaStreamSynchronize(device.stream()), "attention");
  Entry& entry = entries_[wanted];
  entry.trusted = found[0] <= tolerance_of(p.cache_dtype) * found[1];
  if (entry.trusted || !std::isfinite(found[1])) return;  // the own result has no number to compare with: next time
  failed_ = true;                                     // what is wrong for one shape is not asked for another
  entry.plan.reset();
  report_("attention of " + text_of(wanted) + " differed from the own kernel's by " + std::to_string(found[0]) + ", with values up to " +
          std::to_string(found[1]));
}

}  // namespace heddle::cuda
