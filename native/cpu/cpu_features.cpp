#include "cpu/cpu_features.h"

#include <array>
#include <cstdint>
#include <cstdlib>

#include "core/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace heddle::cpu {
namespace {

constexpr std::array kIsas = {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::amx};

std::string names_of(const std::vector<Isa>& isas) {
  std::string names;
  for (const Isa isa : isas) names += (names.empty() ? "" : ", ") + std::string(name_of(isa));
  return names;
}

#if defined(__x86_64__)

struct Registers {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d) == 0) return {};
  return r;
}

// The register state that the operating system saves (XCR0).
uint64_t saved_state() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

bool has_all(uint64_t bits, uint64_t wanted) { return (bits & wanted) == wanted; }

constexpr uint64_t bit(int index) { return uint64_t{1} << index; }

// Linux lends the tile registers only to a process that asks for them; once asked, every later thread has them too.
bool request_tile_permission() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

std::vector<Isa> detect() {
  constexpr uint64_t kAvxState = bit(1) | bit(2), kAvx512State = kAvxState | bit(5) | bit(6) | bit(7);
  constexpr uint64_t kTileState = bit(17) | bit(18);
  const Registers leaf1 = cpuid(1), leaf7 = cpuid(7), leaf7_1 = cpuid(7, 1), extended = cpuid(0x80000001);

  if (!has_all(leaf1.c, bit(20))) return {};  // SSE4.2
  std::vector<Isa> isas = {Isa::portable};
  // FMA, OSXSAVE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT.
  const bool avx2 = has_all(leaf1.c, bit(12) | bit(27) | bit(28) | bit(29)) &&
                    has_all(leaf7.b, bit(3) | bit(5) | bit(8)) && has_all(extended.c, bit(5)) &&
                    has_all(saved_state(), kAvxState);
  if (!avx2) return isas;
  isas.push_back(Isa::avx2);
  // AVX-512 F, DQ, CD, BW, VL.
  const bool avx512 = has_all(leaf7.b, bit(16) | bit(17) | bit(28) | bit(30) | bit(31));
  if (!avx512 || !has_all(saved_state(), kAvx512State)) return isas;
  isas.push_back(Isa::avx512);
  if (!has_all(leaf7_1.a, bit(5))) return isas;
  isas.push_back(Isa::avx512bf16);
  // AMX-BF16, AMX-TILE.
  if (has_all(leaf7.d, bit(22) | bit(24)) && has_all(saved_state(), kTileState) && request_tile_permission()) {
    isas.push_back(Isa::amx);
  }
  return isas;
}

#else

std::vector<Isa> detect() { return {Isa::portable}; }

#endif

}  // namespace

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::portable: return "portable";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512bf16: return "avx512bf16";
    case Isa::amx: return "amx";
  }
  return "unknown";
}

const std::vector<Isa>& supported_isas() {
  // Never destroyed: ranks may still compute while the process ends.
  static const auto& isas = *new std::vector<Isa>(detect());
  return isas;
}

Isa choose_isa(const char* requested) {
  const std::vector<Isa>& supported = supported_isas();
  if (supported.empty()) throw Error(ErrorCode::unavailable, "cpu: expected a CPU with SSE4.2, got one without");
  if (requested == nullptr || *requested == '\0') return supported.back();
  for (const Isa isa : supported) {
    if (name_of(isa) == std::string(requested)) return isa;
  }
  for (const Isa isa : kIsas) {
    if (name_of(isa) != std::string(requested)) continue;
    throw Error(ErrorCode::unavailable,
                "HEDDLE_CPU_ISA: expected one that this CPU has (" + names_of(supported) + "), got " + requested);
  }
  throw Error(ErrorCode::invalid_argument,
              "HEDDLE_CPU_ISA: expected one of " + names_of({kIsas.begin(), kIsas.end()}) + ", got " + requested);
}

Isa cpu_isa() {
  static const Isa isa = choose_isa(std::getenv("HEDDLE_CPU_ISA"));
  return isa;
}

}  // namespace heddle::cpu
