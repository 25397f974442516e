// The dot kernels in float32 arithmetic, written once in Highway and compiled for every vector set from SSE4 and NEON
// to AVX-512. A call reads each weight once and nothing beyond a row.
#include "cpu/linear_highway.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "cpu/vector_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/linear_highway_dot.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "cpu/linear_highway-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::cpu::HWY_NAMESPACE {
namespace {

constexpr int kDotColumns = kFewRegisters ? 2 : 6;
constexpr int64_t kStep = 2 * kLanes;  // elements of a weight row taken at a time
constexpr int64_t kLine = 64;          // bytes that a fetch brings

// Sums of four vectors, in the first four lanes.
template <class Vector>
HWY_INLINE hn::Vec<hn::FixedTag<float, 4>> add_blocks(Vector value) {
  if constexpr (hn::MaxLanes(hn::DFromV<Vector>()) == 4) {
    return value;
  } else {
    const hn::Half<hn::DFromV<Vector>> half;
    return add_blocks(hn::Add(hn::LowerHalf(half, value), hn::UpperHalf(half, value)));
  }
}

HWY_INLINE hn::Vec<hn::FixedTag<float, 4>> sums_of(V a, V b, V c, V d) {
  const hn::Repartition<uint64_t, D> wide;
  const V ab = hn::Add(hn::InterleaveLower(kD, a, b), hn::InterleaveUpper(kD, a, b));
  const V cd = hn::Add(hn::InterleaveLower(kD, c, d), hn::InterleaveUpper(kD, c, d));
  const auto low = hn::InterleaveLower(wide, hn::BitCast(wide, ab), hn::BitCast(wide, cd));
  const auto high = hn::InterleaveUpper(wide, hn::BitCast(wide, ab), hn::BitCast(wide, cd));
  return add_blocks(hn::Add(hn::BitCast(kD, low), hn::BitCast(kD, high)));
}

template <class Weights, int kColumns>
HWY_INLINE void dot_step(const typename Weights::Stored* const (&w)[kDotWeights], int64_t offset, const float* x,
                         int64_t x_stride, V (&sum)[kColumns][kDotWeights]) {
  V column[kColumns];
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) column[c] = hn::Load(kD, x + c * x_stride);
#pragma GCC unroll 8
  for (int i = 0; i < kDotWeights; ++i) {
    const V weight = Weights::first(w[i] + offset);
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) sum[c][i] = hn::MulAdd(weight, column[c], sum[c][i]);
  }
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) column[c] = hn::Load(kD, x + c * x_stride + kLanes);
#pragma GCC unroll 8
  for (int i = 0; i < kDotWeights; ++i) {
    const V weight = Weights::second(w[i] + offset);
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) sum[c][i] = hn::MulAdd(weight, column[c], sum[c][i]);
  }
}

template <class Weights, int kColumns>
HWY_INLINE void dot_row(const DotTask& task, int64_t row) {
  using Stored = typename Weights::Stored;
  const int64_t offset = row * task.row_stride;
  const Stored* w[kDotWeights];
#pragma GCC unroll 8
  for (int i = 0; i < kDotWeights; ++i) w[i] = reinterpret_cast<const Stored*>(task.weight[i] + offset);
  const float* x = reinterpret_cast<const float*>(task.x);
  const int64_t x_stride = task.x_stride / static_cast<int64_t>(sizeof(float));
  V sum[kColumns][kDotWeights];
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 8
    for (int i = 0; i < kDotWeights; ++i) sum[c][i] = hn::Zero(kD);
  }

  int64_t k = 0;
  int64_t ahead = offset;
  for (; k + kStep <= task.depth; k += kStep, ahead += task.prefetch_step) {
#pragma GCC unroll 8
    for (int i = 0; i < kDotWeights; ++i) {
      __builtin_prefetch(task.prefetch[i] + ahead);
      if constexpr (kStep * sizeof(Stored) > kLine) __builtin_prefetch(task.prefetch[i] + ahead + kLine);
    }
    dot_step<Weights, kColumns>(w, k, x + k, x_stride, sum);
  }
  if (k < task.depth) {
    // The last elements from a copy padded with zeros: nothing beyond a row is read.
    alignas(64) Stored tail[kDotWeights][kStep] = {};
    const Stored* tails[kDotWeights];
    for (int i = 0; i < kDotWeights; ++i) {
      std::memcpy(tail[i], w[i] + k, static_cast<size_t>(task.depth - k) * sizeof(Stored));
      tails[i] = tail[i];
    }
    dot_step<Weights, kColumns>(tails, 0, x + k, x_stride, sum);
  }
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) {
    const hn::FixedTag<float, 4> four;
    alignas(16) float sums[kDotWeights];
    hn::Store(sums_of(sum[c][0], sum[c][1], sum[c][2], sum[c][3]), four, sums);
    for (int i = 0; i < kDotWeights; ++i) {
      float& y = task.y[i][row + c * task.y_stride];
      y = task.accumulate ? y + sums[i] : sums[i];
    }
  }
}

template <class Weights, int kColumns>
void dot(const DotTask& task) {
  for (int64_t row = 0; row < task.row_count; ++row) dot_row<Weights, kColumns>(task, row);
}

template <bool kSplit>
void pack_row_step(const float* x, bool round, float* packed) {
  V a = hn::LoadU(kD, x);
  V b = hn::LoadU(kD, x + kLanes);
  if (round) {
    a = round_to_bfloat16(a);
    b = round_to_bfloat16(b);
  }
  hn::Store(kSplit ? hn::ConcatEven(kD, b, a) : a, kD, packed);
  hn::Store(kSplit ? hn::ConcatOdd(kD, b, a) : b, kD, packed + kLanes);
}

template <bool kSplit>
void pack_row(const float* x, int64_t in, bool round, std::byte* packed) {
  float* target = reinterpret_cast<float*>(packed);
  int64_t k = 0;
  for (; k + kStep <= in; k += kStep) pack_row_step<kSplit>(x + k, round, target + k);
  if (k == in) return;
  alignas(64) float tail[kStep] = {};
  std::copy(x + k, x + in, tail);
  pack_row_step<kSplit>(tail, round, target + k);
}

template <class Weights>
DotKernel kernel_for() {
  DotKernel kernel;
  kernel.columns = kernel.single_columns = kDotColumns;
  kernel.single_depth = std::numeric_limits<int64_t>::max();
  kernel.step_bytes = kStep * static_cast<int64_t>(sizeof(typename Weights::Stored));
  kernel.x_element_size = sizeof(float);
  kernel.run[0] = dot<Weights, 1>;
  kernel.run[1] = dot<Weights, 2>;
  if constexpr (!kFewRegisters) {
    kernel.run[2] = dot<Weights, 3>;
    kernel.run[3] = dot<Weights, 4>;
    kernel.run[4] = dot<Weights, 5>;
    kernel.run[5] = dot<Weights, 6>;
  }
  kernel.pack_row = pack_row<Weights::kSplit>;
  return kernel;
}

}  // namespace

DotKernel dot_kernel(DType weight_dtype) {
  switch (weight_dtype) {
    case DType::bfloat16: return kernel_for<Bfloat16Weights>();
    case DType::float16: return kernel_for<Float16Weights>();
    case DType::float32: break;
  }
  return kernel_for<Float32Weights>();
}

}  // namespace heddle::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::cpu {

DotKernel highway_dot_kernel(Isa isa, DType weight_dtype) { return HEDDLE_FOR_ISA(isa, dot_kernel)(weight_dtype); }

}  // namespace heddle::cpu
#endif  // HWY_ONCE
