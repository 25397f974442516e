// Sums in the order of core/sum_tree.h, whose terms come one after another: what waits for its other branch stays in registers.
#pragma once
#include <cuda_runtime.h>

namespace heddle::cuda {

// N sums at once, of up to 2^Levels terms. All threads of a warp must come alike.
template <int N, int Levels>
class SumTree {
 public:
  // `sums`: term `index` of `count`, in order from 0 on. After the last one they are the total, before it nothing of use.
  __device__ __forceinline__ void add(float (&sums)[N], int index, int count) {
    const bool last = index + 1 == count;
    bool waits = false;
#pragma unroll
    for (int level = 0; level < Levels; ++level) {
      if (waits) continue;
      if (index >> level & 1) {                       // the first branch of this level has been waiting
#pragma unroll
        for (int i = 0; i < N; ++i) sums[i] = waiting_[level][i] + sums[i];
      } else if (!last) {
#pragma unroll
        for (int i = 0; i < N; ++i) waiting_[level][i] = sums[i];
        waits = true;
      }
    }
  }

 private:
  float waiting_[Levels > 0 ? Levels : 1][N];
};

}  // namespace heddle::cuda
