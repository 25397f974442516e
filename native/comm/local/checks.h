// What a rank may ask of a collective: whatever would reach beyond the memory of a rank is refused before any rank waits.
#pragma once
#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace heddle::comm {

// Each throws invalid_argument "collective: expected, got".
void check_all_gather(int rank, int size, View x, const std::vector<int64_t>& widths, View y);
void check_reduce_scatter(int rank, int size, View x, const std::vector<int64_t>& widths, View y);
void check_send_receive(int size, View x, int to, View y, int from);

}  // namespace heddle::comm
