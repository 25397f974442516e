// y = x · weightᵀ with what stands before and after it folded in, chosen by the number of rows: own kernels that stream the weights
// for few, cuBLASLt for many.
#pragma once
#include <cstdint>
#include <optional>

#include "core/backend.h"
#include "cuda/device.h"

namespace heddle::cuda {

// Up to here own kernels run, which fold in everything below; above, the executor runs norm, gated, bias and residual as operations of
// their own.
constexpr int64_t kSmallRows = 16;

struct LinearCall {
  View x;                                             // [rows, in]
  const Tensor* weight = nullptr;                     // [out, in]
  View y;                                             // [rows, out]; gated: [rows, out / 2]
  const Tensor* norm_weight = nullptr;                // RMS norm of x first: float32 [in]
  float norm_eps = 0;
  const Tensor* bias = nullptr;                       // float32 [out], added to the product
  std::optional<Activation> activation;               // of the sum
  std::optional<Activation> gated;                    // the sum is [gate | up]: y = kind(gate) * up
  View residual;                                      // data null: none; added last; may be the memory of y
  bool exact = false;                                 // float32 groups: x is never rounded, 16-bit weights are widened
  const Chunks* chunks = nullptr;                     // null: none; see Chunks
};

inline const Chunks& chunks_of(const LinearCall& call) {
  static const Chunks none;
  return call.chunks ? *call.chunks : none;
}

// True where `linear` can run this call as it is: a plain product always, with folds for up to kSmallRows rows.
bool can_fold(const LinearCall& call);

// x, y and the residual are of any dtype. With 16-bit weights x (normalised, if so asked) is rounded to their dtype first, unless the
// call is exact; with float32 weights it is not. Sums are float32.
// With chunks, or where the device is of a reproducible group, an element of y depends neither on the number of columns nor on its place
// among them. Throws invalid_argument for a call that can_fold refuses, device_failed.
void linear(const Device& device, const LinearCall& call);

}  // namespace heddle::cuda
