// Vector kernels over rows of floats, in the variant for this processor. Rule: any count, any alignment.
#pragma once
#include <cstdint>

#include "core/backend.h"
#include "cpu/cpu_features.h"

namespace heddle::cpu {

struct RowKernels {
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t count, float* y);
  // `bias` may be null.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int64_t count, float* y);
  void (*activation)(Activation kind, const float* x, int64_t count, float* y);
  void (*gated)(Activation kind, const float* gate, const float* up, int64_t count, float* y);  // y = kind(gate) * up
  float (*maximum)(const float* x, int64_t count);                         // NaN is skipped; -infinity of nothing
  int64_t (*first_at_least)(const float* x, int64_t count, float bound);   // lowest i with x[i] >= bound, else count
  // y = exp((x - largest) * inverse_temperature), 0 for NaN; returns their sum.
  double (*weights)(const float* x, int64_t count, float largest, float inverse_temperature, float* y);
};

const RowKernels& row_kernels();         // for cpu_isa()
const RowKernels& row_kernels(Isa isa);  // of one of supported_isas(), for tests

}  // namespace heddle::cpu
