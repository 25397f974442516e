// The read ceiling that the bench prints beside a decode: how fast pinned threads can stream memory that no cache
// holds. It takes the best of several read patterns, so that the ceiling is never lower than the kernels it judges.
// Each line "<threads> <milliseconds>" on stdin is answered by one JSON line; between lines it sleeps and keeps its
// memory.
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "tests/pin_to.h"

#if defined(__x86_64__) && defined(__linux__)
#define HEDDLE_EVERY_ISA __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define HEDDLE_EVERY_ISA
#endif

namespace {

using Clock = std::chrono::steady_clock;
typedef uint64_t Line __attribute__((vector_size(64)));  // a cache line, and what one AVX-512 load takes

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSliceBytes = size_t{4} << 20;  // what a thread reads between two looks at the clock
constexpr int kCalibrationMilliseconds = 40;

// Walk `streams` equal blocks of [data, data + lines) in parallel, prefetching `ahead` lines in each.
struct Pattern {
  int streams;
  int ahead;
};
constexpr Pattern kPatterns[] = {{1, 0}, {2, 16}, {4, 0}, {4, 8}, {4, 16}, {4, 32}, {8, 0}, {8, 16}};

template <int Streams, bool Prefetch>
inline __attribute__((always_inline)) uint64_t read_streams(const Line* data, size_t block, size_t from, size_t to,
                                                            int ahead) {
  Line sums[Streams] = {};
  for (size_t i = from; i < to; ++i) {
    for (int s = 0; s < Streams; ++s) {
      const Line* line = data + s * block + i;
      if (Prefetch) __builtin_prefetch(line + ahead, 0, 3);
      sums[s] |= *line;
    }
  }
  Line all = {};
  for (const Line& sum : sums) all |= sum;
  return all[0] | all[1] | all[2] | all[3] | all[4] | all[5] | all[6] | all[7];
}

template <int Streams>
inline __attribute__((always_inline)) uint64_t read_blocks(const Line* data, size_t block, size_t from, size_t to,
                                                           int ahead) {
  return ahead ? read_streams<Streams, true>(data, block, from, to, ahead)
               : read_streams<Streams, false>(data, block, from, to, 0);
}

// Reads lines [from, to) of each of the pattern's blocks, which start `block` lines apart.
HEDDLE_EVERY_ISA uint64_t read_lines(const Line* data, size_t block, size_t from, size_t to, Pattern pattern) {
  switch (pattern.streams) {
    case 1: return read_blocks<1>(data, block, from, to, pattern.ahead);
    case 2: return read_blocks<2>(data, block, from, to, pattern.ahead);
    case 4: return read_blocks<4>(data, block, from, to, pattern.ahead);
    default: return read_blocks<8>(data, block, from, to, pattern.ahead);
  }
}

struct Region {
  const Line* data = nullptr;
  size_t lines = 0;
};

// Touched first by the pinned thread that will read it, with random bits and huge pages: as a rank's weights are.
Region touch_region(size_t bytes) {
  void* memory = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return {};
  auto start = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
#if defined(MADV_HUGEPAGE)
  madvise(reinterpret_cast<void*>(start), bytes, MADV_HUGEPAGE);
#endif
  auto* words = reinterpret_cast<uint64_t*>(start);
  uint64_t state = 0x9e3779b97f4a7c15u ^ start;
  for (size_t i = 0; i < bytes / 8; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    words[i] = state;
  }
  return {reinterpret_cast<const Line*>(start), bytes / sizeof(Line)};
}

// Runs body(index) on `threads` pinned threads and waits for all of them.
template <class Body>
void on_pinned_threads(int threads, Body body) {
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([i, &body] {
      heddle::test::pin_to(i);
      body(i);
    });
  }
  for (auto& worker : workers) worker.join();
}

std::atomic<uint64_t> g_sink{0};  // keeps the compiler from dropping the reads

// GB/s of all threads together, counting only what every thread read within the same span.
double measure(const std::vector<Region>& regions, int threads, Pattern pattern, int milliseconds) {
  std::atomic<int> ready{0};
  std::vector<double> rates(threads);
  on_pinned_threads(threads, [&](int index) {
    const Region& region = regions[index];
    const size_t block = region.lines / pattern.streams;
    const size_t slice = kSliceBytes / sizeof(Line) / pattern.streams;
    uint64_t seen = 0;
    size_t bytes = 0, at = 0;
    ready.fetch_add(1);
    while (ready.load() < threads) std::this_thread::yield();
    const auto start = Clock::now();
    const auto end = start + std::chrono::milliseconds(milliseconds);
    auto now = start;
    for (; now < end; now = Clock::now()) {
      if (at + slice > block) at = 0;
      seen |= read_lines(region.data, block, at, at + slice, pattern);
      at += slice;
      bytes += slice * pattern.streams * sizeof(Line);
    }
    rates[index] = bytes / std::chrono::duration<double>(now - start).count() / 1e9;
    g_sink.fetch_or(seen);
  });
  double sum = 0;
  for (double rate : rates) sum += rate;
  return sum;
}

Pattern best_pattern(const std::vector<Region>& regions, int threads) {
  Pattern best = kPatterns[0];
  double best_rate = 0;
  for (int round = 0; round < 3; ++round) {
    for (const Pattern& pattern : kPatterns) {
      const double rate = measure(regions, threads, pattern, kCalibrationMilliseconds);
      if (rate > best_rate) best_rate = rate, best = pattern;
    }
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  const int most_threads = argc > 1 ? std::atoi(argv[1]) : int(std::thread::hardware_concurrency());
  const size_t megabytes = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 512;  // a thread
  if (most_threads < 1 || megabytes < 16) {
    std::fprintf(stderr, "usage: read_bandwidth [threads] [megabytes a thread]\n");
    return 2;
  }
  std::vector<Region> regions(most_threads);
  on_pinned_threads(most_threads, [&](int index) { regions[index] = touch_region(megabytes << 20); });
  for (const Region& region : regions) {
    if (region.lines) continue;
    std::fprintf(stderr, "read_bandwidth: out of memory: %zu MB a thread\n", megabytes);
    return 1;
  }
  std::vector<Pattern> patterns(most_threads + 1, {0, 0});
  int threads = 0, milliseconds = 0;
  while (std::scanf("%d %d", &threads, &milliseconds) == 2) {
    if (threads < 1 || threads > most_threads || milliseconds < 1) {
      std::printf("{\"error\":\"expected 1 to %d threads and some milliseconds, got %d %d\"}\n", most_threads, threads,
                  milliseconds);
    } else {
      Pattern& pattern = patterns[threads];
      if (!pattern.streams) pattern = best_pattern(regions, threads);
      const double rate = measure(regions, threads, pattern, milliseconds);
      std::printf("{\"threads\":%d,\"gigabytesPerSecond\":%.2f,\"streams\":%d,\"prefetchBytes\":%zu}\n", threads, rate,
                  pattern.streams, pattern.ahead * sizeof(Line));
    }
    std::fflush(stdout);
  }
  return 0;
}
