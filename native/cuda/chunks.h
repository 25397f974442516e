// The pieces of a contraction, as kernels get them. Rule: what a piece's sum is follows from its own elements and the number of rows; not
// from where it lies, how its memory is aligned, how many pieces or columns a rank has: so it is the same at every size of a group.
#pragma once
#include <string>

#include "core/backend.h"
#include "core/error.h"

namespace heddle::cuda {

constexpr int kChunkLevels = 3;                       // of the tree in which the sums of pieces are added
constexpr int kMostChunks = 1 << kChunkLevels;
static_assert(kMostChunks == static_cast<int>(kMaxChunks));

// Piece i: elements from end[i - 1], or 0, to end[i].
struct ChunkTable {
  int count = 1;
  int end[kMostChunks] = {};

  constexpr int begin(int i) const { return i > 0 ? end[i - 1] : 0; }
};

// `chunks` empty: one piece of `length`. Throws invalid_argument.
inline ChunkTable chunk_table(const Chunks& chunks, int64_t length, const char* where) {
  if (chunks.size() > static_cast<size_t>(kMostChunks)) {
    throw Error(ErrorCode::invalid_argument, std::string(where) + ": expected at most " + std::to_string(kMostChunks) + " pieces, got " +
                                                 std::to_string(chunks.size()));
  }
  ChunkTable table;
  table.end[0] = static_cast<int>(length);
  if (chunks.empty()) return table;
  table.count = static_cast<int>(chunks.size());
  int end = 0;
  for (int i = 0; i < table.count; ++i) table.end[i] = end += static_cast<int>(chunks[static_cast<size_t>(i)]);
  return table;
}

}  // namespace heddle::cuda
