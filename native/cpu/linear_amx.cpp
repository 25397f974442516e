// Weight panels for the AMX kernel: a copy, line by line, into contiguous tiles.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#include "cpu/linear_amx_kernel.h"

#define HEDDLE_TARGET __attribute__((target("avx512f,avx512bw")))

namespace heddle::cpu::amx {

HEDDLE_TARGET void pack_panel(const PanelTask& task) {
  const int64_t whole = task.depth / kStep * kStep;
  const __mmask32 tail = static_cast<__mmask32>((1u << (task.depth - whole)) - 1u);
  const int64_t rows = std::min(task.row_count, kPanelRows);
  for (int64_t row = 0; row < rows; ++row) {
    const std::byte* source = task.weight + row * task.row_stride;
    std::byte* target = task.panel + row * kTileRowBytes;
    for (int64_t k = 0; k < whole; k += kStep, target += kPanelStepBytes) {
      _mm512_store_si512(target, _mm512_loadu_si512(source + k * 2));
    }
    if (tail != 0) _mm512_store_si512(target, _mm512_maskz_loadu_epi16(tail, source + whole * 2));
  }
  for (int64_t row = rows; row < kPanelRows; ++row) {
    std::byte* target = task.panel + row * kTileRowBytes;
    for (int64_t k = 0; k < task.depth; k += kStep, target += kPanelStepBytes)
      _mm512_store_si512(target, _mm512_setzero_si512());
  }
}

}  // namespace heddle::cpu::amx
#endif
