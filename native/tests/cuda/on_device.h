// Matrices, tensors, steps and a group of one for tests of the CUDA backend, on a GPU or on the emulator.
// Rule: outputs start as NaN and stand between guards, so that what a kernel leaves out or writes too far shows.
#pragma once
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "cuda/device.h"
#include "cuda/device_communicator.h"
#include "cuda/step_state.h"
#include "../tensors.h"
#include "../test.h"

namespace heddle::test {

inline void wait_for(const cuda::Device& device) { cuda::check(cudaStreamSynchronize(device.stream()), "test"); }

inline void to_device(const cuda::Device& device, void* target, const void* source, size_t bytes) {
  if (bytes == 0) return;
  cuda::check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, device.stream()), "test");
  wait_for(device);
}

inline void to_host(const cuda::Device& device, void* target, const void* source, size_t bytes) {
  if (bytes == 0) return;
  cuda::check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost, device.stream()), "test");
  wait_for(device);
}

// Elements as `dtype` holds them.
inline std::vector<uint8_t> encoded(const std::vector<float>& values, DType dtype) {
  std::vector<uint8_t> bytes(values.size() * size_of(dtype));
  if (!values.empty()) convert(values.data(), DType::float32, bytes.data(), dtype, values.size());
  return bytes;
}

inline std::vector<float> decoded(const std::vector<uint8_t>& bytes, DType dtype) {
  std::vector<float> values(bytes.size() / size_of(dtype));
  if (!values.empty()) convert(bytes.data(), dtype, values.data(), DType::float32, values.size());
  return values;
}

// What is left of the values once `dtype` has held them: the inputs that a reference must take.
inline std::vector<float> as_held(const std::vector<float>& values, DType dtype) { return decoded(encoded(values, dtype), dtype); }

// Relative error of one rounding to `dtype`.
inline double rounding_of(DType dtype) {
  return dtype == DType::float32 ? 0x1p-24 : dtype == DType::bfloat16 ? 0x1p-8 : 0x1p-11;
}

// A matrix of activations on the device. `offset` elements stand before it, so that 16-byte alignment can be taken away.
class DeviceMatrix {
 public:
  DeviceMatrix(const cuda::Device& device, int64_t rows, int64_t width, DType dtype = DType::float32, int64_t offset = 0)
      : device_(device), dtype_(dtype), rows_(rows), width_(width), start_(kGuard + static_cast<size_t>(offset) * size_of(dtype)),
        memory_(cuda::device_memory(start_ + bytes() + kGuard, "test matrix")) {
    cuda::check(cudaMemsetAsync(memory_.data(), 0xff, memory_.bytes(), device.stream()), "test matrix");  // NaN in every dtype
  }
  DeviceMatrix(const cuda::Device& device, const Matrix& values, DType dtype = DType::float32, int64_t offset = 0)
      : DeviceMatrix(device, values.rows, values.width, dtype, offset) {
    write(values.values);
  }

  View view() const { return {static_cast<uint8_t*>(memory_.data()) + start_, dtype_, rows_, width_}; }
  // The first rows, for kernels that get a part of a workspace.
  View view(int64_t rows) const { return {view().data, dtype_, rows, width_}; }

  void write(const std::vector<float>& values) { to_device(device_, view().data, encoded(values, dtype_).data(), bytes()); }

  // The elements; records a failure where something wrote around them.
  std::vector<float> read(const std::string& what = "matrix") const {
    std::vector<uint8_t> all(memory_.bytes());
    to_host(device_, all.data(), memory_.data(), all.size());
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(start_);
    const auto end = begin + static_cast<std::ptrdiff_t>(bytes());
    const auto untouched = [](uint8_t byte) { return byte == 0xff; };
    check(std::all_of(all.begin(), begin, untouched), what, ": something was written before the first element");
    check(std::all_of(end, all.end(), untouched), what, ": something was written behind the last element");
    return decoded({begin, end}, dtype_);
  }
  Matrix matrix(const std::string& what = "matrix") const { return Matrix(rows_, width_, read(what)); }

