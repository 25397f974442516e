// Places the values of a program in one block of memory: a value's bytes are free again after its last use.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace heddle {

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
