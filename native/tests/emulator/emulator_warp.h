// Barriers and the operations of a warp. Rule of the backend: all 32 lanes take part, or all that a partial last warp has.
#pragma once
#include <cstring>
#include <type_traits>

#include "emulated_thread.h"

namespace heddle::emulator {

// What a lane that does not exist seems to hold: NaN, or a number that no kernel expects.
template <class T>
T poisoned() {
  T value;
  uint16_t words[sizeof(T) / 2];
  for (uint16_t& word : words) word = 0x7ffb;
  std::memcpy(&value, words, sizeof(T));
  return value;
}

template <class T>
struct Shuffle {
  T value;
  unsigned source;
  T result;
};

template <class T>
void run_shuffle(void* const* lanes, unsigned lane_count) {
  for (unsigned i = 0; i < lane_count; ++i) {
    auto* mine = static_cast<Shuffle<T>*>(lanes[i]);
    mine->result = mine->source < lane_count ? static_cast<Shuffle<T>*>(lanes[mine->source])->value : poisoned<T>();
  }
}

template <class T>
T shuffle(uint32_t mask, T value, unsigned source, Where where) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "a shuffle takes 32 or 64 bit numbers");
  Shuffle<T> argument = {value, source, value};
  warp_operation(run_shuffle<T>, &argument, mask, where);
  return argument.result;
}

struct Vote {
  bool value;
  uint32_t ballot;
};
void run_vote(void* const* lanes, unsigned lane_count);
void run_nothing(void* const* lanes, unsigned lane_count);

inline uint32_t vote(uint32_t mask, bool value, Where where) {
  Vote argument = {value, 0};
  warp_operation(run_vote, &argument, mask, where);
  return argument.ballot;
}
uint32_t lanes_of_warp();   // a bit for each that exists

}  // namespace heddle::emulator

using HeddleWhere = std::source_location;

inline void __syncthreads(HeddleWhere where = HeddleWhere::current()) { heddle::emulator::block_barrier(0, where); }
inline int __syncthreads_count(int predicate, HeddleWhere where = HeddleWhere::current()) {
  return heddle::emulator::block_barrier(predicate != 0, where);
}
inline int __syncthreads_or(int predicate, HeddleWhere where = HeddleWhere::current()) {
  return heddle::emulator::block_barrier(predicate != 0, where) > 0;
}
inline int __syncthreads_and(int predicate, HeddleWhere where = HeddleWhere::current()) {
  return heddle::emulator::block_barrier(predicate == 0, where) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, HeddleWhere where = HeddleWhere::current()) {
  heddle::emulator::warp_operation(heddle::emulator::run_nothing, nullptr, mask, where);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, HeddleWhere where = HeddleWhere::current()) {
  const unsigned lane = heddle::emulator::lane_index();
  const unsigned low = static_cast<unsigned>(width) - 1;
  return heddle::emulator::shuffle(mask, value, (lane & ~low) | (static_cast<unsigned>(source) & low), where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, HeddleWhere where = HeddleWhere::current()) {
  const unsigned lane = heddle::emulator::lane_index();
  const unsigned in_segment = lane & (static_cast<unsigned>(width) - 1);
  return heddle::emulator::shuffle(mask, value, in_segment < delta ? lane : lane - delta, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, HeddleWhere where = HeddleWhere::current()) {
  const unsigned lane = heddle::emulator::lane_index();
  const unsigned in_segment = lane & (static_cast<unsigned>(width) - 1);
  return heddle::emulator::shuffle(mask, value, in_segment + delta >= static_cast<unsigned>(width) ? lane : lane + delta, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, HeddleWhere where = HeddleWhere::current()) {
  const unsigned lane = heddle::emulator::lane_index();
  const unsigned source = lane ^ static_cast<unsigned>(lane_mask);
  const unsigned segment_end = lane | (static_cast<unsigned>(width) - 1);
  return heddle::emulator::shuffle(mask, value, source > segment_end ? lane : source, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, HeddleWhere where = HeddleWhere::current()) {
  return heddle::emulator::vote(mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, HeddleWhere where = HeddleWhere::current()) {
  return heddle::emulator::vote(mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, HeddleWhere where = HeddleWhere::current()) {
  return heddle::emulator::vote(mask, predicate == 0, where) == 0;
}
inline unsigned __activemask() { return heddle::emulator::lanes_of_warp(); }
