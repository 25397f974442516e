// Vector functions for the kernel files, compiled once per instruction set.
// Rule: relative error near 1e-7, no branch on data.
#if defined(HEDDLE_CPU_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_CPU_VECTOR_MATH_INL_H_
#undef HEDDLE_CPU_VECTOR_MATH_INL_H_
#else
#define HEDDLE_CPU_VECTOR_MATH_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// exp(x): 2^n * e^r with |r| <= ln(2) / 2. Zero below the smallest normal number, about 2^127 from there on up.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exponential(D d, V x) {
  const hn::RebindToSigned<D> di;
  const V bounded = hn::Min(hn::Max(x, hn::Set(d, -87.3f)), hn::Set(d, 88.3f));
  const V n = hn::Round(hn::Mul(bounded, hn::Set(d, 1.442695041f)));
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), bounded);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  V p = hn::Set(d, 1.9875691500e-4f);
  p = hn::MulAdd(p, r, hn::Set(d, 1.3981999507e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1f));
  p = hn::Add(hn::MulAdd(hn::Mul(r, r), p, r), hn::Set(d, 1.0f));
  const V power = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127))));
  return hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -87.3f)), hn::Mul(p, power));
}

// x / (1 + exp(-s))
template <class D, class V = hn::Vec<D>>
HWY_INLINE V times_sigmoid(D d, V x, V s) {
  return hn::Div(x, hn::Add(hn::Set(d, 1.0f), exponential(d, hn::Neg(s))));
}

// erfc(z) for z >= 0 by the Chebyshev fit of Numerical Recipes: relative error 1.2e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V complementary_error(D d, V z) {
  const V t = hn::Div(hn::Set(d, 1.0f), hn::MulAdd(z, hn::Set(d, 0.5f), hn::Set(d, 1.0f)));
  V p = hn::Set(d, 0.17087277f);
  p = hn::MulAdd(p, t, hn::Set(d, -0.82215223f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.48851587f));
  p = hn::MulAdd(p, t, hn::Set(d, -1.13520398f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.27886807f));
  p = hn::MulAdd(p, t, hn::Set(d, -0.18628806f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.09678418f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.37409196f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.00002368f));
  p = hn::MulAdd(p, t, hn::Set(d, -1.26551223f));
  return hn::Mul(t, exponential(d, hn::NegMulAdd(z, z, p)));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu(D d, V x) {
  const V half_tail = hn::Mul(hn::Set(d, 0.5f), complementary_error(d, hn::Mul(hn::Abs(x), hn::Set(d, 0.70710678f))));
  return hn::Mul(x, hn::IfThenElse(hn::Lt(x, hn::Zero(d)), half_tail, hn::Sub(hn::Set(d, 1.0f), half_tail)));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu_tanh(D d, V x) {  // (1 + tanh(u)) / 2 = sigmoid(2 u)
  const V cube = hn::Mul(hn::Mul(x, x), x);
  const V u = hn::MulAdd(cube, hn::Set(d, 0.044715f), x);
  return times_sigmoid(d, x, hn::Mul(u, hn::Set(d, 1.5957691216f)));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V silu(D d, V x) {
  return times_sigmoid(d, x, x);
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V relu(D d, V x) {  // keeps NaN, as IfThenElse with a false comparison does
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Zero(d), x);
}

}  // namespace heddle::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
