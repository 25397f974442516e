// Places the values of a program in one block of memory: a value's bytes are free again after its last use.
// Rule: no core file but error is needed beside it; the CUDA backend's library has its own copy.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace heddle {

// Bytes of the values of one program. Their sum bounds whatever a plan makes of them, so nothing overflows there.
class ValueBytes {
 public:
  // Of a value with `rows` rows of `width` elements; throws out_of_memory where the sum so far exceeds 2^60.
  size_t add(int64_t rows, int64_t width, size_t element);

 private:
  int64_t sum_ = 0;
};

class WorkspacePlan {
 public:
  // Adds the next value: what it reads, its size (0: none), and whether it may take the memory of its first input.
  void add(const std::vector<int32_t>& inputs, size_t bytes, bool in_place);

  // Decides all offsets; call once, after the last add.
  void place();

  size_t offset(size_t value) const { return values_[value].offset; }
  size_t bytes() const { return bytes_; }

 private:
  struct Value {
    std::vector<int32_t> inputs;
    size_t bytes = 0;
    bool in_place = false;
    size_t last_use = 0;                              // index of the last value that reads it
    size_t offset = 0;
  };

  void find_last_uses();
  bool take_over_first_input(size_t index);
  size_t first_gap(size_t index) const;

  std::vector<Value> values_;
  size_t bytes_ = 0;
};

}  // namespace heddle
