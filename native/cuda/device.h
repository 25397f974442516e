// One rank's GPU as its operations see it: where to launch, what the chip is, and scratch memory between kernels of one stream.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/runtime.h"

namespace heddle::cuda {

class MatmulLibrary;  // linear_lt.h: cuBLASLt with its plans
class PromptLibrary;  // attention_library.h: cuDNN with its plans

// Scratch of different kinds may be in use at the same time, by one operation or by neighbours in the stream.
enum class Scratch : uint8_t {
  linear_input,      // x rounded or normalised for a matrix product
  linear_partial,    // partial sums of a split matrix product
  linear_library,    // cuBLASLt's workspace
  attention_partial, // partial outputs, maxima and sums of split attention
  attention_counter, // zero between kernels
  attention_library, // what a library's attention reads beside the queries, and its workspace
  experts,           // what the experts of a mixture hand on
  sample,
  gather,
  count,
};

class Device {
 public:
  // Makes a stream on GPU `ordinal`, which becomes the current device of the calling thread: a rank's thread keeps it for life.
  // Throws unavailable for a number that does not exist.
  explicit Device(int ordinal, int rank = 0);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  int ordinal() const { return ordinal_; }
  int rank() const { return rank_; }
  cudaStream_t stream() const { return stream_.get(); }
  int sm_count() const { return sm_count_; }
  int compute_capability() const { return compute_capability_; }     // 90 for 9.0
  size_t l2_bytes() const { return l2_bytes_; }
  size_t shared_bytes_per_block() const { return shared_bytes_per_block_; }  // opt-in limit
  const std::string& name() const { return name_; }                  // "NVIDIA H200"
  bool dependent_launch() const { return compute_capability_ >= 90; }

  // Not zeroed. Throws out_of_memory naming the rank, `what`, the need and the free bytes.
  Buffer allocate(size_t bytes, const char* what) const;

  // At least `bytes` of the kind, zeroed when it is made or grows; a larger request of the same kind moves it, and kernels that were
  // submitted before keep the old memory. It must not grow while a graph is captured: then it throws device_failed. Whoever captures
  // runs the same step eagerly first.
  void* scratch(Scratch kind, size_t bytes) const;
  // Advances whenever scratch moves: graphs captured before hold stale addresses.
  uint64_t scratch_epoch() const { return scratch_epoch_; }

  bool capturing() const;                             // a graph is being captured on the stream

  MatmulLibrary* matmul = nullptr;                    // null: no cuBLASLt; not owned
  PromptLibrary* prompts = nullptr;                   // null: own kernels alone; not owned
  bool reproducible = false;                          // no result may depend on how many columns or heads this rank has

 private:
  int ordinal_;
  int rank_;
  Stream stream_;
  int sm_count_ = 0;
  int compute_capability_ = 0;
  size_t l2_bytes_ = 0;
  size_t shared_bytes_per_block_ = 0;
  std::string name_;
  mutable std::array<Buffer, static_cast<size_t>(Scratch::count)> scratch_;
  mutable std::vector<Buffer> outgrown_;
  mutable uint64_t scratch_epoch_ = 0;
};

}  // namespace heddle::cuda
