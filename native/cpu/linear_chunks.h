// The linear layer in pieces of its contraction, each a sum of its own, added as core/sum_tree.h says: bits that do not tell on how many
// ranks the pieces are.
#pragma once
#include "core/backend.h"
#include "cpu/linear.h"

namespace heddle::cpu {

// Memory of one rank's thread: of the kernels, and for the sums of the pieces.
struct ChunksScratch {
  LinearScratch& linear;
  LinearScratch& sums;
};

// `args` without strides; `chunks` as in backend.h, not empty, their sum at most args.in.
void linear_chunks(const LinearArgs& args, const Chunks& chunks, const ChunksScratch& scratch, Isa isa);

// x[first] = x[first] + … + x[first + count - 1] in the order of the tree; x[i] begins i * stride elements after x and has `length` of them,
// the others are left with sums of branches.
void add_tree(float* x, int64_t stride, size_t first, size_t count, int64_t length);

}  // namespace heddle::cpu
