// The linear kernels on bfloat16 pairs with AVX512-BF16 (vdpbf16ps): weights are used as stored, x is rounded and
// packed. Intrinsics in functions with a target of their own: the rest of the program stays at the baseline.
#if defined(__x86_64__)
#include "cpu/linear_avx512bf16.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"        // GCC 12's own intrinsics (its bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // likewise
#endif
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <limits>

#define HEDDLE_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define HEDDLE_TARGET_INLINE HEDDLE_TARGET __attribute__((always_inline)) static inline

namespace heddle::cpu::avx512bf16 {
namespace {

constexpr int kDotColumns = 6;        // with four weight rows at once
constexpr int kPairColumns = 12;      // with two
constexpr int64_t kPairDepth = 1024;  // elements: beyond, several passes were faster
constexpr int64_t kStep = 32;  // bfloat16 elements of a vector
constexpr int kPanelRows = 12;
constexpr int64_t kDepthBlock = 1024;
constexpr int64_t kPanelStride = kDepthBlock / 2 + 16;  // pairs; rows start at different cache sets
constexpr int64_t kLanes = 16;

HEDDLE_TARGET_INLINE __m512 dot_pairs(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

// The first `count` of 16 lanes.
HEDDLE_TARGET_INLINE __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>(count >= kLanes ? 0xffffu : (1u << std::max<int64_t>(count, 0)) - 1u);
}

// 32 floats, as many as `count` says and then zeros, rounded to bfloat16.
HEDDLE_TARGET_INLINE __m512i load_rounded(const float* x, int64_t count) {
  const __m512 low = _mm512_maskz_loadu_ps(first_lanes(count), x);
  const __m512 high = _mm512_maskz_loadu_ps(first_lanes(count - kLanes), x + kLanes);
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// ---- dot

// Four sums, one of each vector.
HEDDLE_TARGET_INLINE __m128 sums_of(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 low = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)));
  const __m512 high = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)));
  const __m512 sums = _mm512_add_ps(low, high);
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// Adds the products of one step of some weight rows with every column. One load of x serves them all.
template <int kColumns, int kWeights>
HEDDLE_TARGET_INLINE void dot_lines(const __m512i (&lines)[kWeights], const std::byte* x, int64_t x_stride,
                                    __m512 (&sum)[kColumns][kWeights]) {
#pragma GCC unroll 16
  for (int c = 0; c < kColumns; ++c) {
    const __m512i column = _mm512_load_si512(x + c * x_stride);
#pragma GCC unroll 8
    for (int i = 0; i < kWeights; ++i) sum[c][i] = dot_pairs(sum[c][i], lines[i], column);
  }
}

template <int kColumns, int kWeights>
HEDDLE_TARGET_INLINE void dot_step(const std::byte* const (&weight)[kWeights], int64_t k, const DotTask& task,
                                   __m512 (&sum)[kColumns][kWeights]) {
  __m512i lines[kWeights];
#pragma GCC unroll 8
  for (int i = 0; i < kWeights; ++i) lines[i] = _mm512_loadu_si512(weight[i] + k * 2);
  dot_lines(lines, task.x + k * 2, task.x_stride, sum);
}

// What is left of a row from k on: less than a step.
template <int kColumns, int kWeights>
HEDDLE_TARGET_INLINE void dot_last_step(const std::byte* const (&weight)[kWeights], int64_t k, const DotTask& task,
                                        __m512 (&sum)[kColumns][kWeights]) {
  if (k == task.depth) return;
  const __mmask32 left = static_cast<__mmask32>((1u << (task.depth - k)) - 1u);
  __m512i lines[kWeights];
#pragma GCC unroll 8
  for (int i = 0; i < kWeights; ++i) lines[i] = _mm512_maskz_loadu_epi16(left, weight[i] + k * 2);
  dot_lines(lines, task.x + k * 2, task.x_stride, sum);
}

// The results of weight rows `first` on, four at a time: of one column or of two.
template <int kColumns, int kWeights>
HEDDLE_TARGET_INLINE void store_sums(const DotTask& task, int64_t row, int first,
                                     const __m512 (&sum)[kColumns][kWeights]) {
  constexpr int kShared = 4 / kWeights;  // columns
#pragma GCC unroll 16
  for (int c = 0; c < kColumns; c += kShared) {
    const int last = c + kShared <= kColumns ? c + kShared - 1 : c;  // an odd column stands there twice
    alignas(16) float sums[4];
    _mm_store_ps(sums, sums_of(sum[c][0], sum[c][1], sum[last][kWeights - 2], sum[last][kWeights - 1]));
#pragma GCC unroll 4
    for (int i = 0; i < (last - c + 1) * kWeights; ++i) {
      float& y = task.y[first + i % kWeights][row + (c + i / kWeights) * task.y_stride];
      y = task.accumulate ? y + sums[i] : sums[i];
    }
  }
}

