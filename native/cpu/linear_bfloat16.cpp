// Kernels whose two operands are bfloat16: which of them an instruction set has.
#include "cpu/linear_kernels.h"

#if defined(__x86_64__)
#include "cpu/linear_amx_kernel.h"
#include "cpu/linear_avx512bf16.h"
#endif

namespace heddle::cpu {

#if defined(__x86_64__)

const LinearKernels* bfloat16_kernels(Isa isa) {
  // Rows of x up to which the dot kernel is the faster one: measured against pairs; AMX overtakes it between 4 and 16.
  static const LinearKernels with_pairs = {avx512bf16::dot_kernel(), avx512bf16::tile_kernel(), 24};
  static const LinearKernels with_tiles = {avx512bf16::dot_kernel(), amx::tile_kernel<amx::HardwareTiles>(), 6};
  if (isa == Isa::amx) return &with_tiles;
  return isa == Isa::avx512bf16 ? &with_pairs : nullptr;
}

#else

const LinearKernels* bfloat16_kernels(Isa) { return nullptr; }

#endif

}  // namespace heddle::cpu
