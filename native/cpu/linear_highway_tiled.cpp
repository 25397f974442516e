// The tile kernels in float32 arithmetic, written once in Highway and compiled for every vector set from SSE4 and NEON
// to AVX-512. Weights are widened to float32 in a panel that stays in the first cache; 24 sums (12 with 16 registers)
// hide the latency of a product.
#include "cpu/linear_highway.h"

#include <algorithm>

#include "cpu/vector_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/linear_highway_tiled.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "cpu/linear_highway-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::cpu::HWY_NAMESPACE {
namespace {

constexpr int kPanelRows = kFewRegisters ? 6 : 12;
constexpr int64_t kDepthBlock = 512;
constexpr int64_t kPanelStride = kDepthBlock + 16;  // floats; rows start at different cache sets

template <class Weights>
void pack_panel(const PanelTask& task) {
  float* panel = reinterpret_cast<float*>(task.panel);
  for (int64_t row = 0; row < kPanelRows; ++row) {
    float* target = panel + row * kPanelStride;
    if (row >= task.row_count) {
      std::fill(target, target + task.depth, 0.0f);
      continue;
    }
    const auto* source = reinterpret_cast<const typename Weights::Stored*>(task.weight + row * task.row_stride);
    int64_t k = 0;
    for (; k + kLanes <= task.depth; k += kLanes) hn::Store(Weights::natural(source + k), kD, target + k);
    for (; k < task.depth; ++k) target[k] = Weights::scalar(source[k]);
  }
}

using Four = hn::FixedTag<float, 4>;
constexpr Four kFour;

// target[j][i] = source[i][j]
HWY_INLINE void transpose_4x4(const float* source, int64_t source_stride, float* target, int64_t target_stride) {
  const hn::Repartition<uint64_t, Four> wide;
  const auto r0 = hn::LoadU(kFour, source), r1 = hn::LoadU(kFour, source + source_stride);
  const auto r2 = hn::LoadU(kFour, source + 2 * source_stride), r3 = hn::LoadU(kFour, source + 3 * source_stride);
  const auto low01 = hn::BitCast(wide, hn::InterleaveLower(kFour, r0, r1)),
             high01 = hn::BitCast(wide, hn::InterleaveUpper(kFour, r0, r1));
  const auto low23 = hn::BitCast(wide, hn::InterleaveLower(kFour, r2, r3)),
             high23 = hn::BitCast(wide, hn::InterleaveUpper(kFour, r2, r3));
  hn::StoreU(hn::BitCast(kFour, hn::InterleaveLower(wide, low01, low23)), kFour, target);
  hn::StoreU(hn::BitCast(kFour, hn::InterleaveUpper(wide, low01, low23)), kFour, target + target_stride);
  hn::StoreU(hn::BitCast(kFour, hn::InterleaveLower(wide, high01, high23)), kFour, target + 2 * target_stride);
  hn::StoreU(hn::BitCast(kFour, hn::InterleaveUpper(wide, high01, high23)), kFour, target + 3 * target_stride);
}

// target[j][i] = source[i][j] for i < rows, j < columns.
void transpose(const float* source, int64_t source_stride, int64_t rows, int64_t columns, float* target,
               int64_t target_stride) {
  const int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (int64_t j = 0; j < whole_columns; j += 4) {
    for (int64_t i = 0; i < whole_rows; i += 4) {
      transpose_4x4(source + i * source_stride + j, source_stride, target + j * target_stride + i, target_stride);
    }
  }
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t i = j < whole_columns ? whole_rows : 0; i < rows; ++i)
      target[j * target_stride + i] = source[i * source_stride + j];
  }
}

void round_columns(float* packed, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(round_to_bfloat16(hn::LoadU(kD, packed + i)), kD, packed + i);
  for (; i < count; ++i) packed[i] = bfloat16_to_float(float_to_bfloat16(packed[i]));
}

void pack_columns(const ColumnsTask& task) {
  float* packed = reinterpret_cast<float*>(task.packed);
  if (task.row_count < task.width) std::fill(packed, packed + task.depth * task.width, 0.0f);
  transpose(task.x, task.row_stride, task.row_count, task.depth, packed, task.width);
  if (task.round) round_columns(packed, task.depth * task.width);
}

template <int kVectors>
HWY_INLINE void tile_steps(const float* panel, const float* x, int64_t count, V (&sum)[kPanelRows][kVectors]) {
  for (int64_t k = 0; k < count; ++k) {
    V column[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) column[v] = hn::Load(kD, x + (k * kVectors + v) * kLanes);
#pragma GCC unroll 16
    for (int row = 0; row < kPanelRows; ++row) {
      const V weight = hn::Set(kD, panel[row * kPanelStride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[row][v] = hn::MulAdd(weight, column[v], sum[row][v]);
    }
  }
}

template <int kVectors, int64_t kElementSize>
void tile(const TileTask& task) {
  V sum[kPanelRows][kVectors];
#pragma GCC unroll 16
  for (int row = 0; row < kPanelRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sum[row][v] = task.accumulate ? hn::LoadU(kD, task.c + row * task.c_stride + v * kLanes) : hn::Zero(kD);
    }
  }
  const float* panel = reinterpret_cast<const float*>(task.panel);
  const float* x = reinterpret_cast<const float*>(task.columns);
  constexpr int64_t kChunk = 64 / kElementSize;  // elements of a weight row in a cache line
  const std::byte* prefetch = task.prefetch;
  int64_t k = 0;
  for (; k + kChunk <= task.depth; k += kChunk, prefetch += 64) {
    for (int64_t row = 0; row < task.prefetch_rows; ++row) __builtin_prefetch(prefetch + row * task.prefetch_stride);
    tile_steps<kVectors>(panel + k, x + k * kVectors * kLanes, kChunk, sum);
  }
  tile_steps<kVectors>(panel + k, x + k * kVectors * kLanes, task.depth - k, sum);
#pragma GCC unroll 16
  for (int row = 0; row < kPanelRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sum[row][v], kD, task.c + row * task.c_stride + v * kLanes);
  }
}

template <class Weights>
TileKernel kernel_for() {
  constexpr int64_t kElementSize = sizeof(typename Weights::Stored);
  TileKernel kernel;
  kernel.panel_rows = kPanelRows;
  kernel.panel_stride = kPanelStride * 4;
  kernel.panel_step = 64;
  kernel.depth_block = kDepthBlock;
  kernel.depth_multiple = 1;
  kernel.panel_bytes = kPanelRows * kPanelStride * static_cast<int64_t>(sizeof(float));
  kernel.x_element_size = sizeof(float);
  kernel.widths[0] = 2 * kLanes;
  kernel.widths[1] = kLanes;
  kernel.run[0] = tile<2, kElementSize>;
  kernel.run[1] = tile<1, kElementSize>;
  kernel.pack_panel = pack_panel<Weights>;
  kernel.pack_columns = pack_columns;
  kernel.transpose = transpose;
  return kernel;
}

}  // namespace

TileKernel tile_kernel(DType weight_dtype) {
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

TileKernel highway_tile_kernel(Isa isa, DType weight_dtype) { return HEDDLE_FOR_ISA(isa, tile_kernel)(weight_dtype); }

}  // namespace heddle::cpu
#endif  // HWY_ONCE
