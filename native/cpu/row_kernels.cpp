#include "cpu/row_kernels.h"

#include <cmath>
#include <limits>

#include "cpu/vector_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/row_kernels.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::cpu::HWY_NAMESPACE {
namespace {

using Floats = hn::ScalableTag<float>;
using Single = hn::CappedTag<float, 1>;

HWY_INLINE float sum_of_lanes(Floats d, hn::Vec<Floats> v) { return hn::GetLane(hn::SumOfLanes(d, v)); }

// sum of (x - mean)^2
float squares(const float* HWY_RESTRICT x, float mean, int64_t count) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto center = hn::Set(d, mean);
  auto sum0 = hn::Zero(d);
  auto sum1 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    const auto first = hn::Sub(hn::LoadU(d, x + i), center);
    const auto second = hn::Sub(hn::LoadU(d, x + i + lanes), center);
    sum0 = hn::MulAdd(first, first, sum0);
    sum1 = hn::MulAdd(second, second, sum1);
  }
  float total = sum_of_lanes(d, hn::Add(sum0, sum1));
  for (; i < count; ++i) total += (x[i] - mean) * (x[i] - mean);
  return total;
}

float sum(const float* HWY_RESTRICT x, int64_t count) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto total = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) total = hn::Add(total, hn::LoadU(d, x + i));
  float result = sum_of_lanes(d, total);
  for (; i < count; ++i) result += x[i];
  return result;
}

void rms_norm(const float* x, const float* weight, float eps, int64_t count, float* y) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const float factor = 1.0f / std::sqrt(squares(x, 0.0f, count) / static_cast<float>(count) + eps);
  const auto scale = hn::Set(d, factor);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + i), scale), hn::LoadU(d, weight + i)), d, y + i);
  }
  for (; i < count; ++i) y[i] = x[i] * factor * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t count, float* y) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const float mean = sum(x, count) / static_cast<float>(count);
  const float factor = 1.0f / std::sqrt(squares(x, mean, count) / static_cast<float>(count) + eps);
  const auto center = hn::Set(d, mean);
  const auto scale = hn::Set(d, factor);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto normal = hn::Mul(hn::Sub(hn::LoadU(d, x + i), center), scale);
    const auto shift = bias ? hn::LoadU(d, bias + i) : hn::Zero(d);
    hn::StoreU(hn::MulAdd(normal, hn::LoadU(d, weight + i), shift), d, y + i);
  }
  for (; i < count; ++i) y[i] = (x[i] - mean) * factor * weight[i] + (bias ? bias[i] : 0.0f);
}

struct Gelu {
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> x) const {
    return gelu(d, x);
  }
};
struct GeluTanh {
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> x) const {
    return gelu_tanh(d, x);
  }
};
struct Relu {
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> x) const {
    return relu(d, x);
  }
};
struct Silu {
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> x) const {
    return silu(d, x);
  }
};

// y = function(x), times factor[i] where there is one. The tail runs the same code one lane at a time.
template <class Function>
HWY_INLINE void map(Function function, const float* x, const float* factor, int64_t count, float* y) {
  const Floats d;
  const Single one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    auto value = function(d, hn::LoadU(d, x + i));
    if (factor) value = hn::Mul(value, hn::LoadU(d, factor + i));
    hn::StoreU(value, d, y + i);
  }
  for (; i < count; ++i) {
    auto value = function(one, hn::LoadU(one, x + i));
    if (factor) value = hn::Mul(value, hn::LoadU(one, factor + i));
    hn::StoreU(value, one, y + i);
  }
}

void gated(Activation kind, const float* gate, const float* up, int64_t count, float* y) {
  switch (kind) {
    case Activation::gelu: return map(Gelu(), gate, up, count, y);
    case Activation::gelu_tanh: return map(GeluTanh(), gate, up, count, y);
    case Activation::relu: return map(Relu(), gate, up, count, y);
    case Activation::silu: return map(Silu(), gate, up, count, y);
  }
}

void activation(Activation kind, const float* x, int64_t count, float* y) { gated(kind, x, nullptr, count, y); }

// a where it is larger, else b: NaN in a is skipped.
HWY_INLINE hn::Vec<Floats> larger(hn::Vec<Floats> a, hn::Vec<Floats> b) { return hn::IfThenElse(hn::Gt(a, b), a, b); }

float maximum(const float* x, int64_t count) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const float lowest = -std::numeric_limits<float>::infinity();
  auto best0 = hn::Set(d, lowest);
  auto best1 = best0;
  auto best2 = best0;
  auto best3 = best0;
  int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    best0 = larger(hn::LoadU(d, x + i), best0);
    best1 = larger(hn::LoadU(d, x + i + lanes), best1);
    best2 = larger(hn::LoadU(d, x + i + 2 * lanes), best2);
    best3 = larger(hn::LoadU(d, x + i + 3 * lanes), best3);
  }
  float best = hn::GetLane(hn::MaxOfLanes(d, larger(larger(best0, best1), larger(best2, best3))));
  for (; i < count; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

int64_t first_at_least(const float* x, int64_t count, float bound) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto limit = hn::Set(d, bound);
  int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    const auto a = hn::Or(hn::Ge(hn::LoadU(d, x + i), limit), hn::Ge(hn::LoadU(d, x + i + lanes), limit));
    const auto b =
        hn::Or(hn::Ge(hn::LoadU(d, x + i + 2 * lanes), limit), hn::Ge(hn::LoadU(d, x + i + 3 * lanes), limit));
    if (!hn::AllFalse(d, hn::Or(a, b))) break;
  }
  for (; i < count; ++i) {
    if (x[i] >= bound) return i;
  }
  return count;
}

// Sums of a block stay in float32, sums over blocks do not: a vocabulary has too many terms for one float32 sum.
double weights(const float* x, int64_t count, float largest, float inverse_temperature, float* y) {
  const Floats d;
  const Single one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  constexpr int64_t kBlock = 1024;
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    auto sums = hn::Zero(d);
    int64_t i = begin;
    for (; i + lanes <= end; i += lanes) {
      const auto difference = hn::Sub(hn::LoadU(d, x + i), hn::Set(d, largest));
      const auto value = exponential(d, hn::Mul(difference, hn::Set(d, inverse_temperature)));
      hn::StoreU(value, d, y + i);
      sums = hn::Add(sums, value);
    }
    total += sum_of_lanes(d, sums);
    for (; i < end; ++i) {
      hn::StoreU(exponential(one, hn::Set(one, (x[i] - largest) * inverse_temperature)), one, y + i);
      total += y[i];
    }
  }
  return total;
}

constexpr RowKernels kRowKernels = {rms_norm, layer_norm, activation, gated, maximum, first_at_least, weights};

}  // namespace
}  // namespace heddle::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::cpu {

const RowKernels& row_kernels(Isa isa) { return HEDDLE_FOR_ISA(isa, kRowKernels); }

const RowKernels& row_kernels() {
  static const RowKernels& chosen = row_kernels(cpu_isa());
  return chosen;
}

}  // namespace heddle::cpu
#endif  // HWY_ONCE
