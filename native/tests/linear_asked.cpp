#include "tests/linear_asked.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

#include "cpu/linear.h"
#include "tests/arithmetic_peak.h"
#include "tests/bench_line.h"
#include "tests/pin_to.h"
#include "tests/weight_pool.h"

namespace heddle::test {
namespace {

constexpr int kSamples = 16;
constexpr int kStreams = 9;
constexpr DType kType = DType::bfloat16;

std::string ceilings(WeightPool& pool) {
  std::vector<double> streams;
  for (int i = 0; i < kStreams; ++i) streams.push_back(pool.stream());
  std::ostringstream text;
  text << "{\"isa\":\"" << cpu::name_of(cpu::cpu_isa()) << "\",\"bytesPerSecond\":"
       << 1 / *std::min_element(streams.begin(), streams.end()) << ",\"operationsPerSecond\":{";
  const char* separator = "";
  for (const cpu::Isa isa : cpu::supported_isas()) {
    if (isa > cpu::cpu_isa()) break;
    text << separator << "\"" << cpu::name_of(isa) << "\":" << arithmetic_peak(isa);
    separator = ",";
  }
  text << "}}";
  return text.str();
}

float bfloat16_of(const void* values, size_t index) {
  uint16_t bits;
  std::memcpy(&bits, static_cast<const std::byte*>(values) + 2 * index, 2);
  float value;
  convert(&bits, DType::bfloat16, &value, DType::float32, 1);
  return value;
}

float rounded(float value) {
  uint16_t bits;
  convert(&value, DType::float32, &bits, DType::bfloat16, 1);
  return bfloat16_of(&bits, 0);
}

// The largest error of a few elements, as a share of the sum of their products' magnitudes.
double worst_error(const AskedLinear& asked, const float* x, const std::byte* weight, const float* y, Random& random) {
  double worst = 0;
  for (int i = 0; i < kSamples; ++i) {
    const int64_t row = random.below(asked.rows), column = random.below(asked.out);
    double sum = 0, magnitude = 0;
    for (int64_t k = 0; k < asked.in; ++k) {
      const double product = double{rounded(x[row * asked.in + k])} *
                             bfloat16_of(weight, static_cast<size_t>(column * asked.in + k));
      sum += product;
      magnitude += std::abs(product);
    }
    worst = std::max(worst, std::abs(y[row * asked.out + column] - sum) / magnitude);
  }
  return worst;
}

class Linears {
 public:
  explicit Linears(size_t pool_bytes) : pool_(kType, pool_bytes) {}

  std::string answer(const std::string& line) {
    if (line == "ceilings") return ceilings(pool_);
    return timed(asked_linear(line));
  }

 private:
  std::string timed(const AskedLinear& asked) {
    grow(x_, static_cast<size_t>(asked.rows * asked.in));
    if (y_.size() < static_cast<size_t>(asked.rows * asked.out)) y_.resize(static_cast<size_t>(asked.rows * asked.out));
    const std::byte* weight = pool_.next(asked.in, asked.out);
    const auto start = Clock::now();
    cpu::linear({x_.data(), weight, kType, y_.data(), asked.rows, asked.in, asked.out, true}, scratch_);
    const double seconds = seconds_since(start);
    std::ostringstream text;
    text << "{\"seconds\":" << seconds << ",\"worstError\":" << worst_error(asked, x_.data(), weight, y_.data(), random_) << "}";
    return text.str();
  }

  void grow(std::vector<float>& values, size_t count) {
    while (values.size() < count) values.push_back(random_.uniform());
  }

  WeightPool pool_;
  Random random_{2};
  std::vector<float> x_, y_;
  cpu::LinearScratch scratch_;
};

}  // namespace

int answer_linears(int count, char** arguments) {
  const long megabytes = count > 2 ? std::atol(arguments[2]) : 0;
  if (megabytes < 64) {
    std::fprintf(stderr, "usage: linear_bench ask MEGABYTES (64 or more)\n");
    return 2;
  }
  pin_to(0);
  Linears linears(static_cast<size_t>(megabytes) << 20);
  answer_lines([&](const std::string& line) { return linears.answer(line); });
  return 0;
}

}  // namespace heddle::test
