// The linear layer in pieces of its contraction, each a sum of its own, added as core/sum_tree.h says: bits that do not tell on how many
// ranks the pieces are. A piece has the bits that `linear` gives for it alone.
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

}  // namespace heddle::cpu
