// Times the all-reduce of the local communicator alone, one pinned thread per rank: all_reduce_bench [ranks].
// Each line "<bytes>" on stdin is answered by one JSON line. Rule: every buffer is written anew before each sum, so
// that data really cross cores, the time of that writing is taken off, and the sums are checked.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "comm/local/local.h"
#include "core/error.h"
#include "tests/pin_to.h"

namespace {

using heddle::Communicator;
using Clock = std::chrono::steady_clock;

constexpr int kBatches = 31;              // a figure is the median batch
constexpr double kBatchSeconds = 2e-3;
constexpr double kGuessedBytesPerSecond = 2e9, kGuessedLatency = 5e-7;

// What one rank sums: `source` stays, `buffer` is written from it before every sum.
struct RankData {
  std::vector<float> source, buffer;

  RankData(int rank, size_t count) : source(count), buffer(count) {
    std::mt19937 random(rank + 1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (float& value : source) value = uniform(random);
  }
  void produce() { std::memcpy(buffer.data(), source.data(), source.size() * sizeof(float)); }
  heddle::View view() {
    return {buffer.data(), heddle::DType::float32, 1, static_cast<int64_t>(buffer.size())};
  }
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Seconds of one turn of `body`: the median of the batches.
template <class Body>
double seconds_of(int turns, Body body) {
  std::vector<double> batches;
  for (int batch = 0; batch < kBatches; ++batch) {
    const auto start = Clock::now();
    for (int turn = 0; turn < turns; ++turn) body();
    batches.push_back(std::chrono::duration<double>(Clock::now() - start).count() / turns);
  }
  return median(batches);
}

struct Outcome {
  double seconds = 0;
  std::string error;
};

// Every rank sums in rank order in float32, so the bits are known.
bool sums_are_right(const std::vector<RankData>& ranks, const RankData& mine) {
  for (size_t i = 0; i < mine.buffer.size(); ++i) {
    float expected = ranks[0].source[i];
    for (size_t rank = 1; rank < ranks.size(); ++rank) expected += ranks[rank].source[i];
    if (mine.buffer[i] != expected) return false;
  }
  return true;
}

Outcome run_rank(Communicator& communicator, std::vector<RankData>& ranks, int turns) {
  heddle::test::pin_to(communicator.rank());
  RankData& mine = ranks[communicator.rank()];
  try {
    for (int i = 0; i < 3; ++i) mine.produce(), communicator.all_reduce(mine.view());
    const double produce_only = seconds_of(turns, [&] {
      mine.produce();
      __asm__ volatile("" : : "r"(mine.buffer.data()) : "memory");
    });
    mine.produce();
    communicator.all_reduce(mine.view());  // ranks start together
    const double both = seconds_of(turns, [&] {
      mine.produce();
      communicator.all_reduce(mine.view());
    });
    Outcome outcome{std::max(both - produce_only, 0.0), ""};
    if (!sums_are_right(ranks, mine)) outcome.error = "rank " + std::to_string(communicator.rank()) + ": wrong sums";
    return outcome;
  } catch (const heddle::Error& error) {
    communicator.abort(error.what());
    return {0, error.what()};
  }
}

Outcome run(std::vector<std::unique_ptr<Communicator>>& communicators, size_t bytes) {
  const int size = static_cast<int>(communicators.size());
  std::vector<RankData> ranks;
  for (int rank = 0; rank < size; ++rank) ranks.emplace_back(rank, bytes / sizeof(float));
  const double guess = kGuessedLatency + bytes / kGuessedBytesPerSecond;
  const int turns = std::max(1, static_cast<int>(kBatchSeconds / guess));
  std::vector<Outcome> outcomes(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] { outcomes[rank] = run_rank(*communicators[rank], ranks, turns); });
  }
  for (auto& thread : threads) thread.join();
  Outcome all;
  for (const Outcome& outcome : outcomes) {
    all.seconds = std::max(all.seconds, outcome.seconds);  // the slowest rank is what a step waits for
    if (all.error.empty()) all.error = outcome.error;
  }
  return all;
}

void answer(size_t bytes, int size, const Outcome& outcome) {
  if (!outcome.error.empty()) {
    std::printf("{\"error\":\"all_reduce of %zu bytes: %s\"}\n", bytes, outcome.error.c_str());
    return;
  }
  const double algorithm = bytes / outcome.seconds / 1e9;          // as nccl-tests count
  const double bus = algorithm * 2 * (size - 1) / size;
  std::printf("{\"bytes\":%zu,\"ranks\":%d,\"microseconds\":%.3f,", bytes, size, outcome.seconds * 1e6);
  std::printf("\"algorithmGigabytesPerSecond\":%.3f,\"busGigabytesPerSecond\":%.3f}\n", algorithm, bus);
}

}  // namespace

int main(int argc, char** argv) {
  const int size = argc > 1 ? std::atoi(argv[1]) : 2;
  if (size < 1) {
    std::fprintf(stderr, "usage: all_reduce_bench [ranks]\n");
    return 2;
  }
  size_t bytes = 0;
  while (std::scanf("%zu", &bytes) == 1) {
    if (bytes < sizeof(float)) {
      std::printf("{\"error\":\"expected at least %zu bytes, got %zu\"}\n", sizeof(float), bytes);
    } else {
      auto communicators = heddle::comm::create_local(size);
      answer(bytes, size, run(communicators, bytes));
    }
    std::fflush(stdout);
  }
  return 0;
}
