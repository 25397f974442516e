// The order in which sums of float32 are added wherever parts of one contraction meet, on a rank and between ranks: a balanced binary tree,
// ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). Eight parts give the same bits whether one rank has all of them or eight ranks one each.
#pragma once
#include <bit>
#include <cstddef>

namespace heddle {

// How many of `count` parts, two or more, are the first branch: the greatest power of two below `count`.
constexpr size_t first_branch(size_t count) { return std::bit_floor(count - 1); }

}  // namespace heddle
