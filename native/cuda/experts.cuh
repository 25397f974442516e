// The experts of a row, as kernels find them. Rule: a weight of NaN counts as one, and at most per_token of a row are seen, so that
// garbage in rows of padding leads nowhere else.
#pragma once
#include "cuda/activation.cuh"
#include "cuda/experts.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;

// Calls body(place, expert, weight) on all lanes of a warp alike, for the experts of `row` in order.
template <class Body>
__device__ __forceinline__ void for_experts(const ExpertsWork& work, int row, Body&& body) {
  const float* routing = work.routing + int64_t{row} * work.routing_width;
  const int lane = static_cast<int>(threadIdx.x % 32);
  int place = 0;
  for (int first = 0; first < work.experts; first += 32) {
    const float weight = first + lane < work.experts ? routing[first + lane] : 0.0f;
    for (unsigned hits = __ballot_sync(kWholeWarp, weight != 0.0f); hits != 0 && place < work.per_token; hits &= hits - 1, ++place) {
      const int bit = __ffs(static_cast<int>(hits)) - 1;
      body(place, first + bit, __shfl_sync(kWholeWarp, weight, bit));
    }
  }
}

// The expert at place `wanted` of those of `row`; -1 where it has fewer.
__device__ __forceinline__ int expert_at(const ExpertsWork& work, int row, int wanted) {
  int expert = -1;
  for_experts(work, row, [&](int place, int found, float) { expert = place == wanted ? found : expert; });
  return expert;
}

// Calls body(W{}, T{}) with the type of the weights and that of the values they are multiplied with.
template <class Body>
void with_product_types(DType weight, bool single, Body&& body) {
  with_type(weight, [&](auto w) { single ? body(w, float{}) : body(w, w); });
}

}  // namespace heddle::cuda
