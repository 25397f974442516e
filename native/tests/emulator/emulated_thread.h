// What a kernel's thread can ask of the block it belongs to. Every thread of a block is a fiber of one OS thread; those that wait give
// way to the others.
#pragma once
#include <cstddef>
#include <cstdint>
#include <source_location>

#include "emulator_vectors.h"

namespace heddle::emulator {

using Where = std::source_location;

struct Grid {
  dim3 grid_dim;
  dim3 block_dim;
  uint3 block_index;
  unsigned char* dynamic_shared;
};

struct Thread {
  uint3 index;
  const Grid* grid;
};

// The fiber that runs on this OS thread.
extern constinit thread_local Thread* current_thread;

inline unsigned char* dynamic_shared() { return current_thread->grid->dynamic_shared; }

// All threads of the block: returns the sum of their values.
int block_barrier(int value, Where where);

// All lanes of the warp. The last one to come calls `operation` with the arguments of all, in lane order: one call per warp.
using WarpOperation = void (*)(void* const* lanes, unsigned lane_count);
void warp_operation(WarpOperation operation, void* argument, uint32_t mask, Where where);
// Whether the warp has all its 32 lanes; tensor core operations need them.
constexpr unsigned kWarpSize = 32;
unsigned lane_index();

// Lets the other threads run, and the other OS threads where all threads wait.
void pause();

// 16 bytes to be copied at once or, as unpredictably as on a GPU, not before they are waited for.
void copy_async_16(void* target, const void* source, bool valid);
void copy_async_commit();
void copy_async_wait(int groups_under_way);

// Ends the launch as a failed one.
[[noreturn]] void fail_kernel(const char* what, Where where);

}  // namespace heddle::emulator
