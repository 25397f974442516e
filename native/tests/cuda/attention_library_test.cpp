// Which prompts go to a library, and what becomes of its answers, with a stand-in that computes on the host; and, where cuDNN is, cuDNN.
#include <stdexcept>

#include "attention_harness.h"
#include "cuda/attention_library.h"

namespace heddle::test {
namespace {

using cuda::PromptLibrary;
using cuda::PromptShape;
using cuda::PromptTensors;

struct Behaviour {
  enum Kind { right, wrong, silent, refuses, throws };
  Kind kind = right;
  int starts = 0;
  int plans = 0;
  int runs = 0;
  std::vector<PromptShape> shapes;
};

template <class T>
std::vector<T> fetched(const void* data, size_t count) {
  std::vector<T> values(count);
  cuda::check(cudaMemcpy(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost), "test");
  return values;
}

// Attention by the definition, over exactly what the tensors say.
class StandInPlan final : public cuda::PromptPlan {
 public:
  StandInPlan(Behaviour& behaviour, const PromptShape& shape, cudaStream_t stream) : behaviour_(behaviour), shape_(shape), stream_(stream) {}
  size_t workspace_bytes() const override { return 1000; }

  void run(const PromptTensors& tensors, void* workspace) override {
    ++behaviour_.runs;
    if (behaviour_.kind == Behaviour::throws) throw std::runtime_error("the stand-in cannot run");
    check(workspace != nullptr, "a workspace");
    if (behaviour_.kind == Behaviour::silent) return;
    cuda::check(cudaStreamSynchronize(stream_), "test");
    const auto sequences = static_cast<size_t>(shape_.sequences);
    const auto query_counts = fetched<int32_t>(tensors.query_counts, sequences), key_counts = fetched<int32_t>(tensors.key_counts, sequences);
    const auto query_starts = fetched<int32_t>(tensors.query_starts, sequences + 1), key_starts = fetched<int32_t>(tensors.key_starts, sequences + 1);
    for (size_t i = 0; i < sequences; ++i) {
      check(query_counts[i] <= shape_.queries && key_counts[i] <= shape_.keys, "a plan with room for sequence ", i);
      attend(tensors, query_counts[i], key_counts[i], query_starts[i], key_starts[i]);
    }
  }

 private:
  std::vector<float> matrix(const void* data, int64_t start, int64_t count) const {
    const auto* bits = static_cast<const uint16_t*>(data) + start;
    const auto bytes = fetched<uint8_t>(bits, static_cast<size_t>(count) * 2);
    return decoded(bytes, shape_.dtype);
  }

  void attend(const PromptTensors& tensors, int64_t queries, int64_t keys, int64_t query_start, int64_t key_start) const {
    if (queries == 0) return;
    const int64_t dim = shape_.head_dim, width = shape_.head_count * dim, key_width = shape_.kv_head_count * dim;
    const std::vector<float> q = matrix(tensors.queries, query_start, queries * width);
    const std::vector<float> k = matrix(tensors.keys, key_start, keys * key_width), v = matrix(tensors.values, key_start, keys * key_width);
    std::vector<float> y(q.size());
    for (int64_t row = 0; row < queries; ++row) {
      for (int64_t head = 0; head < shape_.head_count; ++head) {
        const int64_t kv = head / (shape_.head_count / shape_.kv_head_count) * dim;
        attend_row(&q[static_cast<size_t>(row * width + head * dim)], k.data() + kv, v.data() + kv, keys - queries + row, keys,
                   &y[static_cast<size_t>(row * width + head * dim)]);
      }
    }
    if (behaviour_.kind == Behaviour::wrong) y[y.size() / 2] += 0.5f;
    const std::vector<uint8_t> bytes = encoded(y, shape_.dtype);
    cuda::check(cudaMemcpy(static_cast<uint16_t*>(tensors.y) + query_start, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "test");
  }

  void attend_row(const float* query, const float* keys, const float* values, int64_t position, int64_t context, float* y) const {
    const int64_t dim = shape_.head_dim, stride = shape_.kv_head_count * dim;
    const int64_t begin = shape_.sliding_window > 0 ? std::max<int64_t>(0, position + 1 - shape_.sliding_window) : 0;
    const int64_t end = shape_.causal ? position + 1 : context;
    std::vector<double> sums(static_cast<size_t>(dim), 0.0);
    double total = 0;
    for (int64_t key = begin; key < end; ++key) {
      double score = 0;
      for (int64_t i = 0; i < dim; ++i) score += double{query[i]} * keys[key * stride + i];
      const double weight = std::exp(score * shape_.scale);   // scores are small here
      total += weight;
      for (int64_t i = 0; i < dim; ++i) sums[static_cast<size_t>(i)] += weight * values[key * stride + i];
    }
    for (int64_t i = 0; i < dim; ++i) y[i] = static_cast<float>(sums[static_cast<size_t>(i)] / total);
  }

  Behaviour& behaviour_;
  PromptShape shape_;
  cudaStream_t stream_;
};

class StandIn final : public cuda::PromptEngine {
 public:
  StandIn(Behaviour& behaviour, cudaStream_t stream) : behaviour_(behaviour), stream_(stream) {}
  std::unique_ptr<cuda::PromptPlan> plan(const PromptShape& shape) override {
    ++behaviour_.plans;
    if (behaviour_.kind == Behaviour::refuses) throw std::runtime_error("the stand-in has no such plan");
    behaviour_.shapes.push_back(shape);
    return std::make_unique<StandInPlan>(behaviour_, shape, stream_);
  }

