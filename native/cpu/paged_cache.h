// Addresses in the paged KV cache [2, blockCount, kvHeadCount, blockSize, headDim].
// Rule: position p of a sequence is row p % blockSize of block blockTable[sequence][p / blockSize].
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/backend.h"

namespace heddle::cpu {

class PagedCache {
 public:
  enum Part { keys, values };

  PagedCache(const Tensor& cache, const StepView& step, const AttentionSpec& spec)
      : data_(static_cast<char*>(cache.buffer.data())), dtype_(cache.dtype), step_(step), spec_(spec) {}

  DType dtype() const { return dtype_; }

  // Rows of consecutive positions lie one after another as far as contiguous_rows says.
  void* row(Part part, int64_t sequence, int64_t position, int64_t kv_head) const {
    const int64_t block = step_.block_table[sequence * step_.blocks_per_sequence + position / spec_.block_size];
    const int64_t plane = (part == values ? spec_.block_count : 0) + block;
    const int64_t index = (plane * spec_.kv_head_count + kv_head) * spec_.block_size + position % spec_.block_size;
    return data_ + static_cast<size_t>(index * spec_.head_dim) * size_of(dtype_);
  }
  int64_t contiguous_rows(int64_t position, int64_t end) const {
    return std::min(end - position, spec_.block_size - position % spec_.block_size);
  }

 private:
  char* data_;
  DType dtype_;
  const StepView& step_;
  const AttentionSpec& spec_;
};

}  // namespace heddle::cpu
