// Times the linear layer of one rank at the shapes of a 0.6 B transformer and their halves: linear_bench [dtype]
// [exact] [best] [rounds]. Weights come cold from a pool larger than the caches, as in decoding; a read-only stream
// over the pool is timed in the same rounds. Times are medians, with `best` the shortest ones (for a busy machine).
// `linear_bench ask` times what it is asked for instead: see linear_asked.h.
// `exact` takes float32 inputs as they are; otherwise bfloat16 compute. HEDDLE_CPU_ISA restricts the kernels.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "cpu/linear.h"
#include "tests/linear_asked.h"
#include "tests/test.h"
#include "tests/weight_pool.h"

namespace {

using heddle::DType;
using heddle::test::Clock;
using heddle::test::seconds_since;

constexpr size_t kPoolBytes = size_t{256} << 20;
constexpr int64_t kMaxRows = 512;
constexpr int64_t kRows[] = {1, 4, 8, 16, 32, 64, 128, 512};

struct Shape {
  int64_t in, out;
};
constexpr Shape kShapes[] = {{1024, 4096}, {2048, 1024}, {1024, 6144}, {3072, 1024},
                             {1024, 2048}, {1024, 1024}, {1024, 3072}, {1536, 1024}};

struct Options {
  DType dtype = DType::bfloat16;
  bool exact = false;
  bool best = false;
  int rounds = 11;
};

Options parse(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "float32") options.dtype = DType::float32;
    if (argument == "float16") options.dtype = DType::float16;
    if (argument == "exact") options.exact = true;
    if (argument == "best") options.best = true;
    if (std::atoi(arguments[i]) > 0) options.rounds = std::atoi(arguments[i]);
  }
  return options;
}

double typical(const Options& options, std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[options.best ? 0 : values.size() / 2];
}

using Times = std::map<std::pair<size_t, int64_t>, std::vector<double>>;  // [shape, rows]

void print(const Options& options, const Times& times, double stream_bytes_per_second) {
  std::printf("read-only stream %.1f GB/s\n%6s %6s | M=1 GB/s  of stream | GFLOP/s at M=",
              stream_bytes_per_second * 1e-9, "in", "out");
  for (const int64_t rows : kRows) std::printf("%7ld", static_cast<long>(rows));
  std::printf("\n");
  for (size_t i = 0; i < std::size(kShapes); ++i) {
    const double elements = static_cast<double>(kShapes[i].in * kShapes[i].out);
    const double rate =
        elements * static_cast<double>(heddle::size_of(options.dtype)) / typical(options, times.at({i, 1}));
    std::printf("%6ld %6ld |    %5.1f     %5.1f %%  |              ", static_cast<long>(kShapes[i].in),
                static_cast<long>(kShapes[i].out), rate * 1e-9, 100 * rate / stream_bytes_per_second);
    for (const int64_t rows : kRows)
      std::printf("%7.1f", 2 * elements * static_cast<double>(rows) / typical(options, times.at({i, rows})) * 1e-9);
    std::printf("\n");
  }
}

void bench(const Options& options) {
  heddle::test::WeightPool pool(options.dtype, kPoolBytes);
  heddle::test::Random random(2);
  const std::vector<float> x = random.uniform_vector(static_cast<size_t>(kMaxRows * 3072));
  std::vector<float> y(static_cast<size_t>(kMaxRows * 6144));
  heddle::cpu::LinearScratch scratch;
  Times times;
  std::vector<double> streams;
  for (int round = -1; round < options.rounds; ++round) {  // the first one warms up
    for (const int64_t rows : kRows) {
      for (size_t i = 0; i < std::size(kShapes); ++i) {
        const Shape& shape = kShapes[i];
        const std::byte* weight = pool.next(shape.in, shape.out);
        const auto start = Clock::now();
        heddle::cpu::linear({x.data(), weight, options.dtype, y.data(), rows, shape.in, shape.out, !options.exact},
                            scratch);
        if (round >= 0) times[{i, rows}].push_back(seconds_since(start));
      }
      if (round >= 0) streams.push_back(pool.stream());
    }
  }
  std::printf("%s, %s weights, %s inputs, one thread, %d rounds\n", name_of(heddle::cpu::cpu_isa()),
              heddle::name_of(options.dtype), options.exact || options.dtype == DType::float16 ? "float32" : "bfloat16",
              options.rounds);
  print(options, times, 1 / typical(options, streams));
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (count > 1 && std::strcmp(arguments[1], "ask") == 0) return heddle::test::answer_linears(count, arguments);
    bench(parse(count, arguments));
    return 0;
  } catch (const heddle::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
