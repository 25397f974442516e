// Stacks and the switch between them: what the threads of a block run on. Rule: known to the sanitizers, and no system call per switch.
#pragma once
#include <cstddef>

namespace heddle::emulator {

// A stack and where on it execution stands. The fiber of an OS thread's own stack has no `memory`.
class Fiber {
 public:
  using Entry = void (*)();  // never returns

  Fiber() = default;                      // for the stack that the OS thread runs on
  explicit Fiber(size_t colour);          // with a stack of its own; colours spread stacks over the cache
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the fiber begin at `entry`, whatever it was doing.
  void restart(Entry entry);
  // Leaves this fiber, which runs now, for `to`. Returns when somebody switches back.
  void switch_to(Fiber& to);

  // Once, first of all, in a fiber that began at its entry.
  static void entered();

 private:
  void finish_switch();

  void* stack_pointer_ = nullptr;
  unsigned char* memory_ = nullptr;       // with a page below that nobody may touch
  void* top_ = nullptr;
  const void* bottom_ = nullptr;          // as the address sanitizer knows the stack
  size_t size_ = 0;
  void* fake_stack_ = nullptr;            // the address sanitizer's
  void* sanitizer_fiber_ = nullptr;       // the thread sanitizer's
};

}  // namespace heddle::emulator