// Four weight rows at once; each step fetches in all four places.
template <int kColumns>
HEDDLE_TARGET_INLINE void dot_four(const DotTask& task, int64_t row) {
  const int64_t offset = row * task.row_stride;
  const std::byte* weight[kDotWeights];
#pragma GCC unroll 8
  for (int i = 0; i < kDotWeights; ++i) weight[i] = task.weight[i] + offset;
  __m512 sum[kColumns][kDotWeights] = {};
  int64_t k = 0;
  int64_t ahead = offset;
  for (; k + kStep <= task.depth; k += kStep, ahead += task.prefetch_step) {
#pragma GCC unroll 8
    for (int i = 0; i < kDotWeights; ++i) __builtin_prefetch(task.prefetch[i] + ahead);
    dot_step(weight, k, task, sum);
  }
  dot_last_step(weight, k, task, sum);
  store_sums(task, row, 0, sum);
}

// Two weight rows, whose sums leave room in the registers for more columns. Memory is asked as evenly as with four: two
// steps fetch in all four places, those of one pair the first half of what a row fetches, those of the other the rest.
template <int kColumns>
HEDDLE_TARGET_INLINE void dot_pair(const DotTask& task, int64_t row, int pair) {
  const int64_t offset = row * task.row_stride;
  const std::byte* weight[2] = {task.weight[2 * pair] + offset, task.weight[2 * pair + 1] + offset};
  __m512 sum[kColumns][2] = {};
  int64_t k = 0;
  int64_t ahead = offset + pair * (task.depth / kStep / 2 * task.prefetch_step);
  for (; k + 2 * kStep <= task.depth; k += 2 * kStep, ahead += task.prefetch_step) {
    __builtin_prefetch(task.prefetch[0] + ahead);
    __builtin_prefetch(task.prefetch[1] + ahead);
    dot_step(weight, k, task, sum);
    __builtin_prefetch(task.prefetch[2] + ahead);
    __builtin_prefetch(task.prefetch[3] + ahead);
    dot_step(weight, k + kStep, task, sum);
  }
  if (k + kStep <= task.depth) {
    dot_step(weight, k, task, sum);
    k += kStep;
  }
  dot_last_step(weight, k, task, sum);
  store_sums(task, row, 2 * pair, sum);
}

template <int kColumns>
HEDDLE_TARGET void dot(const DotTask& task) {
  for (int64_t row = 0; row < task.row_count; ++row) {
    if constexpr (kColumns <= kDotColumns) {
      dot_four<kColumns>(task, row);
    } else {
      for (int pair = 0; pair < kDotWeights / 2; ++pair) dot_pair<kColumns>(task, row, pair);
    }
  }
}

HEDDLE_TARGET void pack_row(const float* x, int64_t in, bool /* always rounded */, std::byte* packed) {
  for (int64_t k = 0; k < in; k += kStep) _mm512_store_si512(packed + k * 2, load_rounded(x + k, in - k));
}

// ---- tiled

void pack_panel(const PanelTask& task) {
  const size_t bytes = static_cast<size_t>(task.depth) * 2;
  const size_t padded_bytes =
      static_cast<size_t>((task.depth + kDepthMultiple - 1) / kDepthMultiple * kDepthMultiple) * 2;
  for (int64_t row = 0; row < kPanelRows; ++row) {
    std::byte* target = task.panel + row * kPanelStride * 4;
    const size_t present = row < task.row_count ? bytes : 0;
    if (present > 0) std::memcpy(target, task.weight + row * task.row_stride, present);
    std::memset(target + present, 0, padded_bytes - present);
  }
}

template <int kVectors>
HEDDLE_TARGET void tile(const TileTask& task) {
  constexpr int64_t kChunk = 16;  // pairs of a weight row in a cache line
  __m512 sum[kPanelRows][kVectors];
#pragma GCC unroll 16
  for (int row = 0; row < kPanelRows; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sum[row][v] = task.accumulate ? _mm512_loadu_ps(task.c + row * task.c_stride + v * kLanes) : _mm512_setzero_ps();
    }
  }
  // Three rows share a register: row 3 r + i stands i strides after rows[r].
  const int64_t stride = task.panel_stride;
  const std::byte* rows[kPanelRows / 3];
