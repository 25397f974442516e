// Atomics, fences and cached accesses. Other blocks may be other OS threads' (peer ranks), so these are atomics of the host. The types
// are those that CUDA has, and no others.
#pragma once
#include <atomic>
#include <cstdint>

namespace heddle::emulator {

template <class T, class Change>
T atomic_change(T* address, Change&& change) {
  T old;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  for (T wanted = change(old); !__atomic_compare_exchange(address, &old, &wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);) {
    wanted = change(old);
  }
  return old;
}

}  // namespace heddle::emulator

#define HEDDLE_ATOMIC(name, T, expression) \
  inline T name(T* address, T value) {     \
    return heddle::emulator::atomic_change(address, [value](T old) { return static_cast<T>(expression); }); \
  }
#define HEDDLE_ATOMICS(T)                               \
  HEDDLE_ATOMIC(atomicAdd, T, old + value)              \
  HEDDLE_ATOMIC(atomicExch, T, ((void)old, value))      \
  HEDDLE_ATOMIC(atomicMax, T, old > value ? old : value) \
  HEDDLE_ATOMIC(atomicMin, T, old < value ? old : value) \
  HEDDLE_ATOMIC(atomicAnd, T, old & value)              \
  HEDDLE_ATOMIC(atomicOr, T, old | value)               \
  HEDDLE_ATOMIC(atomicXor, T, old ^ value)              \
  inline T atomicCAS(T* address, T compare, T value) {  \
    __atomic_compare_exchange(address, &compare, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
    return compare;                                     \
  }
HEDDLE_ATOMICS(int)
HEDDLE_ATOMICS(unsigned)
HEDDLE_ATOMICS(unsigned long long)
HEDDLE_ATOMIC(atomicAdd, float, old + value)
HEDDLE_ATOMIC(atomicAdd, double, old + value)
HEDDLE_ATOMIC(atomicExch, float, ((void)old, value))
HEDDLE_ATOMIC(atomicSub, int, old - value)
HEDDLE_ATOMIC(atomicSub, unsigned, old - value)
HEDDLE_ATOMIC(atomicInc, unsigned, old >= value ? 0u : old + 1)
HEDDLE_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)
HEDDLE_ATOMIC(atomicMax, long long, old > value ? old : value)
HEDDLE_ATOMIC(atomicMin, long long, old < value ? old : value)
#undef HEDDLE_ATOMICS
#undef HEDDLE_ATOMIC

namespace heddle::emulator {

// The thread sanitizer knows no fences, so for it every fence is an exchange with all fences before it.
#if defined(__SANITIZE_THREAD__)
inline std::atomic<unsigned> fences{0};
inline void fence() { fences.fetch_add(1, std::memory_order_seq_cst); }
#else
inline void fence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
#endif

}  // namespace heddle::emulator

inline void __threadfence_block() { heddle::emulator::fence(); }
inline void __threadfence() { heddle::emulator::fence(); }
inline void __threadfence_system() { heddle::emulator::fence(); }

template <class T> T __ldg(const T* address) { return *address; }
template <class T> T __ldcg(const T* address) { return *address; }
template <class T> T __ldca(const T* address) { return *address; }
template <class T> T __ldcs(const T* address) { return *address; }
template <class T> T __ldlu(const T* address) { return *address; }
template <class T> T __ldcv(const T* address) { return *static_cast<const volatile T*>(address); }
template <class T> void __stcg(T* address, T value) { *address = value; }
template <class T> void __stcs(T* address, T value) { *address = value; }
template <class T> void __stwb(T* address, T value) { *address = value; }
template <class T> void __stwt(T* address, T value) { *address = value; }
