// Times a mixture of experts of the CPU backend alone beside a dense MLP that reads as many weights: one rank's part, cold
// bfloat16 weights. Prints one line a case, medians of rounds in which the two take turns.
//   heddle_experts_bench [width inner experts per-token]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cpu/cpu_backend.h"
#include "tensors.h"
#include "test.h"
#include "weight_pool.h"

namespace heddle::test {
namespace {

constexpr DType kType = DType::bfloat16;
constexpr size_t kPoolBytes = size_t{384} << 20;  // of each of the two, at least: far more than the caches hold
constexpr int kRounds = 61;

struct Shape {
  int64_t width = 2048, inner = 768, experts = 128, per_token = 8;
};

class Bench {
 public:
  explicit Bench(const Shape& shape) : shape_(shape), backend_(cpu::create_backend(kType)) {
    while (layers_.size() * layer_bytes() < kPoolBytes) layers_.push_back(random_layer(shape_.experts * shape_.inner));
    const size_t read_bytes = layer_bytes() / static_cast<size_t>(shape_.experts) * static_cast<size_t>(shape_.per_token);
    while (dense_.size() * read_bytes < kPoolBytes) dense_.push_back(random_layer(shape_.per_token * shape_.inner));
  }

  void run(int64_t rows) {
    std::vector<double> experts, dense, route;
    for (int round = -3; round < kRounds; ++round) {
      Matrix x(rows, shape_.width, random_.uniform_vector(static_cast<size_t>(rows * shape_.width)));
      Matrix logits(rows, shape_.experts, random_.uniform_vector(static_cast<size_t>(rows * shape_.experts), -3, 3));
      Matrix routing(rows, shape_.experts), y(rows, shape_.width);
      const auto start = Clock::now();
      backend_->route(logits.view(), {shape_.per_token, true}, routing.view());
      const double routed = seconds_since(start);
      const double mixture = mixture_seconds(x, routing, y), plain = dense_seconds(x, y);
      if (round < 0) continue;
      route.push_back(routed);
      experts.push_back(mixture);
      dense.push_back(plain);
    }
    report(rows, median(route), median(experts), median(dense));
  }

 private:
  struct Layer {
    Tensor gate_up, down;
  };

  size_t layer_bytes() const { return static_cast<size_t>(3 * shape_.width * shape_.inner * shape_.experts) * size_of(kType); }

  // Any bits of small numbers do: times do not depend on them.
  Tensor random_tensor(int64_t out, int64_t in) {
    const auto bytes = static_cast<size_t>(out * in) * size_of(kType);
    Tensor tensor{kType, {out, in}, TensorRole::weight, backend_->allocate(bytes)};
    if (part_.empty()) {
      const std::vector<float> values = random_.uniform_vector((size_t{1} << 20) - 3);
      part_.resize(values.size() * size_of(kType));
      convert(values.data(), DType::float32, part_.data(), kType, values.size());
    }
    auto* data = static_cast<std::byte*>(tensor.buffer.data());
    for (size_t at = 0; at < bytes; at += part_.size()) std::memcpy(data + at, part_.data(), std::min(part_.size(), bytes - at));
    return tensor;
  }

  Layer random_layer(int64_t inner) {
    // The down weights of experts lie one after the other: [experts * width, inner of one].
    const int64_t count = inner / shape_.inner;
    return {random_tensor(2 * inner, shape_.width), random_tensor(count * shape_.width, shape_.inner)};
  }

  double mixture_seconds(Matrix& x, Matrix& routing, Matrix& y) {
    const Layer& layer = layers_[next_layer_++ % layers_.size()];
    ExpertsSpec spec;
    spec.experts_per_token = shape_.per_token;
    const auto start = Clock::now();
    backend_->experts(x.view(), routing.view(), layer.gate_up, layer.down, spec, y.view());
    return seconds_since(start);
  }

  double dense_seconds(Matrix& x, Matrix& y) {
    Layer& layer = dense_[next_dense_++ % dense_.size()];
    const int64_t inner = shape_.per_token * shape_.inner;
    layer.down.shape = {shape_.width, inner};
    Matrix wide(x.rows, 2 * inner), half(x.rows, inner);
    const auto start = Clock::now();
    backend_->linear(x.view(), layer.gate_up, {}, wide.view());
    backend_->gated(wide.view(), Activation::silu, half.view());
    backend_->linear(half.view(), layer.down, {}, y.view());
    return seconds_since(start);
  }

  static double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }

  void report(int64_t rows, double route, double experts, double dense) const {
    const double bytes = static_cast<double>(3 * shape_.width * shape_.inner * shape_.per_token) * 2;
    std::printf("%3ld rows, width %ld, %ld of %ld experts of %ld: route %6.1f us, experts %8.1f us", static_cast<long>(rows),
                static_cast<long>(shape_.width), static_cast<long>(shape_.per_token), static_cast<long>(shape_.experts),
                static_cast<long>(shape_.inner), route * 1e6, experts * 1e6);
    if (rows == 1) {
      std::printf(", %5.1f GB/s; dense %8.1f us, %5.1f GB/s: %.2fx", bytes / experts * 1e-9, dense * 1e6, bytes / dense * 1e-9,
                  (route + experts) / dense);
    }
    std::printf("\n");
  }

  Shape shape_;
  std::unique_ptr<Backend> backend_;
  Random random_{1};
  std::vector<std::byte> part_;
  std::vector<Layer> layers_, dense_;
  size_t next_layer_ = 0, next_dense_ = 0;
};

}  // namespace
}  // namespace heddle::test

int main(int count, char** arguments) {
  using heddle::test::Bench;
  using heddle::test::Shape;
  std::vector<Shape> shapes = {{2048, 768, 128, 8}, {2048, 384, 128, 8}, {1024, 512, 32, 4}, {1024, 128, 64, 8}};
  if (count == 5) shapes = {{std::atoll(arguments[1]), std::atoll(arguments[2]), std::atoll(arguments[3]), std::atoll(arguments[4])}};
  for (const Shape& shape : shapes) {
    Bench bench(shape);
    for (const int64_t rows : {1, 8}) bench.run(rows);
  }
  return 0;
}
