// How the first bytes of tensors reach the GPU: they are written into page-locked chunks, which the stream copies while the next are
// written. Rule: a chunk is written again only after all copies from it.
#pragma once
#include <array>
#include <cstddef>

#include "core/fill_target.h"
#include "cuda/device.h"

namespace heddle::cuda {

// The chunks of one rank, made when they are first needed and kept from tensor to tensor.
class FillStaging {
 public:
  explicit FillStaging(const Device& device) : device_(device) {}
  ~FillStaging();
  FillStaging(const FillStaging&) = delete;
  FillStaging& operator=(const FillStaging&) = delete;

  // As FillTarget::claim, for device memory at `target`. Claims that continue the last one become one copy with it.
  char* claim(char* target, size_t bytes);
  void submit();                                      // the copy of what was claimed last
  void drop() { pending_ = 0; }                       // forgets what was claimed last

 private:
  static constexpr size_t kChunks = 4;
  struct Chunk {
    Buffer memory;                                    // page-locked [kLargestClaim]
    Event copied;
  };

  void begin_copy(char* target, size_t bytes);
  void next_chunk();
  Chunk& chunk() { return chunks_[current_]; }
  char* staged(size_t offset) { return static_cast<char*>(chunk().memory.data()) + offset; }

  const Device& device_;
  std::array<Chunk, kChunks> chunks_;
  size_t current_ = 0;
  size_t used_ = 0;                                   // bytes of the current chunk
  char* target_ = nullptr;                            // of the copy that is being claimed
  size_t first_ = 0;                                  // where it begins in the chunk
  size_t pending_ = 0;                                // its bytes so far; 0: none
};

class DeviceFillTarget final : public FillTarget {
 public:
  DeviceFillTarget(FillStaging& staging, void* memory) : staging_(staging), memory_(static_cast<char*>(memory)) {}
  ~DeviceFillTarget() override { staging_.drop(); }   // of a fill that failed: nobody wrote it, and its tensor goes

  char* claim(size_t offset, size_t bytes) override { return staging_.claim(memory_ + offset, bytes); }
  void finish() override { staging_.submit(); }       // kernels come later on the same stream

 private:
  FillStaging& staging_;
  char* memory_;
};

}  // namespace heddle::cuda
