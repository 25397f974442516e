// What follows the sums of a matrix product, as kernels get it: bias, activation or gate, residual, rounding.
// Rule: one thread has a sum (with a gate, both) and writes the element of y that comes of it.
#pragma once
#include "cuda/activation.cuh"
#include "cuda/linear.h"
#include "cuda/numbers.cuh"

namespace heddle::cuda {

struct Epilogue {
  const float* bias;                                  // null: none
  const void* residual;                               // null: none; may be y
  void* y;
  DType residual_dtype;
  DType y_dtype;
  Activation kind;
  bool activated;
  bool gated;                                         // sums are [gates | ups]
  int width;                                          // of y and the residual
};

inline Epilogue epilogue_of(const LinearCall& call) {
  Epilogue epilogue = {};
  epilogue.bias = call.bias ? static_cast<const float*>(call.bias->buffer.data()) : nullptr;
  epilogue.residual = call.residual.data;
  epilogue.residual_dtype = call.residual.dtype;
  epilogue.y = call.y.data;
  epilogue.y_dtype = call.y.dtype;
  epilogue.activated = call.activation.has_value();
  epilogue.gated = call.gated.has_value();
  epilogue.kind = call.gated.value_or(call.activation.value_or(Activation::relu));
  epilogue.width = static_cast<int>(call.y.width);
  return epilogue;
}

__device__ __forceinline__ float read_element(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::float32: return static_cast<const float*>(data)[index];
    case DType::bfloat16: return to_float(static_cast<const bfloat16*>(data)[index]);
    case DType::float16: return to_float(static_cast<const float16*>(data)[index]);
  }
  return 0;
}

__device__ __forceinline__ void write_element(void* data, DType dtype, int64_t index, float value) {
  switch (dtype) {
    case DType::float32: static_cast<float*>(data)[index] = value; break;
    case DType::bfloat16: from_float(value, static_cast<bfloat16*>(data)[index]); break;
    case DType::float16: from_float(value, static_cast<float16*>(data)[index]); break;
  }
}

// `column` is that of y; `up` counts with a gate only.
__device__ __forceinline__ void finish(const Epilogue& epilogue, int64_t row, int column, float sum, float up) {
  if (epilogue.bias) sum += epilogue.bias[column];
  if (epilogue.gated) {
    if (epilogue.bias) up += epilogue.bias[epilogue.width + column];
    sum = activate(epilogue.kind, sum) * up;
  } else if (epilogue.activated) {
    sum = activate(epilogue.kind, sum);
  }
  const int64_t index = row * epilogue.width + column;
  if (epilogue.residual) sum += read_element(epilogue.residual, epilogue.residual_dtype, index);
  write_element(epilogue.y, epilogue.y_dtype, index, sum);
}

}  // namespace heddle::cuda
