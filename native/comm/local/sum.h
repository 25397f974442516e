// The arithmetic of all-reduce: sums in float32 and in the order of the sources, so that equal sources give equal bits
// anywhere.
#pragma once
#include <cstddef>
#include <vector>

#include "core/dtype.h"

namespace heddle::comm {

// y[i] = sources[0][i] + sources[1][i] + … for `count` elements; y overlaps no source.
void sum(const std::vector<const void*>& sources, DType dtype, size_t count, void* y);

}  // namespace heddle::comm
