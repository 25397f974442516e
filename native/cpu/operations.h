// The operations of the CPU backend that need no state of it; each is defined in the file of its name.
// Rule: activations are float32, row-major and contiguous; sums are float32.
#pragma once
#include <cstdint>

#include "core/backend.h"

namespace heddle::cpu {

void embed(const StepView& step, const Tensor& weight, const EmbedSpec& spec, bool reproducible, View y);
void add_bias(View x, const Tensor& bias, View y);
void add(View a, View b, View y);
void slice(View x, int64_t start, View y);
void rms_norm(View x, const Tensor& weight, float eps, View y);
void layer_norm(View x, const Tensor& weight, const Tensor* bias, float eps, View y);
void activation(View x, Activation kind, View y);
void gated(View x, Activation kind, View y);
void route(View x, const RouteSpec& spec, View y);
void last_rows(const StepView& step, View x, View y);

}  // namespace heddle::cpu
