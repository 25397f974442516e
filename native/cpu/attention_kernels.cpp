#include "cpu/attention_kernels.h"

#include <cmath>
#include <limits>

#include "cpu/vector_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_kernels.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::cpu::HWY_NAMESPACE {
namespace {

using Floats = hn::CappedTag<float, 16>;
using Quad = hn::Full128<float>;
using Vector = hn::Vec<Floats>;

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(Floats()));
// A register tile of rows x vectors: as many sums as leave room for the operands.
constexpr int kTileRows = HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64 ? 6 : 4;
constexpr int kTileVectors = HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64 ? 4 : 2;

HWY_INLINE Vector load(Floats d, const float* from) { return hn::LoadU(d, from); }
HWY_INLINE Vector load(Floats d, const uint16_t* from) {  // bfloat16
  const hn::Rebind<uint16_t, Floats> d16;
  const hn::RebindToUnsigned<Floats> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, from))));
}

HWY_INLINE float to_float(float value) { return value; }
HWY_INLINE float to_float(uint16_t bits) { return bfloat16_to_float(bits); }

// ---- result (+)= factors * terms

template <int kRows, int kVectors, class Term>
HWY_INLINE void multiply_tile(Rows factors, int64_t depth, const Term* terms, int64_t stride, Rows result,
                              bool accumulate) {
  const Floats d;
  Vector sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = accumulate ? hn::LoadU(d, result.row(r) + v * kLanes) : hn::Zero(d);
  }
  for (int64_t k = 0; k < depth; ++k, terms += stride) {
    Vector term[kVectors];
    for (int v = 0; v < kVectors; ++v) term[v] = load(d, terms + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vector factor = hn::Set(d, factors.row(r)[k]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(factor, term[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[r][v], d, result.row(r) + v * kLanes);
  }
}

template <int kRows, class Term>
void multiply_rows(Rows factors, int64_t depth, const Term* terms, int64_t stride, int64_t width, Rows result,
                   bool accumulate) {
  int64_t column = 0;
  for (; column + kTileVectors * kLanes <= width; column += kTileVectors * kLanes) {
    multiply_tile<kRows, kTileVectors>(factors, depth, terms + column, stride, {result.data + column, result.stride},
                                       accumulate);
  }
  for (; column < width; column += kLanes) {
    multiply_tile<kRows, 1>(factors, depth, terms + column, stride, {result.data + column, result.stride}, accumulate);
  }
}

template <class Term>
void multiply_terms(Rows factors, int64_t rows, int64_t depth, const Term* terms, int64_t stride, int64_t width,
                    Rows result, bool accumulate) {
  while (rows > 0) {
    const int64_t taken = rows < kTileRows ? rows : kTileRows;
    switch (taken) {
      case 1: multiply_rows<1>(factors, depth, terms, stride, width, result, accumulate); break;
      case 2: multiply_rows<2>(factors, depth, terms, stride, width, result, accumulate); break;
      case 3: multiply_rows<3>(factors, depth, terms, stride, width, result, accumulate); break;
      case 4: multiply_rows<4>(factors, depth, terms, stride, width, result, accumulate); break;
      case 5: multiply_rows<5>(factors, depth, terms, stride, width, result, accumulate); break;
      default: multiply_rows<6>(factors, depth, terms, stride, width, result, accumulate); break;
    }
    factors.data += taken * factors.stride;
    result.data += taken * result.stride;
    rows -= taken;
  }
}

void multiply(Rows factors, int64_t rows, int64_t depth, Rows terms, int64_t width, Rows result, bool accumulate) {
  multiply_terms(factors, rows, depth, terms.data, terms.stride, width, result, accumulate);
}

void add_values(Rows factors, int64_t rows, int64_t depth, const void* values, DType dtype, int64_t width,
                Rows result) {
  if (dtype == DType::float32) {
    multiply_terms(factors, rows, depth, static_cast<const float*>(values), width, width, result, true);
  } else {
    multiply_terms(factors, rows, depth, static_cast<const uint16_t*>(values), width, width, result, true);
  }
}

// ---- scores = queries . keys, for few queries

HWY_INLINE hn::Vec<Quad> fold(Quad, hn::Vec<Quad> v) { return v; }
template <class D>
  requires(hn::MaxLanes(D()) > 4)
HWY_INLINE hn::Vec<Quad> fold(D d, hn::Vec<D> v) {
  const hn::Half<D> half;
  return fold(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
}

// The sums of the lanes of four vectors.
HWY_INLINE hn::Vec<Quad> sums_of_lanes(Vector v0, Vector v1, Vector v2, Vector v3) {
  const Floats d;
  const Quad q;
  const auto a = fold(d, v0);
  const auto b = fold(d, v1);
  const auto c = fold(d, v2);
  const auto e = fold(d, v3);
  const auto low = hn::Add(hn::InterleaveLower(q, a, b), hn::InterleaveUpper(q, a, b));
  const auto high = hn::Add(hn::InterleaveLower(q, c, e), hn::InterleaveUpper(q, c, e));
  return hn::Add(hn::ConcatLowerLower(q, high, low), hn::ConcatUpperUpper(q, high, low));
}

template <int kRows, class Key>
HWY_INLINE void dot_four_keys(Rows queries, const Key* keys, int64_t width, Rows scores) {
  const Floats d;
  Vector sums[kRows][4];
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < 4; ++k) sums[r][k] = hn::Zero(d);
  }
  for (int64_t i = 0; i < width; i += kLanes) {
    Vector key[4];
    for (int k = 0; k < 4; ++k) key[k] = load(d, keys + k * width + i);
    for (int r = 0; r < kRows; ++r) {
      const Vector query = hn::LoadU(d, queries.row(r) + i);
      for (int k = 0; k < 4; ++k) sums[r][k] = hn::MulAdd(query, key[k], sums[r][k]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    hn::StoreU(sums_of_lanes(sums[r][0], sums[r][1], sums[r][2], sums[r][3]), Quad(), scores.row(r));
  }
}

template <class Key>
void dot_key(Rows queries, int64_t rows, const Key* key, int64_t width, Rows scores) {
  const Floats d;
  for (int64_t r = 0; r < rows; ++r) {
    Vector sum = hn::Zero(d);
    for (int64_t i = 0; i < width; i += kLanes)
      sum = hn::MulAdd(hn::LoadU(d, queries.row(r) + i), load(d, key + i), sum);
    scores.row(r)[0] = hn::GetLane(hn::SumOfLanes(d, sum));
  }
}

template <class Key>
void dot_all_keys(Rows queries, int64_t rows, const Key* keys, int64_t count, int64_t width, Rows scores) {
  int64_t k = 0;
  for (; k + 4 <= count; k += 4, keys += 4 * width) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      dot_four_keys<4>({queries.row(r), queries.stride}, keys, width, {scores.row(r) + k, scores.stride});
    }
    const Rows query = {queries.row(r), queries.stride};
    const Rows score = {scores.row(r) + k, scores.stride};
    switch (rows - r) {
      case 1: dot_four_keys<1>(query, keys, width, score); break;
      case 2: dot_four_keys<2>(query, keys, width, score); break;
      case 3: dot_four_keys<3>(query, keys, width, score); break;
      default: break;
    }
  }
  for (; k < count; ++k, keys += width) dot_key(queries, rows, keys, width, {scores.data + k, scores.stride});
}

void dot_keys(Rows queries, int64_t rows, const void* keys, DType dtype, int64_t count, int64_t width, Rows scores) {
  if (dtype == DType::float32) {
    dot_all_keys(queries, rows, static_cast<const float*>(keys), count, width, scores);
  } else {
    dot_all_keys(queries, rows, static_cast<const uint16_t*>(keys), count, width, scores);
  }
}

// ---- cache rows to and from float tiles

HWY_INLINE hn::Vec<Quad> load_quad(const float* from) { return hn::LoadU(Quad(), from); }
HWY_INLINE hn::Vec<Quad> load_quad(const uint16_t* from) {
  const hn::Rebind<uint16_t, Quad> d16;
  const hn::RebindToUnsigned<Quad> d32;
  return hn::BitCast(Quad(), hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, from))));
}

