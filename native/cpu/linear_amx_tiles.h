// The eight tile registers of AMX as the kernel in linear_amx_kernel.h uses them: the real ones, or a plain emulation
// that lets the same kernel be tested on a CPU without them. A tile is 16 rows of 64 bytes. x86-64 only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace heddle::cpu::amx {

inline constexpr int kTileCount = 8;
inline constexpr int kTileRows = 16;
inline constexpr int kTileRowBytes = 64;

// Inline assembly rather than intrinsics: those take the register as a literal token, which no template can give.
struct HardwareTiles {
  // Once per thread and call: all tiles get their full shape, and their content is undefined.
  static void configure() {
    struct alignas(64) {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t row_bytes[16] = {kTileRowBytes, kTileRowBytes, kTileRowBytes, kTileRowBytes,
                                kTileRowBytes, kTileRowBytes, kTileRowBytes, kTileRowBytes};
      uint8_t rows[16] = {kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows};
    } configuration;
    static_assert(sizeof(configuration) == 64);
    __asm__ volatile("ldtilecfg %0" : : "m"(configuration));
  }
  static void release() { __asm__ volatile("tilerelease"); }

  template <int kTile>
  static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  static void load(const void* source, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(source), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void store(void* target, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(target), "r"(stride), "i"(kTile) : "memory");
  }
  // sum [16][16] float32 += a [16][32] bfloat16 · b [16 pairs][16][2] bfloat16
  template <int kSum, int kA, int kB>
  static void multiply() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
  }
};

struct EmulatedTiles {
  static void configure() { std::memset(tiles(), 0xff, kTileCount * sizeof(Tile)); }
  static void release() { std::memset(tiles(), 0xff, kTileCount * sizeof(Tile)); }

  template <int kTile>
  static void zero() {
    std::memset(&tiles()[kTile], 0, sizeof(Tile));
  }
  template <int kTile>
  static void load(const void* source, int64_t stride) {
    for (int row = 0; row < kTileRows; ++row) {
      std::memcpy(tiles()[kTile].bytes[row], static_cast<const std::byte*>(source) + row * stride, kTileRowBytes);
    }
  }
  template <int kTile>
  static void store(void* target, int64_t stride) {
    for (int row = 0; row < kTileRows; ++row) {
      std::memcpy(static_cast<std::byte*>(target) + row * stride, tiles()[kTile].bytes[row], kTileRowBytes);
    }
  }
  template <int kSum, int kA, int kB>
  static void multiply() {
    for (int row = 0; row < kTileRows; ++row) {
      for (int column = 0; column < kTileRows; ++column) {
        float sum = element<float>(kSum, row, column);
        for (int k = 0; k < 2 * kTileRows; ++k) {
          sum += bfloat16_to_float(element<uint16_t>(kA, row, k)) *
                 bfloat16_to_float(element<uint16_t>(kB, k / 2, 2 * column + k % 2));
        }
        std::memcpy(tiles()[kSum].bytes[row] + column * 4, &sum, 4);
      }
    }
  }

 private:
  struct Tile {
    std::byte bytes[kTileRows][kTileRowBytes];
  };
  static Tile* tiles() {
    static thread_local Tile tiles[kTileCount];
    return tiles;
  }
  template <typename T>
  static T element(int tile, int row, int column) {
    T value;
    std::memcpy(&value, tiles()[tile].bytes[row] + static_cast<size_t>(column) * sizeof(T), sizeof(T));
    return value;
  }
};

}  // namespace heddle::cpu::amx
