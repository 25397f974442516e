// Runs the blocks of a grid one after another on the calling OS thread: a fiber for each thread that has to wait, and a queue of those
// that can go on. Rule: what hangs on a GPU is a failure here.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "emulated_thread.h"
#include "fiber.h"

namespace heddle::emulator {

struct Copy {
  void* target;
  const void* source;
  bool valid;
  int group;
};

struct KernelThread : Thread {
  KernelThread* next;      // in the queue of those that can go on
  Fiber* fiber;            // none before it has begun
  unsigned lane;
  unsigned warp;
  bool ended;
  bool waits_for_warp;
  Where where;             // of the barrier or warp operation that it waits at
  std::vector<Copy> copies;
  int copy_groups;         // committed
};

struct Warp {
  unsigned lane_count;
  unsigned arrived;
  WarpOperation operation;
  Where where;
  void* arguments[kWarpSize];
  KernelThread* waiting[kWarpSize];
};

class BlockRunner {
 public:
  // Returns what the kernel did wrong, or nothing. `variation` sets the order of threads and of background copies.
  std::string run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel, uint64_t variation);

  // From within a kernel:
  int barrier(int value, Where where);
  void warp_operation(WarpOperation operation, void* argument, Where where);
  void pause();
  void copy(void* target, const void* source, bool valid);
  [[noreturn]] void fail(const char* what, Where where);
  Warp& warp_of(const KernelThread& thread) { return warps_[thread.warp]; }
  static KernelThread& current();

 private:
  static void run_threads();                 // what a fiber does
  void prepare(dim3 grid, dim3 block, size_t shared_bytes);
  void run_block();
  void begin_block();
  void run_thread(KernelThread& thread);
  void end_thread(KernelThread& thread);     // returns where the fiber is to run `current_thread`
  void suspend(KernelThread& thread);
  void leave_for(Fiber& from, KernelThread& next);
  [[noreturn]] void give_up();               // the block, for the reason in failure_
  void push(KernelThread& thread);
  KernelThread* pop();
  Fiber& take_fiber(const KernelThread& thread);
  std::string description_of_deadlock() const;

  Grid grid_ = {};
  const std::function<void()>* kernel_ = nullptr;
  uint64_t variation_ = 0;
  Fiber* main_ = nullptr;                    // the OS thread's own stack
  unsigned char* shared_end_ = nullptr;
  size_t shared_bytes_ = 0;
  std::vector<unsigned char> shared_;

  std::vector<KernelThread> threads_;        // of the largest block yet; the first thread_count_ are in use
  unsigned thread_count_ = 0;
  std::vector<Warp> warps_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_fibers_;

  KernelThread* first_ = nullptr;
  KernelThread* last_ = nullptr;
  unsigned ready_ = 0;
  unsigned ended_ = 0;
  unsigned pauses_ = 0;
  std::vector<KernelThread*> at_barrier_;
  int barrier_sum_ = 0;
  int barrier_result_ = 0;
  std::string failure_;
};

// Fills with values that spoil any result: NaN in every floating type, a huge number as an integer.
void poison(void* memory, size_t bytes);
// Poisons the __shared__ variables of this OS thread.
void poison_shared_variables();

}  // namespace heddle::emulator