// A 4 x 4 block.
template <class Key>
HWY_INLINE void transpose_block(const Key* keys, int64_t width, float* target, int64_t stride) {
  const Quad q;
  const hn::Repartition<uint64_t, Quad> pairs;
  const auto a = load_quad(keys);
  const auto b = load_quad(keys + width);
  const auto c = load_quad(keys + 2 * width);
  const auto e = load_quad(keys + 3 * width);
  const auto ab_low = hn::BitCast(pairs, hn::InterleaveLower(q, a, b));   // a0 b0 a1 b1
  const auto ab_high = hn::BitCast(pairs, hn::InterleaveUpper(q, a, b));  // a2 b2 a3 b3
  const auto ce_low = hn::BitCast(pairs, hn::InterleaveLower(q, c, e));
  const auto ce_high = hn::BitCast(pairs, hn::InterleaveUpper(q, c, e));
  hn::StoreU(hn::BitCast(q, hn::InterleaveLower(pairs, ab_low, ce_low)), q, target);
  hn::StoreU(hn::BitCast(q, hn::InterleaveUpper(pairs, ab_low, ce_low)), q, target + stride);
  hn::StoreU(hn::BitCast(q, hn::InterleaveLower(pairs, ab_high, ce_high)), q, target + 2 * stride);
  hn::StoreU(hn::BitCast(q, hn::InterleaveUpper(pairs, ab_high, ce_high)), q, target + 3 * stride);
}

