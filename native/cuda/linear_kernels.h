// The kernels behind `linear`, each a way to run a whole call or a part of one. Rule: `linear` alone chooses among them.
#pragma once
#include <cstdint>

#include "core/tensor.h"
#include "cuda/linear.h"

namespace heddle::cuda {

// Up to here a warp sums up whole weight rows with scalar arithmetic, which reads the longest runs of memory. Above, unpacking x and
// multiplying by hand would take more than half of the issue slots that the bandwidth leaves, and tensor cores do it.
constexpr int64_t kDotRows = 2;
// x rows of one launch of the dot kernel, for weights and inputs that tensor cores cannot take.
constexpr int64_t kMaxDotRows = 4;

// True where x needs no 16-bit rounding: its dtype in the product is float32.
inline bool multiplies_float32(const LinearCall& call) { return call.exact || call.weight->dtype == DType::float32; }

// x as the product takes it: normalised, and in the dtype of the product. x itself, or scratch memory of kind linear_input.
View linear_input(const Device& device, const LinearCall& call);

// A warp per weight row; everything folds. Up to kMaxDotRows rows.
bool can_dot(const Device& device, const LinearCall& call);
void linear_dot(const Device& device, const LinearCall& call);

// Tensor cores with 8 weight rows to a warp; everything but the norm folds, and x has the weight's dtype. Up to kSmallRows rows.
bool can_mma(const Device& device, const LinearCall& call);
void linear_mma(const Device& device, const LinearCall& call);

// Tiles of float32 arithmetic: any number of rows, any dtypes, any alignment; everything but the norm folds.
void linear_plain(const Device& device, const LinearCall& call);

// In pieces whose sums are added as a tree, for groups whose results do not depend on their size: any number of rows, any dtypes, any
// alignment; everything but the norm folds, a gate where there is one piece.
void linear_chunks(const Device& device, const LinearCall& call);

// The last step of a product whose `parts` sums of [rows, out] float32 lie one after another: adds them up and folds in the rest.
void linear_finish(const Device& device, const LinearCall& call, const float* sums, int parts);

}  // namespace heddle::cuda
