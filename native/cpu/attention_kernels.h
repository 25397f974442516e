// Vector kernels of attention, in the variant for this processor.
// Rule: query, output and score rows are padded to kPadding floats with zeros; cache rows are not, and are never read
// past their end.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "cpu/cpu_features.h"

namespace heddle::cpu {

constexpr int64_t kPadding = 16;  // floats: a multiple of every vector that the kernels use

inline int64_t padded(int64_t count) { return (count + kPadding - 1) / kPadding * kPadding; }

// A matrix of rows `stride` elements apart.
struct Rows {
  float* data = nullptr;
  int64_t stride = 0;

  float* row(int64_t index) const { return data + index * stride; }
};

struct AttentionKernels {
  // result[r] (+)= sum over k < depth of factors[r][k] * terms[k]; `width`, a multiple of kPadding, columns.
  void (*multiply)(Rows factors, int64_t rows, int64_t depth, Rows terms, int64_t width, Rows result, bool accumulate);
  // The same onto result, with the terms in place in the cache: rows of `width` elements, one after another.
  void (*add_values)(Rows factors, int64_t rows, int64_t depth, const void* values, DType dtype, int64_t width,
                     Rows result);
  // scores[r][k] = queries[r] . keys[k], with `count` keys in place in the cache: rows of `width`, a multiple of
  // kPadding.
  void (*dot_keys)(Rows queries, int64_t rows, const void* keys, DType dtype, int64_t count, int64_t width,
                   Rows scores);
  // target[i][k] = keys[k][i] for `count` keys of `width` elements.
  void (*transpose_keys)(const void* keys, DType dtype, int64_t count, int64_t width, Rows target);
  void (*widen)(const void* source, DType dtype, int64_t count, float* target);
  // source rounded to the cache's dtype.
  void (*narrow)(const float* source, int64_t count, void* target, DType dtype);
  // x := exp(x - m) with m = max(*maximum, x); updates *maximum and *sum and returns what earlier sums must be
  // multiplied with.
  float (*exponentials)(float* x, int64_t count, float* maximum, float* sum);
  void (*scale)(const float* x, float factor, int64_t count, float* y);
};

const AttentionKernels& attention_kernels();         // for cpu_isa()
const AttentionKernels& attention_kernels(Isa isa);  // of one of supported_isas(), for tests

}  // namespace heddle::cpu
