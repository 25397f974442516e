// The instruction sets that Highway kernel files compile for, and the choice among them by Isa. Include before any
// header of Highway. Rule: three on x86 (portable is SSE4.2 there, as cpu_features demands), one elsewhere; no symbol
// of libhwy.
#pragma once
#include "cpu/cpu_features.h"

#if defined(__x86_64__)
#define HWY_BASELINE_TARGETS HWY_SSE4
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#else
#define HWY_COMPILE_ONLY_STATIC
#endif

// The `name` of the namespace that fits `isa`; for use under HWY_ONCE, inside heddle::cpu.
#if defined(__x86_64__)
#define HEDDLE_FOR_ISA(isa, name) \
  ((isa) >= Isa::avx512 ? N_AVX3::name : (isa) >= Isa::avx2 ? N_AVX2::name : N_SSE4::name)
#else
#define HEDDLE_FOR_ISA(isa, name) (static_cast<void>(isa), HWY_STATIC_DISPATCH(name))
#endif