 private:
  static constexpr size_t kGuard = 256;
  size_t bytes() const { return static_cast<size_t>(rows_ * width_) * size_of(dtype_); }

  const cuda::Device& device_;
  DType dtype_;
  int64_t rows_;
  int64_t width_;
  size_t start_;
  Buffer memory_;
};

// A weight, vector or cache on the device.
inline Tensor tensor_on(const cuda::Device& device, const std::vector<float>& values, std::vector<int64_t> shape,
                        DType dtype = DType::float32, TensorRole role = TensorRole::weight) {
  Tensor tensor{dtype, std::move(shape), role, cuda::device_memory(values.size() * size_of(dtype), "test tensor")};
  to_device(device, tensor.buffer.data(), encoded(values, dtype).data(), values.size() * size_of(dtype));
  return tensor;
}

inline std::vector<float> read_tensor(const cuda::Device& device, const Tensor& tensor) {
  std::vector<uint8_t> bytes(static_cast<size_t>(tensor.count()) * size_of(tensor.dtype));
  to_host(device, bytes.data(), tensor.buffer.data(), bytes.size());
  return decoded(bytes, tensor.dtype);
}

// A step on the device, alone or padded to a bucket. Tokens of slots read what `slots` holds.
struct StepOnDevice {
  cuda::SlotTokens slots;
  cuda::StepState state;
  cuda::StepShape shape;
  cuda::DeviceStep step;

  StepOnDevice(const cuda::Device& device, const Step& host) : StepOnDevice(device, host, cuda::shape_of(host)) {}
  StepOnDevice(const cuda::Device& device, const Step& host, const cuda::StepShape& room)
      : slots(device), state(device, slots, room.tokens, room.sequences), shape(room), step(state.submit(host, room)) {}
};

inline std::vector<int32_t> read_int32(const cuda::Device& device, const int32_t* data, int64_t count) {
  std::vector<int32_t> values(static_cast<size_t>(count));
  to_host(device, values.data(), data, values.size() * sizeof(int32_t));
  return values;
}

// The communicator of a group of one: nothing to add up, nothing to wait for.
class SingleRank final : public cuda::DeviceCommunicator {
 public:
  explicit SingleRank(const cuda::Device& device) : device_(&device) {}

  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce(View) override {}
  void all_gather(View x, const std::vector<int64_t>&, View y) override {
    copy(x.data, static_cast<size_t>(x.rows * x.width) * size_of(x.dtype), y.data);
  }
  void reduce_scatter(View x, const std::vector<int64_t>&, View y) override {
    copy(x.data, static_cast<size_t>(x.rows * x.width) * size_of(x.dtype), y.data);
  }
  void send_receive(View x, int, View y, int) override { copy(x.data, static_cast<size_t>(x.rows * x.width) * size_of(x.dtype), y.data); }
  void exchange(const void* mine, size_t bytes, void* all) override { std::memcpy(all, mine, bytes); }
  void abort(const std::string& reason) noexcept override { reason_ = reason; }

  void attach(const cuda::Device& device) override { device_ = &device; }
  bool fuses(View, const cuda::AllReduceEpilogue&) const override { return false; }
  void all_reduce_fused(View, const cuda::AllReduceEpilogue&) override {
    throw Error(ErrorCode::invalid_argument, "SingleRank: expected all_reduce, got all_reduce_fused");
  }
  void gather(const void* mine, size_t bytes, void* all) override { copy(mine, bytes, all); }
  void expect_healthy() override {
    if (!reason_.empty()) throw Error(ErrorCode::peer_failed, reason_);
  }
  void barrier() override {}

 private:
  void copy(const void* source, size_t bytes, void* target) {
    if (source == target || bytes == 0) return;
    cuda::check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, device_->stream()), "SingleRank");
  }

  const cuda::Device* device_;
  std::string reason_;
};

}  // namespace heddle::test
