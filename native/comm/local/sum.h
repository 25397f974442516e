// The arithmetic of all-reduce: sums in float32 and in the order of a tree, so that equal sources give equal bits anywhere.
#pragma once
#include <cstddef>
#include <vector>

#include "core/dtype.h"

namespace heddle::comm {

// y[i] = the sum of sources[…][i], added as core/sum_tree.h says, for `count` elements; y overlaps no source.
void sum(const std::vector<const void*>& sources, DType dtype, size_t count, void* y);

}  // namespace heddle::comm