 private:
  Behaviour& behaviour_;
  cudaStream_t stream_;
};

// A harness whose prompts of 16 tokens and more go to a stand-in.
struct Setting {
  Behaviour behaviour;
  std::vector<std::string> reasons;
  AttentionHarness harness;
  PromptLibrary library;

  Setting(const AttentionCase& c, int64_t sequences, int64_t max_context, Behaviour::Kind kind = Behaviour::right)
      : harness(c, sequences, max_context),
        library([this] { return start(); }, [this](const std::string& reason) { reasons.push_back(reason); }, {16, 32}) {
    behaviour.kind = kind;
    harness.use(&library);
  }
  std::unique_ptr<cuda::PromptEngine> start() {
    ++behaviour.starts;
    return std::make_unique<StandIn>(behaviour, harness.stream());
  }
  void expect(int plans, int runs, size_t reason_count, const char* what) {
    check(behaviour.plans == plans, what, ": expected ", plans, " plans, got ", behaviour.plans);
    check(behaviour.runs == runs, what, ": expected ", runs, " runs, got ", behaviour.runs);
    check(reasons.size() == reason_count, what, ": expected ", reason_count, " reasons, got ", reasons.size(),
          reasons.empty() ? std::string() : ": " + reasons.back());
  }
};

const AttentionCase kGrouped = in_16_bits({.head_dim = 64, .kv_head_of_query = {0, 0, 1, 1}, .kv_head_count = 2, .rope_dim = 64});

HEDDLE_TEST(cuda_attention_library_is_used_once_it_has_been_right) {
  Setting setting(kGrouped, 1, 200);
  setting.harness.step({40});                         // compared with the own kernel
  setting.harness.step({40});                         // used: keys from before, and new ones
  setting.expect(1, 2, 0, "a second prompt of a bucket");
  setting.harness.step({100});
  setting.expect(2, 3, 0, "a longer prompt");
  check(setting.behaviour.starts == 1, "one engine");
}

HEDDLE_TEST(cuda_attention_library_takes_ragged_steps_and_leaves_single_tokens) {
  for (const DType dtype : {DType::bfloat16, DType::float16}) {
    Setting setting(in_16_bits(kGrouped, dtype), 5, 260);
    setting.harness.step({33, 1, 20, 0, 7});
    setting.harness.step({1, 40, 1, 17, 2});
    setting.harness.step({130, 1, 40, 1, 2});
    check(setting.behaviour.runs == 3, "three steps, got ", setting.behaviour.runs);
    for (const PromptShape& shape : setting.behaviour.shapes) check(shape.sequences == 16 || shape.sequences == 4, "sequences of a bucket");
  }
}

HEDDLE_TEST(cuda_attention_library_masks) {
  for (AttentionCase c : {kGrouped, in_16_bits({.head_dim = 96}), in_16_bits({.head_dim = 128, .kv_head_of_query = {0, 0, 0}, .norms = true})}) {
    for (const bool causal : {true, false}) {
      for (const int64_t window : {0, 9}) {
        if (!causal && window > 0) continue;
        c.causal = causal;
        c.sliding_window = window;
        Setting setting(c, 2, 120);
        setting.harness.step({40, 16});
        setting.harness.step({40, 20});
        setting.expect(1, 2, 0, "a mask");
      }
    }
  }
}

HEDDLE_TEST(cuda_attention_library_that_is_wrong_is_never_asked_again) {
  for (const auto kind : {Behaviour::wrong, Behaviour::silent}) {
    Setting setting(kGrouped, 1, 400, kind);
    setting.harness.step({40});                       // the own kernel's result counts
    setting.harness.step({40});
    setting.harness.step({200});
    setting.expect(1, 1, 1, "a wrong result");
    check(setting.reasons.front().find("differed from the own kernel") != std::string::npos, "the reason, got ", setting.reasons.front());
  }
}

HEDDLE_TEST(cuda_attention_library_that_throws_leaves_that_shape_to_the_own_kernel) {
  Setting refusing(kGrouped, 1, 200, Behaviour::refuses);
  refusing.harness.step({40});
  refusing.harness.step({40});
  refusing.expect(1, 0, 1, "no plan");
  check(refusing.reasons.front().find("the stand-in has no such plan") != std::string::npos, "the reason, got ", refusing.reasons.front());

  Setting failing(kGrouped, 1, 400, Behaviour::throws);
  failing.harness.step({40});
  failing.harness.step({40});
  failing.expect(1, 1, 1, "a plan that does not run");
  failing.behaviour.kind = Behaviour::right;
  failing.harness.step({200});
  failing.expect(2, 2, 1, "another shape");
}

HEDDLE_TEST(cuda_attention_library_that_fails_later_leaves_the_queries_as_they_were) {
  Setting setting(kGrouped, 1, 200);
  setting.harness.step({40});
  setting.behaviour.kind = Behaviour::throws;
  setting.harness.step({40});
  setting.harness.step({40});
  setting.expect(1, 2, 1, "a plan that stops working");
}

HEDDLE_TEST(cuda_attention_library_that_does_not_start_is_reported_once) {
  std::vector<std::string> reasons;
  AttentionHarness harness(kGrouped, 1, 200);
  PromptLibrary library([]() -> std::unique_ptr<cuda::PromptEngine> { throw std::runtime_error("no engine today"); },
                        [&](const std::string& reason) { reasons.push_back(reason); }, {16, 32});
  harness.use(&library);
  harness.step({40});
  harness.step({40});
  check(reasons.size() == 1 && reasons.front().find("no engine today") != std::string::npos, "one reason");
}

HEDDLE_TEST(cuda_attention_library_is_not_asked_for_what_it_cannot_gain_or_do) {
  const std::vector<std::pair<AttentionCase, const char*>> cases = {
      {in_16_bits({.head_dim = 64, .kv_head_of_query = {1, 0, 1, 0}, .kv_head_count = 2}), "heads in another order"},
      {in_16_bits({.head_dim = 64, .kv_head_of_query = {0, 0, 0, 1}, .kv_head_count = 2}), "groups of unequal size"},
      {{.head_dim = 64, .kv_head_of_query = {0, 0}}, "float32"},
      {{.head_dim = 64, .cache = DType::bfloat16, .qkv = DType::float16, .y = DType::float16}, "a cache of another type"},
      {in_16_bits({.head_dim = 80}), "a head dimension without an own kernel to compare with"}};
  for (const auto& [c, what] : cases) {
    Setting setting(c, 1, 60);
    setting.harness.step({40});
    setting.expect(0, 0, 0, what);
  }
  Setting setting(kGrouped, 2, 60);
  setting.harness.step({15, 9});
  setting.harness.step({1, 1});
  setting.expect(0, 0, 0, "short prompts and decode");
}

// On a GPU with cuDNN: what the stand-in does above, by cuDNN itself.
HEDDLE_TEST(cuda_attention_by_cudnn_equals_reference) {
  for (const DType dtype : {DType::bfloat16, DType::float16}) {
    for (const int64_t window : {0, 300}) {
      AttentionCase c = in_16_bits(kGrouped, dtype);
      c.head_dim = 128;
      c.sliding_window = window;
      AttentionHarness harness(c, 3, 2500);
      const auto library = cuda::create_cudnn(harness.device(), {128, 128});
      if (!library) return;                           // no cuDNN here; info() says why
      harness.use(library.get());
      for (int i = 0; i < 3; ++i) harness.step({200, 1, 300});
      harness.use(nullptr);
      const LibraryInfo info = cuda::describe_cudnn();
      check(info.problem.empty(), "cuDNN ", info.version, ": ", info.problem);
    }
  }
}

}  // namespace
}  // namespace heddle::test