#pragma GCC unroll 8
  for (int r = 0; r < kPanelRows / 3; ++r) rows[r] = task.panel + 3 * r * stride;
  const std::byte* x = task.columns;
  const std::byte* prefetch = task.prefetch;
  for (int64_t k = 0; k < task.depth; k += kChunk * 2, prefetch += 64) {
    for (int64_t row = 0; row < task.prefetch_rows; ++row)
      __builtin_prefetch(prefetch + row * task.prefetch_stride, 0, 2);
    for (int64_t pair = k / 2; pair < k / 2 + kChunk; ++pair, x += kVectors * 64) {
      __m512i column[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) column[v] = _mm512_load_si512(x + v * 64);
#pragma GCC unroll 16
      for (int row = 0; row < kPanelRows; ++row) {
        int32_t bits;
        std::memcpy(&bits, rows[row / 3] + row % 3 * stride + pair * 4, 4);
        const __m512i weight = _mm512_set1_epi32(bits);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[row][v] = dot_pairs(sum[row][v], weight, column[v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < kPanelRows; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(task.c + row * task.c_stride + v * kLanes, sum[row][v]);
  }
}

// rows[i] lane j becomes rows[j] lane i.
HEDDLE_TARGET_INLINE void transpose_16x16(__m512i (&rows)[16]) {
  __m512i other[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    other[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    other[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(other[i], other[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(other[i], other[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(other[i + 1], other[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(other[i + 1], other[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    other[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    other[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    other[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    other[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_i32x4(other[i], other[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(other[i], other[i + 8], 0xdd);
    rows[i + 4] = _mm512_shuffle_i32x4(other[i + 4], other[i + 12], 0x88);
    rows[i + 12] = _mm512_shuffle_i32x4(other[i + 4], other[i + 12], 0xdd);
  }
}

}  // namespace

// Sixteen rows of x by sixteen pairs at a time.
HEDDLE_TARGET void pack_columns(const ColumnsTask& task) {
  for (int64_t first = 0; first < task.width; first += kLanes) {
    for (int64_t k = 0; k < task.depth; k += kStep) {
      __m512i rows[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const bool present = first + i < task.row_count;
        rows[i] =
            present ? load_rounded(task.x + (first + i) * task.row_stride + k, task.depth - k) : _mm512_setzero_si512();
      }
      transpose_16x16(rows);
      std::byte* target = task.packed + (k / 2 * task.width + first) * 4;
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(target + i * task.width * 4, rows[i]);
    }
  }
}

HEDDLE_TARGET void transpose(const float* c, int64_t c_stride, int64_t n, int64_t m, float* y, int64_t y_stride) {
  for (int64_t column = 0; column < m; column += kLanes) {
    const int64_t column_count = std::min(kLanes, m - column);
    const __mmask16 columns = first_lanes(column_count);
    for (int64_t row = 0; row < n; row += kLanes) {
      const int64_t row_count = std::min(kLanes, n - row);
      __m512i rows[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        rows[i] = i < row_count ? _mm512_maskz_loadu_epi32(columns, c + (row + i) * c_stride + column)
                                : _mm512_setzero_si512();
      }
      transpose_16x16(rows);
      const __mmask16 present = first_lanes(row_count);
      float* target = y + column * y_stride + row;
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        if (i < column_count) _mm512_mask_storeu_epi32(target + i * y_stride, present, rows[i]);
      }
    }
  }
}

DotKernel dot_kernel() {
  DotKernel kernel;
  kernel.columns = kDotColumns;
  kernel.single_columns = kPairColumns;
  kernel.single_depth = kPairDepth;
  kernel.step_bytes = kStep * 2;
  kernel.x_element_size = 2;
  kernel.run[0] = dot<1>;
  kernel.run[1] = dot<2>;
  kernel.run[2] = dot<3>;
  kernel.run[3] = dot<4>;
  kernel.run[4] = dot<5>;
  kernel.run[5] = dot<6>;
  kernel.run[6] = dot<7>;
  kernel.run[7] = dot<8>;
  kernel.run[8] = dot<9>;
  kernel.run[9] = dot<10>;
  kernel.run[10] = dot<11>;
  kernel.run[11] = dot<12>;
  kernel.pack_row = pack_row;
  return kernel;
}

TileKernel tile_kernel() {
  TileKernel kernel;
  kernel.panel_rows = kPanelRows;
  kernel.panel_stride = kPanelStride * 4;
  kernel.panel_step = 64;
  kernel.direct_columns = std::numeric_limits<int64_t>::max();
  kernel.depth_block = kDepthBlock;
  kernel.depth_multiple = kDepthMultiple;
  kernel.panel_bytes = kPanelRows * kPanelStride * 4;
  kernel.x_element_size = 2;
  kernel.widths[0] = 2 * kLanes;
  kernel.widths[1] = kLanes;
  kernel.run[0] = tile<2>;
  kernel.run[1] = tile<1>;
  kernel.pack_panel = pack_panel;
  kernel.pack_columns = pack_columns;
  kernel.transpose = transpose;
  return kernel;
}

}  // namespace heddle::cpu::avx512bf16
#endif
