// The operations of the CUDA backend; each is defined in the file of its name, and all are submitted to device.stream().
// Rules: activations are row-major and contiguous, of any dtype that their View names; arithmetic and sums are float32; widths and
// pointers may be odd (16-byte accesses are used where they are aligned). Vectors (norm weights, biases) are float32. y may be the
// memory of x (add: of a or b) where widths and dtypes agree, except for slice, gated, embed and last_rows.
#pragma once
#include <cstdint>

#include "core/backend.h"
#include "cuda/device.h"
#include "cuda/step.h"

namespace heddle::cuda {

// Row of the token or position, scaled, zeros for those of other ranks; resolves "-1 - slot" from last_tokens.
void embed(const Device& device, const DeviceStep& step, const Tensor& weight, const EmbedSpec& spec, View y);
void add_bias(const Device& device, View x, const Tensor& bias, View y);
void add(const Device& device, View a, View b, View y);
void slice(const Device& device, View x, int64_t start, View y);
void rms_norm(const Device& device, View x, const Tensor& weight, float eps, View y);
void layer_norm(const Device& device, View x, const Tensor& weight, const Tensor* bias, float eps, View y);
void activation(const Device& device, View x, Activation kind, View y);
void gated(const Device& device, View x, Activation kind, View y);
void route(const Device& device, View x, const RouteSpec& spec, View y);
void last_rows(const Device& device, const DeviceStep& step, View x, View y);
// Elements of x converted to the dtype of y; same shape.
void convert(const Device& device, View x, View y);

}  // namespace heddle::cuda
