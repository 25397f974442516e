#include "tests/arithmetic_peak.h"

#include <algorithm>
#include <chrono>
#include <iterator>

#include "tests/weight_pool.h"

#if defined(__x86_64__)
#include "cpu/linear_amx_tiles.h"
#endif

namespace heddle::test {
namespace {

constexpr int kBursts = 50;
constexpr int64_t kSteps = 20000;  // fractions of a millisecond: some burst has the core to itself
constexpr int kSums = 14;          // more independent sums than any multiplier has operations under way

// Each runs `steps` rounds of kSums independent sums and returns the operations done. Assembly as a whole, since compilers keep
// such sums in memory: registers 0 to 13 are sums, 14 and 15 the factors.
#if defined(__x86_64__)
#define HEDDLE_SUMS(one) one(0) one(1) one(2) one(3) one(4) one(5) one(6) one(7) one(8) one(9) one(10) one(11) one(12) one(13)
#define HEDDLE_ZERO(i) "vpxor %%xmm" #i ", %%xmm" #i ", %%xmm" #i "\n"
#define HEDDLE_AVX2(i) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #i "\n"
#define HEDDLE_AVX512(i) "vfmadd231ps %%zmm14, %%zmm15, %%zmm" #i "\n"
#define HEDDLE_AVX512BF16(i) "vdpbf16ps %%zmm14, %%zmm15, %%zmm" #i "\n"
#define HEDDLE_RUN(width, one, steps, factors)                                                                           \
  __asm__ volatile(HEDDLE_SUMS(HEDDLE_ZERO) "vbroadcastss %1, %%" width "14\nvbroadcastss %1, %%" width "15\n"            \
                   "1:\n" HEDDLE_SUMS(one) "dec %0\njnz 1b\nvzeroupper\n"                                                 \
                   : "+r"(steps)                                                                                         \
                   : "m"(factors)                                                                                        \
                   : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",      \
                     "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

double run_avx2(int64_t steps) {
  const double operations = static_cast<double>(steps) * kSums * 8 * 2;
  const float factors = 0.37f;
  HEDDLE_RUN("ymm", HEDDLE_AVX2, steps, factors);
  return operations;
}

double run_avx512(int64_t steps) {
  const double operations = static_cast<double>(steps) * kSums * 16 * 2;
  const float factors = 0.37f;
  HEDDLE_RUN("zmm", HEDDLE_AVX512, steps, factors);
  return operations;
}

double run_avx512bf16(int64_t steps) {
  const double operations = static_cast<double>(steps) * kSums * 16 * 4;  // two products a lane
  const uint32_t factors = 0x3ebd3ebd;                                    // 0.37 twice
  HEDDLE_RUN("zmm", HEDDLE_AVX512BF16, steps, factors);
  return operations;
}

double run_amx(int64_t steps) {
  using Tiles = cpu::amx::HardwareTiles;
  alignas(64) uint16_t factors[512];
  std::fill(std::begin(factors), std::end(factors), uint16_t{0x3ebd});
  Tiles::configure();
  Tiles::zero<0>();
  Tiles::zero<1>();
  Tiles::zero<2>();
  Tiles::zero<3>();
  Tiles::load<4>(factors, 64);
  Tiles::load<5>(factors, 64);
  Tiles::load<6>(factors, 64);
  Tiles::load<7>(factors, 64);
  for (int64_t step = 0; step < steps; ++step) {
    Tiles::multiply<0, 4, 6>();
    Tiles::multiply<1, 4, 7>();
    Tiles::multiply<2, 5, 6>();
    Tiles::multiply<3, 5, 7>();
  }
  Tiles::release();
  return static_cast<double>(steps) * 4 * 16 * 16 * 32 * 2;
}
#endif

// Vectors of 16 bytes: what every 64-bit processor has.
double run_portable(int64_t steps) {
  typedef float Vector __attribute__((vector_size(16)));
  Vector s[kSums] = {};
  Vector a = {0.5f, 0.5f, 0.5f, 0.5f}, b = {0.25f, 0.25f, 0.25f, 0.25f};
  for (int64_t step = 0; step < steps; ++step) {
    for (Vector& sum : s) sum += a * b;
    __asm__ volatile("" : "+m"(s), "+m"(a), "+m"(b));
  }
  return static_cast<double>(steps) * kSums * 4 * 2;
}

double run(cpu::Isa isa, int64_t steps) {
#if defined(__x86_64__)
  switch (isa) {
    case cpu::Isa::avx2: return run_avx2(steps);
    case cpu::Isa::avx512: return run_avx512(steps);
    case cpu::Isa::avx512bf16: return run_avx512bf16(steps);
    case cpu::Isa::amx: return run_amx(steps);
    default: break;
  }
#endif
  return run_portable(steps);
}

}  // namespace

double arithmetic_peak(cpu::Isa isa) {
  double best = 0;
  for (int burst = 0; burst < kBursts; ++burst) {
    const auto start = Clock::now();
    const double operations = run(isa, kSteps);
    best = std::max(best, operations / seconds_since(start));
  }
  return best;
}

}  // namespace heddle::test
