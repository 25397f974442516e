// heddle_cuda_linear_asked: times linear layers of any shape on GPU 0, one line of JSON for each line asked on stdin, as the CPU's
// `heddle_linear_bench ask` does.
//   ceilings            read bandwidth, and the rate of a product so large that nothing but arithmetic counts
//   IN OUT ROWS         bfloat16: seconds of one product, those of cuBLASLt where it was found, and how far samples are from double precision
// Weights are cold: distinct ones, together more than four times L2, in one CUDA graph.
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <sstream>

#include "../bench_line.h"
#include "cuda/dynlib.h"
#include "cuda/linear.h"
#include "cuda/linear_lt.h"
#include "on_device.h"
#include "timing.h"
#if !defined(HEDDLE_CUDA_EMULATED)
#include "read_bandwidth.h"
#endif

namespace heddle::test {

// The registry of test.h is not part of this program.
void record_failure(const std::string& message) { std::fprintf(stderr, "%s\n", message.c_str()); }

namespace {

constexpr DType kType = DType::bfloat16;
constexpr int kReplays = 9;
constexpr int64_t kSamples = 16;
constexpr int64_t kMostCopies = 64;
#if defined(HEDDLE_CUDA_EMULATED)
constexpr int64_t kLargeProduct = 64;
double read_bandwidth(const cuda::Device&) { return 1e9; }  // an emulator has none
#else
constexpr int64_t kLargeProduct = 8192;
#endif

// Random values, the same ones in every buffer; of odd length, so that no two rows are alike. A GPU that multiplies zeros draws less power
// and runs faster.
const std::vector<float>& pattern() {
  static const std::vector<float> values = as_held(Random(1).uniform_vector((size_t{1} << 22) - 3), kType);
  return values;
}

double element(int64_t index) { return pattern()[static_cast<size_t>(index) % pattern().size()]; }

Buffer random_memory(const cuda::Device& device, int64_t elements) {
  static const std::vector<uint8_t> part = encoded(pattern(), kType);
  Buffer buffer = cuda::device_memory(static_cast<size_t>(elements) * size_of(kType), "bench");
  for (size_t done = 0; done < buffer.bytes(); done += part.size())
    to_device(device, static_cast<uint8_t*>(buffer.data()) + done, part.data(), std::min(part.size(), buffer.bytes() - done));
  return buffer;
}

struct Timed {
  double seconds = 0, library_seconds = 0;            // of one product; 0: the library was not found or refused it
  double worst_error = 0;
};

class Linears {
 public:
  Linears() : device_(0) {
    int driver = 0;
    cuda::check(cudaDriverGetVersion(&driver), "bench");
    std::string text;
    table_ = cuda::load_cublaslt({}, driver / 1000, text);
    if (table_) library_ = std::make_unique<cuda::MatmulLibrary>(*table_, device_);
    device_.matmul = library_.get();
  }

  std::string answer(const std::string& line) {
    std::ostringstream text;
    if (line == "ceilings") {
      const AskedLinear large = {kLargeProduct, kLargeProduct, kLargeProduct};
      const Timed timed = time(large);
      const double seconds = timed.library_seconds > 0 ? std::min(timed.seconds, timed.library_seconds) : timed.seconds;
      text << "{\"isa\":\"bfloat16\",\"device\":\"" << device_.name() << "\",\"bytesPerSecond\":" << read_bandwidth(device_)
           << ",\"operationsPerSecond\":{\"bfloat16\":" << large.operations() / seconds << "}}";
    } else {
      const Timed timed = time(asked_linear(line));
      text << "{\"seconds\":" << timed.seconds << ",\"worstError\":" << timed.worst_error;
      if (timed.library_seconds > 0) text << ",\"librarySeconds\":" << timed.library_seconds;
      text << "}";
    }
    return text.str();
  }

 private:
  Timed time(const AskedLinear& asked) {
    const Buffer x = random_memory(device_, asked.rows * asked.in), y = random_memory(device_, asked.rows * asked.out);
    std::vector<Tensor> weights;
    for (int64_t copy = copies(asked); copy > 0; --copy)
      weights.push_back({kType, {asked.out, asked.in}, TensorRole::weight, random_memory(device_, asked.out * asked.in)});
    const auto call_of = [&](const Tensor& weight) {
      cuda::LinearCall call;
      call.weight = &weight;
      call.x = {x.data(), kType, asked.rows, asked.in};
      call.y = {y.data(), kType, asked.rows, asked.out};
      return call;
    };
    bool taken = library_ != nullptr;
    Timed timed;
    if (taken) {
      timed.library_seconds = seconds_of_each(weights, [&](const Tensor& weight) { taken = library_->run(call_of(weight)) && taken; });
      if (!taken) timed.library_seconds = 0;
    }
    timed.seconds = seconds_of_each(weights, [&](const Tensor& weight) { cuda::linear(device_, call_of(weight)); });
    timed.worst_error = worst_error(asked, y);
    return timed;
  }

  int64_t copies(const AskedLinear& asked) const {
    const double bytes = static_cast<double>(asked.in * asked.out) * size_of(kType);
    return std::clamp<int64_t>(static_cast<int64_t>(4.0 * static_cast<double>(device_.l2_bytes()) / bytes) + 1, 1, kMostCopies);
  }

  template <typename Run>
  double seconds_of_each(const std::vector<Tensor>& weights, Run run) {
    const auto all = [&] {
      for (const Tensor& weight : weights) run(weight);
    };
    all();                                            // makes plans, takes scratch memory
    wait_for(device_);
    return median_seconds(device_, kReplays, all) / static_cast<double>(weights.size());
  }

  // Beyond the rounding of y itself, as a share of the sum of the products' magnitudes.
  double worst_error(const AskedLinear& asked, const Buffer& y) {
    double worst = 0;
    for (int64_t i = 0; i < kSamples; ++i) {
      const int64_t row = random_.below(asked.rows), column = random_.below(asked.out);
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < asked.in; ++k) {
        const double product = element(row * asked.in + k) * element(column * asked.in + k);
        sum += product;
        magnitude += std::abs(product);
      }
      std::vector<uint8_t> bits(size_of(kType));
      to_host(device_, bits.data(), static_cast<const uint8_t*>(y.data()) + static_cast<size_t>(row * asked.out + column) * bits.size(), bits.size());
      const double error = std::abs(decoded(bits, kType)[0] - sum) - rounding_of(kType) * std::abs(sum);
      worst = std::max(worst, error / magnitude);
    }
    return worst;
  }

  cuda::Device device_;
  std::unique_ptr<cuda::LtTable> table_;
  std::unique_ptr<cuda::MatmulLibrary> library_;
  Random random_{2};
};

}  // namespace
}  // namespace heddle::test

int main() {
  try {
    heddle::test::Linears linears;
    heddle::test::answer_lines([&](const std::string& line) { return linears.answer(line); });
    return 0;
  } catch (const heddle::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
