// Rank memory that outlives a step: a weight shard or a KV cache. Owns its memory; nothing else but a Program does.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "core/dtype.h"

namespace heddle {

// A block of a backend's memory, released with it.
class Buffer {
 public:
  using Release = void (*)(void* data, size_t bytes);

  Buffer() = default;
  Buffer(void* data, size_t bytes, Release release) : data_(data), bytes_(bytes), release_(release) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
    return *this;
  }
  ~Buffer() {
    if (data_) release_(data_, bytes_);
  }

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  Release release_ = nullptr;
};

enum class TensorRole : uint8_t { weight, cache };

struct Tensor {
  DType dtype = DType::float32;
  std::vector<int64_t> shape;
  TensorRole role = TensorRole::weight;
  Buffer buffer;

  int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  int64_t width() const {  // elements of one row
    int64_t product = 1;
    for (size_t i = 1; i < shape.size(); ++i) product *= shape[i];
    return product;
  }
  int64_t count() const { return rows() * width(); }
};

// A matrix of activations: row-major, contiguous, in a backend's memory, owned by a Program's workspace.
struct View {
  void* data = nullptr;
  DType dtype = DType::float32;
  int64_t rows = 0;
  int64_t width = 0;

  float* floats() const { return static_cast<float*>(data); }
};

}  // namespace heddle
