// Random weights in huge pages, handed out so that a matrix is cold when its turn comes again, and the best way to read them that is
// known: what a linear layer is judged by.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "tests/test.h"

#if defined(__x86_64__) && !defined(__clang__)
#define HEDDLE_WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define HEDDLE_WIDEST
#endif

namespace heddle::test {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Four far streams, each fetched 1 KB ahead, added up in the widest vectors.
HEDDLE_WIDEST inline uint64_t read_all(const std::byte* base, size_t bytes) {
  typedef uint64_t Line __attribute__((vector_size(64), aligned(8)));
  const size_t part = bytes / 4;
  Line sums[4] = {};
  for (size_t at = 0; at < part; at += 64) {
    for (size_t i = 0; i < 4; ++i) {
      const std::byte* line = base + i * part + at;
      __builtin_prefetch(line + 1024);
      sums[i] += *reinterpret_cast<const Line*>(line);
    }
  }
  uint64_t sum = 0;
  for (const Line& line : sums) {
    for (size_t i = 0; i < 8; ++i) sum += line[i];
  }
  return sum;
}

class WeightPool {
 public:
  WeightPool(DType dtype, size_t bytes) : bytes_(bytes), element_size_(size_of(dtype)) {
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
      throw Error(ErrorCode::out_of_memory, "bench: expected " + std::to_string(bytes_ >> 20) + " MB for weights");
    memory_ = static_cast<std::byte*>(memory);
#ifdef MADV_HUGEPAGE
    madvise(memory_, bytes_, MADV_HUGEPAGE);
#endif
    fill(dtype);
  }
  WeightPool(const WeightPool&) = delete;
  WeightPool& operator=(const WeightPool&) = delete;
  ~WeightPool() { munmap(memory_, bytes_); }

  size_t bytes() const { return bytes_; }

  // A matrix that was not used for longer than any other.
  const std::byte* next(int64_t in, int64_t out) {
    const size_t bytes = static_cast<size_t>(in * out) * element_size_;
    if (bytes > bytes_) throw Error(ErrorCode::invalid_argument, "bench: expected a matrix that fits into the pool");
    return advance(bytes);
  }

  // Seconds per byte of a read-only stream.
  double stream() {
    constexpr size_t kBytes = size_t{64} << 20;
    const std::byte* base = advance(kBytes);
    const auto start = Clock::now();
    volatile uint64_t sink = read_all(base, kBytes);
    static_cast<void>(sink);
    return seconds_since(start) / kBytes;
  }

 private:
  // Uniform in [-1, 1). A part of odd length is repeated, so that no two matrices and no two of their rows are alike.
  void fill(DType dtype) {
    const std::vector<float> values = Random(1).uniform_vector((size_t{1} << 22) - 3);
    std::vector<std::byte> part(values.size() * element_size_);
    convert(values.data(), DType::float32, part.data(), dtype, values.size());
    for (size_t at = 0; at < bytes_; at += part.size())
      std::memcpy(memory_ + at, part.data(), std::min(part.size(), bytes_ - at));
  }

  const std::byte* advance(size_t bytes) {
    if (cursor_ + bytes > bytes_) cursor_ = 0;
    const std::byte* start = memory_ + cursor_;
    cursor_ += bytes;
    return start;
  }

  size_t bytes_;
  size_t element_size_;
  std::byte* memory_ = nullptr;
  size_t cursor_ = 0;
};

}  // namespace heddle::test
