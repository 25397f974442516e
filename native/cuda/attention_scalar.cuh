// Online softmax of a few queries of one KV head by one warp, in plain float32 arithmetic: for caches, head dimensions and groups that
// tensor cores cannot take. Lane l has the elements l, l + 32, ... of every row.
#pragma once
#include <type_traits>

#include "cuda/attention_head.cuh"

namespace heddle::cuda {

constexpr int kScalarRows = 4;                        // query heads that share each pass over the keys
constexpr int kScalarKeys = 4;                        // keys between two updates of the maxima: their loads and sums overlap

template <class T, int Elements>
class ScalarAttention {
 public:
  // `queries`: [rows, headDim] in shared memory, scaled so that scores come in units of log2.
  __device__ __forceinline__ ScalarAttention(const AttentionParameters& p, const float* queries, int rows) : p_(p), lane_(lane_id()) {
#pragma unroll
    for (int row = 0; row < kScalarRows; ++row) {
      maxima_[row] = kLowest;
      sums_[row] = 0;
#pragma unroll
      for (int i = 0; i < Elements; ++i) {
        const int column = lane_ + i * kLanes;
        queries_[row][i] = row < rows && column < p.head_dim ? queries[row * p.head_dim + column] : 0;
        outputs_[row][i] = 0;
      }
    }
  }

  // Keys [begin, end) of the sequence; `newest` is taken from `fresh` (key, then value; null: none) and not from the cache.
  __device__ __forceinline__ void attend(const int32_t* blocks, int kv_head, int begin, int end, int newest, const T* fresh) {
    const T* cache = static_cast<const T*>(p_.cache);
    for (int first = begin; first < end; first += kScalarKeys) {
      const T* keys[kScalarKeys];
      const T* values[kScalarKeys];
#pragma unroll
      for (int k = 0; k < kScalarKeys; ++k) {
        const int key = min(first + k, end - 1);
        if (fresh && key == newest) {
          keys[k] = fresh;
          values[k] = fresh + p_.head_dim;
        } else {
          keys[k] = cache + int64_t{cache_row(p_, blocks, kv_head, key)} * p_.head_dim;
          values[k] = keys[k] + int64_t{p_.cache_rows} * p_.head_dim;
        }
      }
      attend_keys(keys, values, end - first);
    }
  }

  // Calls store(row, column, x, maximum, sum) with every weighted sum of values; maximum and sum of weights are the row's.
  template <class Store>
  __device__ __forceinline__ void results(int rows, Store store) const {
#pragma unroll
    for (int row = 0; row < kScalarRows; ++row) {
      if (row >= rows) continue;
#pragma unroll
      for (int i = 0; i < Elements; ++i) {
        const int column = lane_ + i * kLanes;
        if (column < p_.head_dim) store(row, column, outputs_[row][i], maxima_[row], sums_[row]);
      }
    }
  }

 private:
  // `count` of them; the pointers beyond repeat the last key, whose weight there is zero.
  __device__ __forceinline__ void attend_keys(const T* const (&keys)[kScalarKeys], const T* const (&values)[kScalarKeys], int count) {
    float scores[kScalarRows][kScalarKeys] = {};
    float value[kScalarKeys][Elements];
#pragma unroll
    for (int k = 0; k < kScalarKeys; ++k) {
#pragma unroll
      for (int i = 0; i < Elements; ++i) {
        const int column = lane_ + i * kLanes;
        const bool inside = column < p_.head_dim;
        const float key = inside ? to_float(keys[k][column]) : 0;
        value[k][i] = inside ? to_float(values[k][column]) : 0;
#pragma unroll
        for (int row = 0; row < kScalarRows; ++row) scores[row][k] += queries_[row][i] * key;
      }
    }
#pragma unroll
    for (int row = 0; row < kScalarRows; ++row) {
      float top = maxima_[row];
#pragma unroll
      for (int k = 0; k < kScalarKeys; ++k) {
        const float score = warp_sum(scores[row][k]);
        scores[row][k] = k < count ? score : -INFINITY;
        top = fmaxf(top, scores[row][k]);
      }
      add(row, top, scores[row], value);
    }
  }

  __device__ __forceinline__ void add(int row, float top, const float (&scores)[kScalarKeys], const float (&value)[kScalarKeys][Elements]) {
    const float factor = exp2f(maxima_[row] - top);
    maxima_[row] = top;
    sums_[row] *= factor;
#pragma unroll
    for (int i = 0; i < Elements; ++i) outputs_[row][i] *= factor;
#pragma unroll
    for (int k = 0; k < kScalarKeys; ++k) {
      const float weight = exp2f(scores[k] - top);
      sums_[row] += weight;
#pragma unroll
      for (int i = 0; i < Elements; ++i) outputs_[row][i] += weight * value[k][i];
    }
  }

  const AttentionParameters& p_;
  int lane_;
  float queries_[kScalarRows][Elements];
  float outputs_[kScalarRows][Elements];
  float maxima_[kScalarRows];
  float sums_[kScalarRows];
};

// Calls `body` with the number of elements that a lane has of a row, as a constant.
template <class Body>
void with_elements(int32_t head_dim, Body&& body) {
  if (head_dim <= 2 * kLanes) return body(std::integral_constant<int, 2>());
  if (head_dim <= 4 * kLanes) return body(std::integral_constant<int, 4>());
  body(std::integral_constant<int, 8>());
}

}  // namespace heddle::cuda
