// Parts of the AVX512-BF16 kernels that AMX uses too: how x becomes bfloat16 pairs, and how yᵀ becomes y. x86-64 only.
#pragma once
#include "cpu/linear_kernels.h"

namespace heddle::cpu::avx512bf16 {

inline constexpr int64_t kDepthMultiple = 32;

DotKernel dot_kernel();
TileKernel tile_kernel();
void pack_columns(const ColumnsTask& task);
void transpose(const float* c, int64_t c_stride, int64_t n, int64_t m, float* y, int64_t y_stride);

}  // namespace heddle::cpu::avx512bf16
