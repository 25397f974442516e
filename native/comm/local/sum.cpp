#include "comm/local/sum.h"

#include <algorithm>
#include <cstdint>

#include "core/sum_tree.h"

namespace heddle::comm {

namespace {

constexpr size_t kChunk = 1024;  // elements: a chunk of y stays in the first-level cache between passes

using Floats = const float* __restrict__;

void add_two(Floats a, Floats b, float* __restrict__ y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = a[i] + b[i];
}

void add_four(Floats a, Floats b, Floats c, Floats d, float* __restrict__ y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = (a[i] + b[i]) + (c[i] + d[i]);
}

// y += a, in place
void accumulate(Floats a, float* __restrict__ y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] += a[i];
}

// Elements [start, start + count) of some sources; `count` is kChunk at most.
struct Chunk {
  const std::vector<const void*>& sources;
  DType dtype;
  size_t start;
  size_t count;

  const float* floats(size_t source) const { return static_cast<const float*>(sources[source]) + start; }
  const uint16_t* halves(size_t source) const { return static_cast<const uint16_t*>(sources[source]) + start; }
};

// y = sources[first] + … of `source_count` of them, as core/sum_tree.h says.
void sum_branch(const Chunk& chunk, size_t first, size_t source_count, float* y) {
  const bool single = chunk.dtype == DType::float32;
  if (source_count == 1) {
    if (single) std::copy_n(chunk.floats(first), chunk.count, y);
    else convert(chunk.halves(first), chunk.dtype, y, DType::float32, chunk.count);
  } else if (single && source_count == 2) {
    add_two(chunk.floats(first), chunk.floats(first + 1), y, chunk.count);
  } else if (single && source_count == 4) {
    add_four(chunk.floats(first), chunk.floats(first + 1), chunk.floats(first + 2), chunk.floats(first + 3), y, chunk.count);
  } else {
    const size_t branch = first_branch(source_count);
    float second[kChunk];
    sum_branch(chunk, first, branch, y);
    sum_branch(chunk, first + branch, source_count - branch, second);
    accumulate(second, y, chunk.count);
  }
}

}  // namespace

void sum(const std::vector<const void*>& sources, DType dtype, size_t count, void* y) {
  for (size_t start = 0; start < count; start += kChunk) {
    const Chunk chunk{sources, dtype, start, std::min(kChunk, count - start)};
    if (dtype == DType::float32) {
      sum_branch(chunk, 0, sources.size(), static_cast<float*>(y) + start);
    } else {
      float total[kChunk];
      sum_branch(chunk, 0, sources.size(), total);
      convert(total, DType::float32, static_cast<uint16_t*>(y) + start, dtype, chunk.count);
    }
  }
}

}  // namespace heddle::comm
