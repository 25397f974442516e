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

// Of one row: sorted by value, then by place.
inline std::vector<double> route(const float* x, int64_t count, const RouteSpec& spec) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return x[a] > x[b]; });
  double all = 0;
  for (int64_t i = 0; i < count; ++i) all += std::exp(double{x[i]} - x[order[0]]);
  double chosen = 0;
  std::vector<double> weights(static_cast<size_t>(count), 0.0);
  for (int64_t i = 0; i < spec.experts_per_token; ++i) {
    const int64_t expert = order[static_cast<size_t>(i)];
    chosen += weights[static_cast<size_t>(expert)] = std::exp(double{x[expert]} - x[order[0]]);
  }
  for (double& weight : weights) weight /= spec.normalized ? chosen : all;
  return weights;
}

// The experts of one rank, and for each element of y the size of what is added up there.
struct Experts {
  int64_t rows, width, inner, count, routing_width;
  ExpertsSpec spec;
  std::vector<float> x, routing, gate_up, down;

  double product(const std::vector<float>& weights, int64_t row, const double* values, int64_t length) const {
    double sum = 0;
    for (int64_t i = 0; i < length; ++i) sum += weights[static_cast<size_t>(row * length + i)] * values[i];
    return sum;
  }

  void run(std::vector<double>& y, std::vector<double>& sizes) const {
    y.assign(static_cast<size_t>(rows * width), 0.0);
    sizes = y;
    for (int64_t row = 0; row < rows; ++row) {
      const std::vector<double> values(x.begin() + row * width, x.begin() + (row + 1) * width);
      for (int64_t expert = 0; expert < count; ++expert) {
        const double weight = routing[static_cast<size_t>(row * routing_width + spec.first_expert + expert)];
        if (weight == 0) continue;
        std::vector<double> hidden;
        for (int64_t i = 0; i < inner; ++i) {
          const double gate = product(gate_up, expert * 2 * inner + i, values.data(), width);
          hidden.push_back(activation(spec.activation, gate) * product(gate_up, (expert * 2 + 1) * inner + i, values.data(), width));
        }
        for (int64_t o = 0; o < width; ++o) {
          y[static_cast<size_t>(row * width + o)] += weight * product(down, expert * width + o, hidden.data(), inner);
          for (int64_t i = 0; i < inner; ++i) {
            sizes[static_cast<size_t>(row * width + o)] +=
                std::abs(weight * down[static_cast<size_t>((expert * width + o) * inner + i)] * hidden[static_cast<size_t>(i)]);
          }
        }
      }
    }
  }
};

// A routing of `rows` over `count` experts, `per_token` of each other than 0; the last row's experts are the first ones.
inline std::vector<float> random_routing(int64_t rows, int64_t count, int64_t per_token, std::vector<float> logits) {
  std::vector<float> routing;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; row == rows - 1 && i < count; ++i) logits[static_cast<size_t>(row * count + i)] = static_cast<float>(-i);
    for (const double weight : route(logits.data() + row * count, count, {per_token, true})) routing.push_back(static_cast<float>(weight));
  }
  return routing;
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
