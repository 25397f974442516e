// The float32 kernels of each instruction set as tables, and up to how many rows of x its dot kernel is the faster one
// (measured). Rule: only the level that was asked for is touched; the code of a higher one, tables included, may not
// run on this CPU.
#include "cpu/linear_highway.h"

#include <array>

namespace heddle::cpu {
namespace {

template <Isa kLevel>
LinearKernels make(DType weight_dtype) {
  constexpr int64_t kDotRows = kLevel == Isa::portable ? 8 : 24;
  return {highway_dot_kernel(kLevel, weight_dtype), highway_tile_kernel(kLevel, weight_dtype), kDotRows};
}

template <Isa kLevel>
const LinearKernels& kernels_of(DType weight_dtype) {
  static const std::array<LinearKernels, 3> table = {make<kLevel>(DType::float32), make<kLevel>(DType::bfloat16),
                                                     make<kLevel>(DType::float16)};
  static_assert(static_cast<int>(DType::float32) == 0 && static_cast<int>(DType::bfloat16) == 1 &&
                static_cast<int>(DType::float16) == 2);
  return table[static_cast<size_t>(weight_dtype)];
}

}  // namespace

const LinearKernels& highway_kernels(Isa isa, DType weight_dtype) {
  if (isa >= Isa::avx512) return kernels_of<Isa::avx512>(weight_dtype);
  if (isa >= Isa::avx2) return kernels_of<Isa::avx2>(weight_dtype);
  return kernels_of<Isa::portable>(weight_dtype);
}

}  // namespace heddle::cpu
