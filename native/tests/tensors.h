// Tensors, matrices and steps for tests of a backend's operations.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/backend.h"
#include "core/message.h"

namespace heddle::test {

// A buffer of exactly `bytes`, so that the address sanitizer sees one byte too many.
inline Buffer exact_buffer(size_t bytes) {
  return Buffer(std::calloc(1, std::max<size_t>(bytes, 1)), bytes, [](void* data, size_t) { std::free(data); });
}

inline Tensor tensor_of(const std::vector<float>& values, std::vector<int64_t> shape, DType dtype = DType::float32) {
  Tensor tensor{dtype, std::move(shape), TensorRole::weight, exact_buffer(values.size() * size_of(dtype))};
  if (!values.empty()) convert(values.data(), DType::float32, tensor.buffer.data(), dtype, values.size());
  return tensor;
}

// A matrix of activations that owns its memory.
struct Matrix {
  int64_t rows = 0;
  int64_t width = 0;
  std::vector<float> values;

  Matrix(int64_t row_count, int64_t row_width)
      : rows(row_count), width(row_width), values(static_cast<size_t>(row_count * row_width)) {}
  Matrix(int64_t row_count, int64_t row_width, std::vector<float> data)
      : rows(row_count), width(row_width), values(std::move(data)) {}

  View view() { return {values.data(), DType::float32, rows, width}; }
  const float* row(int64_t index) const { return values.data() + index * width; }
};

// One sequence of `count` tokens for every entry; slot i for sequence i, no blocks.
inline Step step_of(const std::vector<int32_t>& counts, int32_t first_position = 0) {
  Step step;
  step.sequence_starts.push_back(0);
  for (size_t i = 0; i < counts.size(); ++i) {
    for (int32_t t = 0; t < counts[i]; ++t) {
      step.positions.push_back(first_position + t);
      step.tokens.push_back(0);
    }
    step.sequence_starts.push_back(static_cast<int32_t>(step.positions.size()));
    step.slots.push_back(static_cast<int32_t>(i));
  }
  return step;
}

}  // namespace heddle::test
