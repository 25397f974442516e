// Switching stacks: a few instructions where the processor is known, ucontext elsewhere.
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(HEDDLE_EMULATOR_TSAN)   // this file is not instrumented
#include <sanitizer/tsan_interface.h>
#endif
#if !defined(__x86_64__) && !defined(__aarch64__)
#define HEDDLE_UCONTEXT
#include <ucontext.h>
#endif

namespace heddle::emulator {
namespace {

constexpr size_t kGuardBytes = 64 * 1024;   // a multiple of every page size in use
#if defined(__SANITIZE_ADDRESS__) || defined(HEDDLE_EMULATOR_TSAN)
constexpr size_t kStackBytes = 512 * 1024;  // frames are larger
#else
constexpr size_t kStackBytes = 128 * 1024;
#endif
constexpr size_t kColours = 61;
constexpr size_t kColourBytes = 192;

thread_local Fiber* left = nullptr;         // by the switch under way

}  // namespace
}  // namespace heddle::emulator

// heddle_emulator_switch(void** save, void* load): what a called function must keep goes to the old stack, and comes from the new one.
#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.hidden heddle_emulator_switch
.globl heddle_emulator_switch
.type heddle_emulator_switch, @function
heddle_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size heddle_emulator_switch, .-heddle_emulator_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.hidden heddle_emulator_switch
.globl heddle_emulator_switch
.type heddle_emulator_switch, %function
heddle_emulator_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size heddle_emulator_switch, .-heddle_emulator_switch
)");
#endif
#if !defined(HEDDLE_UCONTEXT)
extern "C" void heddle_emulator_switch(void** save, void* load);
#endif

namespace heddle::emulator {
namespace {

#if defined(HEDDLE_UCONTEXT)
void* prepare(unsigned char* memory, void* top, Fiber::Entry entry) {
  auto* context = new (memory) ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = memory + sizeof(ucontext_t);
  context->uc_stack.ss_size = static_cast<unsigned char*>(top) - memory - sizeof(ucontext_t);
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}
void jump(void** save, void* load) {
  ucontext_t here;
  *save = &here;
  swapcontext(&here, static_cast<ucontext_t*>(load));
}
#else
void* prepare(unsigned char*, void* top, Fiber::Entry entry) {
#if defined(__x86_64__)
  auto* frame = static_cast<uint64_t*>(top) - 8;  // six registers, the entry, and where a caller's address would be
  std::memset(frame, 0, 8 * sizeof(uint64_t));
  frame[6] = reinterpret_cast<uint64_t>(entry);
#else
  auto* frame = static_cast<uint64_t*>(top) - 20;
  std::memset(frame, 0, 20 * sizeof(uint64_t));
  frame[11] = reinterpret_cast<uint64_t>(entry);  // the link register
#endif
  return frame;
}
void jump(void** save, void* load) { heddle_emulator_switch(save, load); }
#endif

}  // namespace

Fiber::Fiber(size_t colour) {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kGuardBytes, PROT_NONE);
  memory_ = static_cast<unsigned char*>(memory) + kGuardBytes;
  top_ = memory_ + kStackBytes - colour % kColours * kColourBytes;
  bottom_ = memory_;
  size_ = kStackBytes;
#if defined(HEDDLE_EMULATOR_TSAN)
  sanitizer_fiber_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
  if (!memory_) return;
#if defined(HEDDLE_EMULATOR_TSAN)
  __tsan_destroy_fiber(sanitizer_fiber_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(memory_, kStackBytes);
#endif
  munmap(memory_ - kGuardBytes, kGuardBytes + kStackBytes);
}

void Fiber::restart(Entry entry) {
#if defined(__SANITIZE_ADDRESS__)
  // The frames that switched away for the last time never returned. They are small; stacks of other frames are not used again.
  constexpr size_t kLeft = 16 * 1024;
  __asan_unpoison_memory_region(static_cast<unsigned char*>(top_) - kLeft, kLeft);
#endif
  fake_stack_ = nullptr;
  stack_pointer_ = prepare(memory_, top_, entry);
}

void Fiber::switch_to(Fiber& to) {
  left = this;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_stack_, to.bottom_, to.size_);
#endif
#if defined(HEDDLE_EMULATOR_TSAN)
  if (!sanitizer_fiber_) sanitizer_fiber_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(to.sanitizer_fiber_, __tsan_switch_to_fiber_no_sync);  // a switch orders nothing
#endif
  jump(&stack_pointer_, to.stack_pointer_);
  finish_switch();
}

void Fiber::entered() {
  Fiber none;
  none.finish_switch();
}

// The fiber that was left may be an OS thread's: where its stack lies is learnt here.
void Fiber::finish_switch() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, &left->bottom_, &left->size_);
#endif
}

}  // namespace heddle::emulator
