// A backend for tests of ranks: plain host memory, no arithmetic but copies, and a hook where a kernel would be.
#pragma once
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>

#include "core/backend.h"
#include "core/error.h"

namespace heddle::test {

// What the operation "activation" does, given the rank; null: nothing. Shared by the backends of a group.
using Hook = std::function<void(int rank)>;

class FakeBackend : public Backend {
 public:
  FakeBackend(int rank, std::shared_ptr<Hook> hook, size_t memory)
      : rank_(rank), hook_(std::move(hook)), memory_(memory) {}

  std::string description() const override { return "fake " + std::to_string(rank_); }
  Buffer allocate(size_t bytes) override {
    if (bytes > memory_)
      throw Error(ErrorCode::out_of_memory, "FakeBackend: no memory for " + std::to_string(bytes) + " bytes");
    return {std::calloc(1, bytes), bytes, [](void* data, size_t) { std::free(data); }};
  }
  DType activation_dtype() const override { return DType::float32; }
  void upload(void* target, const void* source, size_t bytes) override { std::memcpy(target, source, bytes); }
  void download(void* target, const void* source, size_t bytes) override { std::memcpy(target, source, bytes); }
  StepView begin_step(const Step& step) override {
    StepView view;
    view.token_count = step.token_count();
    view.sequence_count = step.sequence_count();
    return view;
  }

  void activation(View x, Activation, View y) override {
    if (*hook_) (*hook_)(rank_);
    if (y.data != x.data) std::memcpy(y.data, x.data, static_cast<size_t>(x.rows * x.width) * sizeof(float));
  }
  void slice(View x, int64_t start, View y) override {
    for (int64_t row = 0; row < y.rows; ++row) {
      std::memcpy(y.floats() + row * y.width, x.floats() + row * x.width + start,
                  static_cast<size_t>(y.width) * sizeof(float));
    }
  }

  void embed(const StepView&, const Tensor&, const EmbedSpec&, View) override {}
  void linear(View, const Tensor&, const LinearSpec&, View) override {}
  void add_bias(View, const Tensor&, View) override {}
  void add(View, View, View) override {}
  void rms_norm(View, const Tensor&, float, View) override {}
  void layer_norm(View, const Tensor&, const Tensor*, float, View) override {}
  void gated(View, Activation, View) override {}
  void route(View, const RouteSpec&, View) override {}
  void experts(View, View, const Tensor&, const Tensor&, const ExpertsSpec&, View) override {}
  void attention(const StepView&, View, const AttentionTensors&, const AttentionSpec&, View) override {}
  void last_rows(const StepView&, View, View) override {}
  void sample(const StepView&, View, const SampleSpec&, Communicator&, int32_t*) override {}
  void logprobs(const StepView&, View, const SampleSpec&, Communicator&, const int32_t*,
                std::vector<TokenLogprob>&) override {}
  void synchronize() override {}

 private:
  int rank_;
  std::shared_ptr<Hook> hook_;
  size_t memory_;
};

}  // namespace heddle::test