template <class Key>
void transpose(const Key* keys, int64_t count, int64_t width, Rows target) {
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) {
    int64_t i = 0;
    for (; i + 4 <= width; i += 4) transpose_block(keys + k * width + i, width, target.row(i) + k, target.stride);
    for (; i < width; ++i) {
      for (int64_t j = k; j < k + 4; ++j) target.row(i)[j] = to_float(keys[j * width + i]);
    }
  }
  for (; k < count; ++k) {
    for (int64_t i = 0; i < width; ++i) target.row(i)[k] = to_float(keys[k * width + i]);
  }
}

void transpose_keys(const void* keys, DType dtype, int64_t count, int64_t width, Rows target) {
  if (dtype == DType::float32) {
    transpose(static_cast<const float*>(keys), count, width, target);
  } else {
    transpose(static_cast<const uint16_t*>(keys), count, width, target);
  }
}

template <class Source>
void widen_all(const Source* source, int64_t count, float* target) {
  const Floats d;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(load(d, source + i), d, target + i);
  for (; i < count; ++i) target[i] = to_float(source[i]);
}

void widen(const void* source, DType dtype, int64_t count, float* target) {
  if (dtype == DType::float32) {
    widen_all(static_cast<const float*>(source), count, target);
  } else {
    widen_all(static_cast<const uint16_t*>(source), count, target);
  }
}

void narrow(const float* source, int64_t count, void* target, DType dtype) {
  if (dtype == DType::float32) return widen_all(source, count, static_cast<float*>(target));
  auto* bits = static_cast<uint16_t*>(target);
  for (int64_t i = 0; i < count; ++i) bits[i] = float_to_bfloat16(source[i]);
}

// ---- softmax

float exponentials(float* x, int64_t count, float* maximum, float* sum) {
  const Floats d;
  const hn::CappedTag<float, 1> one;
  const int64_t whole = count - count % kLanes;
  auto best = hn::Set(d, *maximum);
  for (int64_t i = 0; i < whole; i += kLanes) best = hn::Max(best, hn::LoadU(d, x + i));
  float largest = hn::GetLane(hn::MaxOfLanes(d, best));
  for (int64_t i = whole; i < count; ++i) largest = x[i] > largest ? x[i] : largest;

  const auto center = hn::Set(d, largest);
  auto total = hn::Zero(d);
  for (int64_t i = 0; i < whole; i += kLanes) {
    const auto value = exponential(d, hn::Sub(hn::LoadU(d, x + i), center));
    hn::StoreU(value, d, x + i);
    total = hn::Add(total, value);
  }
  float added = hn::GetLane(hn::SumOfLanes(d, total));
  for (int64_t i = whole; i < count; ++i) {
    hn::StoreU(exponential(one, hn::Set(one, x[i] - largest)), one, x + i);
    added += x[i];
  }
  const float factor = std::exp(*maximum - largest);
  *sum = *sum * factor + added;
  *maximum = largest;
  return factor;
}

void scale(const float* x, float factor, int64_t count, float* y) {
  const Floats d;
  const auto factors = hn::Set(d, factor);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(hn::Mul(hn::LoadU(d, x + i), factors), d, y + i);
  for (; i < count; ++i) y[i] = x[i] * factor;
}

constexpr AttentionKernels kAttentionKernels = {multiply, add_values, dot_keys,     transpose_keys,
                                                widen,    narrow,     exponentials, scale};

}  // namespace
}  // namespace heddle::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::cpu {

const AttentionKernels& attention_kernels(Isa isa) { return HEDDLE_FOR_ISA(isa, kAttentionKernels); }

const AttentionKernels& attention_kernels() {
  static const AttentionKernels& chosen = attention_kernels(cpu_isa());
  return chosen;
}

}  // namespace heddle::cpu
#endif  // HWY_ONCE
