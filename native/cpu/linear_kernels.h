// What an instruction set offers to the linear layer, as tables of functions; the two drivers know nothing else of it.
// No vector type appears here: this header is compiled for the baseline, its implementations for their own target each.
//
// Two shapes of kernel, both accumulating in float32:
//   dot    few rows of x: dot products of weight rows, as stored, with x. One pass over the weights at memory speed.
//   tiled  many rows of x: yᵀ = weight · xᵀ in blocks. Elements of a weight panel are broadcast against vectors that run
//          along the rows of x: only x, the small operand, is ever transposed; weights are at most widened.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "cpu/linear.h"

namespace heddle::cpu {

inline constexpr int kDotWeights = 4;  // weight rows of one call, from four far places: DRAM streams best from several
inline constexpr int kMaxDotColumns = 12;   // rows of x that one call takes at most
inline constexpr int64_t kMaxDotStep = 32;  // elements; packed rows of x are padded with zeros to a multiple

struct DotTask {
  const std::byte* weight[kDotWeights];  // [depth] each; then the row after it, row_count times
  int64_t row_stride;                    // bytes
  int64_t row_count;
  const std::byte* prefetch[kDotWeights];  // fetched along the way, prefetch_step bytes further for each step
  int64_t prefetch_step;
  int64_t depth;       // elements
  const std::byte* x;  // packed rows, x_stride bytes apart
  int64_t x_stride;
  float* y[kDotWeights];  // y[i][r + c * y_stride]: row r after weight[i], times row c of x
  int64_t y_stride;
  bool accumulate;  // else y is overwritten
};

struct DotKernel {
  int columns = 0;           // rows of x of a call where several passes are made over weight rows;
  int single_columns = 0;    // and of a single pass, for weight rows of
  int64_t single_depth = 0;  // up to so many elements: x has to stay in the first cache
  int64_t step_bytes = 0;                            // of a weight row
  int64_t x_element_size = 0;                        // of packed x
  void (*run[kMaxDotColumns])(const DotTask&) = {};  // [columns - 1]
  // One row of x, padded with zeros to a multiple of the step.
  void (*pack_row)(const float* x, int64_t in, bool round, std::byte* packed) = nullptr;
};

struct PanelTask {
  const std::byte* weight;  // first element of the first row
  int64_t row_stride;       // bytes
  int64_t row_count;        // the rest of the panel becomes zero
  int64_t depth;            // elements
  std::byte* panel;
};

// Packs x for a tile: row_count rows of x become its columns, the rest of its width becomes zero.
struct ColumnsTask {
  const float* x;
  int64_t row_stride;  // elements
  int64_t row_count;
  int64_t depth;  // elements; padded with zeros to a multiple of depth_multiple
  int64_t width;  // columns of the tile
  bool round;
  std::byte* packed;  // [padded depth / group][width][group], group being 1 for float32, 2 for bfloat16 pairs
};

struct TileTask {
  const std::byte* panel;  // packed, or the weights themselves
  int64_t panel_stride;    // bytes between rows
  int64_t panel_step;      // bytes between lines of 64 bytes in a row
  const std::byte* columns;
  int64_t depth;  // elements, padded
  float* c;       // [panel_rows][c_stride]
  int64_t c_stride;
  bool accumulate;            // else c is overwritten
  const std::byte* prefetch;  // weights of the next panel: prefetch_rows lines for each 64 bytes of a row
  int64_t prefetch_stride;
  int64_t prefetch_rows;
};

inline constexpr int kMaxTileWidths = 2;

struct TileKernel {
  int64_t panel_rows = 0;   // weight rows of a panel, which is rows of c
  int64_t depth_block = 0;  // elements of a panel row at most
  int64_t depth_multiple = 0;
  int64_t panel_bytes = 0;
  int64_t panel_stride = 0;  // of a packed panel, as in TileTask
  int64_t panel_step = 0;
  int64_t direct_columns = 0;  // up to so many rows of x weights are used in place; 0 where they are converted
  int64_t x_element_size = 0;           // of packed x
  int64_t widths[kMaxTileWidths] = {};  // columns of a tile, widest first
  void (*run[kMaxTileWidths])(const TileTask&) = {};
  void (*begin)() = nullptr;  // around all other calls of one product, on its thread; may be null
  void (*end)() = nullptr;
  void (*pack_panel)(const PanelTask&) = nullptr;
  void (*pack_columns)(const ColumnsTask&) = nullptr;
  // y[m * y_stride + n] = c[n * c_stride + m]
  void (*transpose)(const float* c, int64_t c_stride, int64_t n, int64_t m, float* y, int64_t y_stride) = nullptr;
};

// The kernels for one kind of call. Up to `dot_rows` rows of x the dot kernel is the faster one.
struct LinearKernels {
  DotKernel dot;
  TileKernel tile;
  int64_t dot_rows = 0;
};

// float32 arithmetic (Highway): every level up to avx512 has it, for all weights.
const LinearKernels& highway_kernels(Isa isa, DType weight_dtype);

// Both operands bfloat16; null where this build has none.
const LinearKernels* bfloat16_kernels(Isa isa);

void run_dot(const LinearArgs& args, const DotKernel& kernel, LinearScratch& scratch);
void run_tiled(const LinearArgs& args, const TileKernel& kernel, LinearScratch& scratch);

// In pieces of the contraction, as linear_chunks in linear.h says.
void run_dot_chunks(const LinearArgs& args, const Chunks& chunks, const DotKernel& kernel, LinearScratch& scratch);
void run_tiled_chunks(const LinearArgs& args, const Chunks& chunks, const TileKernel& kernel, LinearScratch& scratch);

}  // namespace heddle::cpu
