#include "comm/local/sum.h"

#include <algorithm>
#include <cstdint>

namespace heddle::comm {

namespace {

constexpr size_t kChunk = 1024;  // elements: a chunk of y stays in the first-level cache between passes

using Floats = const float* __restrict__;

void add_two(Floats a, Floats b, float* __restrict__ y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = a[i] + b[i];
}

void add_four(Floats a, Floats b, Floats c, Floats d, float* __restrict__ y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = ((a[i] + b[i]) + c[i]) + d[i];
}

// y += a, in place
void accumulate(Floats a, float* __restrict__ y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] += a[i];
}

void sum_floats(const std::vector<const void*>& sources, size_t start, size_t count, float* y) {
  const auto at = [&](size_t source) { return static_cast<const float*>(sources[source]) + start; };
  size_t next = 2;
  if (sources.size() >= 4) {
    add_four(at(0), at(1), at(2), at(3), y, count);
    next = 4;
  } else if (sources.size() >= 2) {
    add_two(at(0), at(1), y, count);
  } else {
    std::copy_n(at(0), count, y);
  }
  for (; next < sources.size(); ++next) accumulate(at(next), y, count);
}

void sum_halves(const std::vector<const void*>& sources, DType dtype, size_t start, size_t count, uint16_t* y) {
  float total[kChunk];
  float part[kChunk];
  const auto at = [&](size_t source) { return static_cast<const uint16_t*>(sources[source]) + start; };
  convert(at(0), dtype, total, DType::float32, count);
  for (size_t source = 1; source < sources.size(); ++source) {
    convert(at(source), dtype, part, DType::float32, count);
    accumulate(part, total, count);
  }
  convert(total, DType::float32, y, dtype, count);
}

}  // namespace

void sum(const std::vector<const void*>& sources, DType dtype, size_t count, void* y) {
  for (size_t start = 0; start < count; start += kChunk) {
    const size_t part = std::min(kChunk, count - start);
    if (dtype == DType::float32) {
      sum_floats(sources, start, part, static_cast<float*>(y) + start);
    } else {
      sum_halves(sources, dtype, start, part, static_cast<uint16_t*>(y) + start);
    }
  }
}

}  // namespace heddle::comm
