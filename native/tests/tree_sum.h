// The order of sums that core/sum_tree.h promises, spelled out: what tests of collectives and of kernels in pieces compare bits with.
#pragma once
#include <cstddef>
#include <vector>

namespace heddle::test {

inline float tree_sum(const float* parts, size_t count) {
  if (count == 1) return parts[0];
  if (count == 2) return parts[0] + parts[1];
  size_t left = 2;
  while (2 * left < count) left *= 2;
  return tree_sum(parts, left) + tree_sum(parts + left, count - left);
}

inline float tree_sum(const std::vector<float>& parts) { return tree_sum(parts.data(), parts.size()); }

}  // namespace heddle::test
