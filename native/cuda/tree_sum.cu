// The sum of gathered parts, in the order of core/sum_tree.h: for libraries that move bits, but would add in an order of their own.
#include "cuda/all_reduce.h"
#include "cuda/row_kernels.cuh"
#include "cuda/sum_tree.cuh"

namespace heddle::cuda {

namespace {

template <class T>
__global__ void tree_sum_kernel(const T* parts, int ranks, int64_t count, T* y) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    float sums[1];
    SumTree<1, kPeerLevels> tree;
    for (int rank = 0; rank < ranks; ++rank) {
      sums[0] = to_float(parts[rank * count + i]);
      tree.add(sums, rank, ranks);
    }
    from_float(sums[0], y[i]);
  }
}

}  // namespace

void tree_sum(const Device& device, const void* parts, int ranks, View y) {
  const int64_t count = y.rows * y.width;
  if (count == 0) return;
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    launch("all_reduce", over_elements(device, count), tree_sum_kernel<T>, static_cast<const T*>(parts), ranks, count, static_cast<T*>(y.data));
  });
}

}  // namespace heddle::cuda
