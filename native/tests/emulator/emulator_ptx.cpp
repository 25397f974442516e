// The tensor core instructions of cuda/ptx.cuh for a whole warp. Rule: the layouts of fragments are those of the PTX ISA
// (mma.m16n8k16, ldmatrix), written here as it states them.
#include "emulator_ptx.h"

#include <chrono>
#include <cstring>

#include "core/dtype.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace heddle::emulator {
namespace {

void expect_whole_warp(unsigned lane_count) {
  if (lane_count != kWarpSize) fail_kernel("a tensor core operation of a warp with fewer than 32 lanes", Where::current());
}

// The 16-byte rows whose addresses 32 lanes gave: rows 8m to 8m + 7 are those of matrix m.
void gather_rows(void* const* lanes, uint16_t (&rows)[32][8]) {
  for (unsigned i = 0; i < 32; ++i) {
    const void* address = static_cast<const MatrixLoad*>(lanes[i])->address;
    if (reinterpret_cast<uintptr_t>(address) % 16 != 0) fail_kernel("ldmatrix from an address that is not 16-byte aligned", Where::current());
    std::memcpy(rows[i], address, 16);
  }
}

// Fragments: lane i holds, of a row, the neighbours 2 (i % 4) and 2 (i % 4) + 1 of row i / 4.
template <bool Transposed>
void load_matrices(void* const* lanes, unsigned lane_count) {
  expect_whole_warp(lane_count);
  uint16_t rows[32][8];
  gather_rows(lanes, rows);
  for (unsigned i = 0; i < 32; ++i) {
    const unsigned row = i / 4;
    const unsigned column = 2 * (i % 4);
    for (unsigned m = 0; m < 4; ++m) {
      const uint16_t low = Transposed ? rows[8 * m + column][row] : rows[8 * m + row][column];
      const uint16_t high = Transposed ? rows[8 * m + column + 1][row] : rows[8 * m + row][column + 1];
      static_cast<MatrixLoad*>(lanes[i])->registers[m] = uint32_t{low} | uint32_t{high} << 16;
    }
  }
}

template <float (*ToFloat)(uint16_t)>
void unpack(uint32_t pair, float& low, float& high) {
  low = ToFloat(static_cast<uint16_t>(pair));
  high = ToFloat(static_cast<uint16_t>(pair >> 16));
}

// a: registers 0 to 3 hold rows g, g + 8, g, g + 8 (g = lane / 4) of columns 2t, 2t, 2t + 8, 2t + 8 (t = lane % 4) and their right
// neighbours. b: registers 0, 1 hold rows 2t, 2t + 8 and the row below, of column g. d: rows g, g, g + 8, g + 8, columns 2t, 2t + 1, twice.
template <float (*ToFloat)(uint16_t)>
void multiply(void* const* lanes, unsigned lane_count) {
  expect_whole_warp(lane_count);
  float a[16][16];
  float b[16][8];
  float d[16][8];
  for (unsigned i = 0; i < 32; ++i) {
    const auto* lane = static_cast<const MatrixProduct*>(lanes[i]);
    const unsigned g = i / 4;
    const unsigned t = i % 4;
    for (unsigned r = 0; r < 4; ++r) {
      float* pair = &a[g + 8 * (r % 2)][2 * t + 8 * (r / 2)];
      unpack<ToFloat>(lane->a[r], pair[0], pair[1]);
      d[g + 8 * (r / 2)][2 * t + r % 2] = lane->d[r];
    }
    for (unsigned r = 0; r < 2; ++r) unpack<ToFloat>(lane->b[r], b[2 * t + 8 * r][g], b[2 * t + 8 * r + 1][g]);
  }
  for (unsigned i = 0; i < 16; ++i) {
    float sum[8] = {};
    for (unsigned k = 0; k < 16; ++k) {
      for (unsigned j = 0; j < 8; ++j) sum[j] += a[i][k] * b[k][j];
    }
    for (unsigned j = 0; j < 8; ++j) d[i][j] += sum[j];
  }
  for (unsigned i = 0; i < 32; ++i) {
    for (unsigned r = 0; r < 4; ++r) static_cast<MatrixProduct*>(lanes[i])->d[r] = d[i / 4 + 8 * (r / 2)][2 * (i % 4) + r % 2];
  }
}

}  // namespace

void run_matrix_load(void* const* lanes, unsigned lane_count) { load_matrices<false>(lanes, lane_count); }
void run_matrix_load_transposed(void* const* lanes, unsigned lane_count) { load_matrices<true>(lanes, lane_count); }
void run_mma_bfloat16(void* const* lanes, unsigned lane_count) { multiply<bfloat16_to_float>(lanes, lane_count); }
void run_mma_float16(void* const* lanes, unsigned lane_count) { multiply<float16_to_float>(lanes, lane_count); }

void expect_aligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) fail_kernel("an access that is not aligned to its size", Where::current());
}

// One instruction of 16 bytes, which processors with AVX never tear.
#if defined(__x86_64__)
void store_16(void* address, uint4 value) {
  expect_aligned(address, 16);
  __m128i v;
  std::memcpy(&v, &value, 16);
  asm volatile("movdqa %1, %0" : "=m"(*static_cast<__m128i*>(address)) : "x"(v));
}
uint4 load_16(const void* address) {
  expect_aligned(address, 16);
  __m128i v;
  asm volatile("movdqa %1, %0" : "=x"(v) : "m"(*static_cast<const __m128i*>(address)));
  uint4 value;
  std::memcpy(&value, &v, 16);
  return value;
}
#else
__extension__ typedef unsigned __int128 Wide;
void store_16(void* address, uint4 value) {
  expect_aligned(address, 16);
  Wide v;
  std::memcpy(&v, &value, 16);
  __atomic_store_n(static_cast<Wide*>(address), v, __ATOMIC_RELAXED);
}
uint4 load_16(const void* address) {
  expect_aligned(address, 16);
  const Wide v = __atomic_load_n(static_cast<const Wide*>(address), __ATOMIC_RELAXED);
  uint4 value;
  std::memcpy(&value, &v, 16);
  return value;
}
#endif

uint64_t clock_nanoseconds() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

}  // namespace heddle::emulator
