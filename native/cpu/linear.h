// The linear layer of the CPU backend, where nearly all of its time goes: y = x · weightᵀ, accumulated in float32.
// The bits of a column follow from the rows of x, the row of the weight, data types and instruction set, not from how many columns there
// are nor from its place among them: parts of a weight on several ranks give what the whole gives on one.
// Single-threaded: a rank is one thread and calls it with its own shard; speed comes from the kernels that linear.cpp
// chooses.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/backend.h"
#include "core/dtype.h"
#include "cpu/cpu_features.h"

namespace heddle::cpu {

struct LinearArgs {
  const float* x = nullptr;      // [rows, in]
  const void* weight = nullptr;  // [out, in] in weight_dtype, as in the checkpoint: aligned to its elements only, never
                                 // repacked for good
  DType weight_dtype = DType::float32;
  float* y = nullptr;  // [rows, out]; not the memory of x
  int64_t rows = 0;
  int64_t in = 0;
  int64_t out = 0;
  // bfloat16 compute: x is rounded to bfloat16 first, on every instruction set alike, so that results differ between
  // them by summation order only. Otherwise x is taken as it is. float16 weights always take it as it is.
  bool round_inputs = false;
  // Elements between the starts of two rows, where it is more than their length: a piece of a contraction, or columns of a wider result.
  int64_t x_stride = 0;
  int64_t weight_stride = 0;
  int64_t y_stride = 0;

  int64_t x_row() const { return x_stride == 0 ? in : x_stride; }
  int64_t weight_row() const { return weight_stride == 0 ? in : weight_stride; }
  int64_t y_row() const { return y_stride == 0 ? out : y_stride; }
};

// Reusable aligned memory of one rank's thread; it grows to what the largest call needs and never shrinks.
class LinearScratch {
 public:
  // At least `bytes`, 64-byte aligned; the content of earlier calls is lost. Throws out_of_memory.
  std::byte* reserve(size_t bytes);
  size_t capacity() const { return capacity_; }

 private:
  struct Release {
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Release> memory_;
  size_t capacity_ = 0;
};

void linear(const LinearArgs& args, LinearScratch& scratch);

// In pieces of the contraction, which have the bits that `linear` gives for each alone, added as core/sum_tree.h says. `chunks` as in
// backend.h: not empty, kMaxChunks at most, their sum not above args.in.
void linear_chunks(const LinearArgs& args, const Chunks& chunks, LinearScratch& scratch);

// The same with a given instruction set, which must be one of supported_isas(): for tests and benchmarks.
void linear(const LinearArgs& args, LinearScratch& scratch, Isa isa);
void linear_chunks(const LinearArgs& args, const Chunks& chunks, LinearScratch& scratch, Isa isa);

}  // namespace heddle::cpu
