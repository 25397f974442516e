#include "cuda/fill_target.h"

#include <utility>

namespace heddle::cuda {

namespace {

constexpr size_t kAlignment = 64;                     // of every copy's source

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

FillStaging::~FillStaging() {
  if (chunks_[0].memory.data()) (void)cudaStreamSynchronize(device_.stream());
}

char* FillStaging::claim(char* target, size_t bytes) {
  const bool continues = pending_ > 0 && target == target_ + pending_ && used_ + bytes <= kLargestClaim;
  if (!continues) {
    submit();
    begin_copy(target, bytes);
  }
  char* place = staged(used_);
  used_ += bytes;
  pending_ += bytes;
  return place;
}

void FillStaging::submit() {
  const size_t bytes = std::exchange(pending_, 0);
  if (bytes == 0) return;
  check(cudaMemcpyAsync(target_, staged(first_), bytes, cudaMemcpyHostToDevice, device_.stream()), "fill");
}

void FillStaging::begin_copy(char* target, size_t bytes) {
  if (!chunk().memory.data() || aligned(used_) + bytes > kLargestClaim) next_chunk();
  first_ = used_ = aligned(used_);
  target_ = target;
}

void FillStaging::next_chunk() {
  if (chunk().memory.data()) {
    check(cudaEventRecord(chunk().copied.get(), device_.stream()), "fill");
    current_ = (current_ + 1) % kChunks;
  }
  used_ = 0;
  if (chunk().memory.data()) return check(cudaEventSynchronize(chunk().copied.get()), "fill");
  chunk().copied = make_event();
  chunk().memory = pinned_memory(kLargestClaim);
}

}  // namespace heddle::cuda
