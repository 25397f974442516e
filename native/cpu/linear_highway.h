// The kernels that Highway compiles for every instruction set, for weights of any dtype: float32 arithmetic, x exact or
// rounded.
#pragma once
#include "cpu/linear_kernels.h"

namespace heddle::cpu {

DotKernel highway_dot_kernel(Isa isa, DType weight_dtype);
TileKernel highway_tile_kernel(Isa isa, DType weight_dtype);

}  // namespace heddle::cpu
