// The AMX kernel of the linear layer over either kind of tiles: two tiles of weights by one or two tiles of x at a
// time. Weights are the left operand, row-major as stored, so that only x has to be packed into pairs. x86-64 only.
#pragma once
#include "cpu/linear_amx_tiles.h"
#include "cpu/linear_avx512bf16.h"
#include "cpu/linear_kernels.h"

namespace heddle::cpu::amx {

inline constexpr int64_t kPanelRows = 2 * kTileRows;
inline constexpr int64_t kDepthBlock = 1024;
inline constexpr int64_t kStep = 32;                                    // elements of depth in a tile
inline constexpr int64_t kPanelStepBytes = kPanelRows * kTileRowBytes;  // the panel is [depth / 32][kPanelRows][32]

// Needs AVX-512. Tiles of a panel are contiguous: rows of a power of two apart would share few cache sets.
void pack_panel(const PanelTask& task);

// Sums stand in tiles 0 to 3 (weight tile * kColumnTiles + x tile), weights in 4 and 5, x in 6 and 7.
template <class Tiles, int kColumnTiles>
void tile(const TileTask& task) {
  const int64_t c_stride = task.c_stride * 4;
  constexpr int64_t kColumnStride = kColumnTiles * kTileRowBytes;
  float* lower = task.c + kTileRows * task.c_stride;
  if (task.accumulate) {
    Tiles::template load<0>(task.c, c_stride);
    Tiles::template load<kColumnTiles>(lower, c_stride);
    if constexpr (kColumnTiles == 2) {
      Tiles::template load<1>(task.c + kTileRows, c_stride);
      Tiles::template load<3>(lower + kTileRows, c_stride);
    }
  } else {
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    if constexpr (kColumnTiles == 2) {
      Tiles::template zero<2>();
      Tiles::template zero<3>();
    }
  }
  const std::byte* panel = task.panel;
  const std::byte* x = task.columns;
  const std::byte* prefetch = task.prefetch;
  for (int64_t k = 0; k < task.depth; k += kStep) {
    Tiles::template load<4>(panel, task.panel_stride);
    Tiles::template load<6>(x, kColumnStride);
    Tiles::template load<5>(panel + kTileRows * task.panel_stride, task.panel_stride);
    Tiles::template multiply<0, 4, 6>();
    if constexpr (kColumnTiles == 2) {
      Tiles::template load<7>(x + kTileRowBytes, kColumnStride);
      Tiles::template multiply<1, 4, 7>();
      Tiles::template multiply<2, 5, 6>();
      Tiles::template multiply<3, 5, 7>();
    } else {
      Tiles::template multiply<1, 5, 6>();
    }
    for (int64_t row = 0; row < task.prefetch_rows; ++row)
      __builtin_prefetch(prefetch + row * task.prefetch_stride, 0, 2);
    panel += task.panel_step;
    x += kTileRows * kColumnStride;
    prefetch += kTileRowBytes;
  }
  Tiles::template store<0>(task.c, c_stride);
  Tiles::template store<kColumnTiles>(lower, c_stride);
  if constexpr (kColumnTiles == 2) {
    Tiles::template store<1>(task.c + kTileRows, c_stride);
    Tiles::template store<3>(lower + kTileRows, c_stride);
  }
}

template <class Tiles>
TileKernel tile_kernel() {
  TileKernel kernel;
  kernel.panel_rows = kPanelRows;
  kernel.panel_stride = kTileRowBytes;
  kernel.panel_step = kPanelStepBytes;
  kernel.direct_columns = 128;
  kernel.depth_block = kDepthBlock;
  kernel.depth_multiple = kStep;
  kernel.panel_bytes = kDepthBlock / kStep * kPanelStepBytes;
  kernel.x_element_size = 2;
  kernel.widths[0] = 2 * kTileRows;
  kernel.widths[1] = kTileRows;
  kernel.run[0] = tile<Tiles, 2>;
  kernel.run[1] = tile<Tiles, 1>;
  kernel.pack_panel = pack_panel;
  kernel.pack_columns = avx512bf16::pack_columns;
  kernel.transpose = avx512bf16::transpose;
  kernel.begin = Tiles::configure;
  kernel.end = Tiles::release;
  return kernel;
}

static_assert(kStep == avx512bf16::kDepthMultiple);

}  // namespace heddle::cpu::amx
