// Plain references in double precision: no blocking, no vectors, no cache. What the kernels are compared with.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "core/backend.h"

namespace heddle::test::reference {

inline std::vector<double> rms_norm(const float* x, const float* weight, double eps, int64_t count) {
  double squares = 0;
  for (int64_t i = 0; i < count; ++i) squares += double{x[i]} * x[i];
  const double factor = 1 / std::sqrt(squares / static_cast<double>(count) + eps);
  std::vector<double> y;
  for (int64_t i = 0; i < count; ++i) y.push_back(x[i] * factor * weight[i]);
  return y;
}

inline std::vector<double> layer_norm(const float* x, const float* weight, const float* bias, double eps,
                                      int64_t count) {
  const double mean = std::accumulate(x, x + count, 0.0) / static_cast<double>(count);
  double squares = 0;
  for (int64_t i = 0; i < count; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double factor = 1 / std::sqrt(squares / static_cast<double>(count) + eps);
  std::vector<double> y;
  for (int64_t i = 0; i < count; ++i) y.push_back((x[i] - mean) * factor * weight[i] + (bias ? bias[i] : 0.0));
  return y;
}

inline double activation(Activation kind, double x) {
  switch (kind) {
    case Activation::gelu: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::relu: return std::max(x, 0.0);
    case Activation::silu: return x / (1 + std::exp(-x));
  }
  return 0;
}

// Attention of one sequence over all of its tokens so far, without a cache.
struct Attention {
  AttentionSpec spec;
  std::vector<float> inverse_frequencies;
  std::vector<float> query_norm;  // empty: no norm
  std::vector<float> key_norm;
  DType cache_dtype = DType::float32;

  std::vector<double> head(const float* x, const std::vector<float>& norm, int64_t position) const {
    std::vector<double> y = norm.empty() ? std::vector<double>(x, x + spec.head_dim)
                                         : rms_norm(x, norm.data(), spec.norm_eps, spec.head_dim);
    const int64_t half = spec.rope_dim / 2;
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * inverse_frequencies[static_cast<size_t>(i)];
      const double cosine = std::cos(double{angle}) * spec.rope_scale;
      const double sine = std::sin(double{angle}) * spec.rope_scale;
      const auto low = static_cast<size_t>(i);
      const auto high = static_cast<size_t>(i + half);
      const double rotated = y[low] * cosine - y[high] * sine;
      y[high] = y[high] * cosine + y[low] * sine;
      y[low] = rotated;
    }
    return y;
  }

  double cached(double value) const {
    const auto single = static_cast<float>(value);
    if (cache_dtype == DType::float32) return single;
    if (cache_dtype == DType::float16) return float16_to_float(float_to_float16(single));
    return bfloat16_to_float(float_to_bfloat16(single));
  }

  // rows: [queries | keys | values] of positions 0 .. context - 1. Gives the output of the token at `position`,
  // [headCount * headDim].
  std::vector<double> output(const std::vector<std::vector<float>>& rows, int64_t position) const {
    std::vector<double> y;
    for (int64_t h = 0; h < spec.head_count; ++h) {
      const std::vector<double> one = head_output(rows, position, h);
      y.insert(y.end(), one.begin(), one.end());
    }
    return y;
  }

  std::vector<double> head_output(const std::vector<std::vector<float>>& rows, int64_t position, int64_t h) const {
    const int64_t dim = spec.head_dim;
    const int64_t kv = spec.kv_head_of_query[static_cast<size_t>(h)];
    const auto context = static_cast<int64_t>(rows.size());
    const int64_t end = spec.causal ? position + 1 : context;
    const int64_t begin = spec.sliding_window > 0 ? std::max<int64_t>(0, position + 1 - spec.sliding_window) : 0;
    const std::vector<double> query = head(rows[static_cast<size_t>(position)].data() + h * dim, query_norm, position);
    std::vector<double> scores;
    for (int64_t t = begin; t < end; ++t) {
      const std::vector<double> key =
          head(rows[static_cast<size_t>(t)].data() + (spec.head_count + kv) * dim, key_norm, t);
      double score = 0;
      for (size_t i = 0; i < key.size(); ++i) score += query[i] * cached(key[i]);
      scores.push_back(score * spec.scale);
    }
    const double largest = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    for (double& score : scores) total += score = std::exp(score - largest);
    std::vector<double> y(static_cast<size_t>(dim), 0.0);
    for (int64_t t = begin; t < end; ++t) {
      const float* value = rows[static_cast<size_t>(t)].data() + (spec.head_count + spec.kv_head_count + kv) * dim;
      for (int64_t i = 0; i < dim; ++i)
        y[static_cast<size_t>(i)] += scores[static_cast<size_t>(t - begin)] / total * cached(value[i]);
    }
    return y;
  }
};

}  // namespace heddle::test::reference
