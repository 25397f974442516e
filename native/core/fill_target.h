// Where the bytes of a new tensor are written: its own memory where that is host memory, else staging that is copied there.
#pragma once
#include <cstddef>

namespace heddle {

constexpr size_t kLargestClaim = 8u << 20;            // bytes

// Of one tensor, used by its rank's thread. Claims come in any order, and where they overlap the last one holds. Neighbours that follow
// each other, such as the short rows of a slice, may be copied as one.
class FillTarget {
 public:
  virtual ~FillTarget() = default;

  // Host memory for `bytes` of the tensor from `offset` on, at most kLargestClaim and not 0, aligned for its elements. The caller
  // writes all of it before its next call here; where it cannot, it destroys the target without a further call.
  virtual char* claim(size_t offset, size_t bytes) = 0;

  // All is written. What the rank submits from now on sees it.
  virtual void finish() = 0;
};

class HostFillTarget final : public FillTarget {
 public:
  explicit HostFillTarget(void* memory) : memory_(static_cast<char*>(memory)) {}
  char* claim(size_t offset, size_t) override { return memory_ + offset; }
  void finish() override {}

 private:
  char* memory_;
};

}  // namespace heddle
