// What cuda/ptx.cuh declares, as plain C++: the same functions with the layouts and the guarantees of the PTX instructions, no more.
#pragma once
#include <math.h>

#include <cstdint>

#include "emulated_thread.h"

namespace heddle::emulator {

struct MatrixLoad {
  const void* address;
  uint32_t* registers;
};
void run_matrix_load(void* const* lanes, unsigned lane_count);
void run_matrix_load_transposed(void* const* lanes, unsigned lane_count);

struct MatrixProduct {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};
void run_mma_bfloat16(void* const* lanes, unsigned lane_count);
void run_mma_float16(void* const* lanes, unsigned lane_count);

// A GPU's vector accesses fail elsewhere.
void expect_aligned(const void* address, size_t bytes);

// Never torn, in the order of no other access.
void store_16(void* address, uint4 value);
uint4 load_16(const void* address);
uint64_t clock_nanoseconds();

}  // namespace heddle::emulator

namespace heddle::cuda::ptx {

using emulator::Where;

inline uint4 load_streaming(const void* address) {
  emulator::expect_aligned(address, 16);
  return *static_cast<const uint4*>(address);
}
inline void prefetch_l2(const void*) {}

inline void copy_async_16(void* shared, const void* global, bool valid = true) {
  emulator::expect_aligned(shared, 16);
  if (valid) emulator::expect_aligned(global, 16);
  emulator::copy_async_16(shared, global, valid);
}
inline void copy_async_commit() { emulator::copy_async_commit(); }
template <int N>
void copy_async_wait() {
  emulator::copy_async_wait(N);
}

inline void load_matrix_x4(uint32_t (&r)[4], const void* shared, Where where = Where::current()) {
  emulator::MatrixLoad argument = {shared, r};
  emulator::warp_operation(emulator::run_matrix_load, &argument, 0xffffffffu, where);
}
inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* shared, Where where = Where::current()) {
  emulator::MatrixLoad argument = {shared, r};
  emulator::warp_operation(emulator::run_matrix_load_transposed, &argument, 0xffffffffu, where);
}
inline void mma_bfloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where = Where::current()) {
  emulator::MatrixProduct argument = {d, a, b};
  emulator::warp_operation(emulator::run_mma_bfloat16, &argument, 0xffffffffu, where);
}
inline void mma_float16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where = Where::current()) {
  emulator::MatrixProduct argument = {d, a, b};
  emulator::warp_operation(emulator::run_mma_float16, &argument, 0xffffffffu, where);
}

inline float exp2(float x) {
  const float y = ::exp2f(x);
  return y < 0x1p-126f ? 0.0f : y;
}

inline void dependency_wait() {}
inline void dependency_launch() {}

inline void store_release_system(uint32_t* address, uint32_t value) { __atomic_store_n(address, value, __ATOMIC_RELEASE); }
inline uint32_t load_acquire_system(const uint32_t* address) { return __atomic_load_n(address, __ATOMIC_ACQUIRE); }

inline void store_volatile_8(void* address, uint2 v) {
  emulator::expect_aligned(address, 8);
  __atomic_store_n(static_cast<uint64_t*>(address), uint64_t{v.y} << 32 | v.x, __ATOMIC_RELAXED);
}
inline uint2 load_volatile_8(const void* address) {
  emulator::expect_aligned(address, 8);
  const uint64_t v = __atomic_load_n(static_cast<const uint64_t*>(address), __ATOMIC_RELAXED);
  return {static_cast<uint32_t>(v), static_cast<uint32_t>(v >> 32)};
}
inline void store_volatile_16(void* address, uint4 v) { emulator::store_16(address, v); }
inline uint4 load_volatile_16(const void* address) { return emulator::load_16(address); }

inline void pause() { emulator::pause(); }
inline uint64_t clock_nanoseconds() { return emulator::clock_nanoseconds(); }

}  // namespace heddle::cuda::ptx
