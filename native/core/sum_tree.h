// The order in which sums of float32 are added wherever parts of one contraction meet, on a rank and between ranks: a balanced binary tree,
// ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). Eight parts give the same bits whether one rank has all of them or eight ranks one each.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

namespace heddle {

// How many of `count` parts, two or more, are the first branch: the greatest power of two below `count`.
constexpr size_t first_branch(size_t count) { return std::bit_floor(count - 1); }

// x[first] += the `count` - 1 parts behind it, in the order of the tree: part i begins i * stride elements after x and has `length` of them.
// The other parts are left with sums of branches.
inline void add_tree(float* x, int64_t stride, size_t first, size_t count, int64_t length) {
  if (count < 2) return;
  const size_t branch = first_branch(count);
  add_tree(x, stride, first, branch, length);
  add_tree(x, stride, first + branch, count - branch, length);
  float* sum = x + static_cast<int64_t>(first) * stride;
  const float* term = x + static_cast<int64_t>(first + branch) * stride;
  for (int64_t i = 0; i < length; ++i) sum[i] += term[i];
}

}  // namespace heddle
