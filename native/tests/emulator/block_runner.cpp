// The scheduler of a block's threads. It is not instrumented by the thread sanitizer, to which each fiber is a thread: what orders the
// threads of a kernel is told to it by released() and acquired(), so that it finds missing barriers.
#include "block_runner.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <thread>
#include <utility>

#include "emulator_warp.h"

#if defined(HEDDLE_EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace heddle::emulator {

constinit thread_local Thread* current_thread = nullptr;

namespace {

thread_local BlockRunner* runner = nullptr;

// To the thread sanitizer what runs on one fiber is in order: there each thread of a block has its own.
#if defined(HEDDLE_EMULATOR_TSAN)
constexpr bool kFiberPerThread = true;
void released(void* what) { __tsan_release(what); }
void acquired(void* what) { __tsan_acquire(what); }
#else
constexpr bool kFiberPerThread = false;
void released(void*) {}
void acquired(void*) {}
#endif

constexpr size_t kCanaryBytes = 64;
constexpr unsigned char kCanary = 0xc9;

std::string text_of(const uint3& index) {
  char text[48];
  std::snprintf(text, sizeof(text), "(%u,%u,%u)", index.x, index.y, index.z);
  return text;
}

std::string text_of(const Where& where) {
  const char* slash = std::strrchr(where.file_name(), '/');
  return std::string(slash ? slash + 1 : where.file_name()) + ":" + std::to_string(where.line());
}

bool same(const Where& a, const Where& b) {
  if (a.line() != b.line() || a.column() != b.column()) return false;
  return a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0;
}

}  // namespace

KernelThread& BlockRunner::current() { return *static_cast<KernelThread*>(current_thread); }

// ---- the queue ----

void BlockRunner::push(KernelThread& thread) {
  thread.next = nullptr;
  (last_ ? last_->next : first_) = &thread;
  last_ = &thread;
  ++ready_;
}

KernelThread* BlockRunner::pop() {
  KernelThread* thread = first_;
  if (!thread) return nullptr;
  first_ = thread->next;
  if (!first_) last_ = nullptr;
  --ready_;
  return thread;
}

// ---- fibers ----

Fiber& BlockRunner::take_fiber(const KernelThread& thread) {
  Fiber* fiber = nullptr;
  if (kFiberPerThread) {
    fiber = fibers_[static_cast<size_t>(&thread - threads_.data())].get();
  } else {
    if (idle_fibers_.empty()) {
      fibers_.push_back(std::make_unique<Fiber>(fibers_.size()));
      idle_fibers_.push_back(fibers_.back().get());
    }
    fiber = idle_fibers_.back();
    idle_fibers_.pop_back();
  }
  fiber->restart(run_threads);
  return *fiber;
}

// A fiber runs one thread after another for as long as none has to wait.
void BlockRunner::run_threads() {
  Fiber::entered();
  for (;;) {
    KernelThread& thread = current();
    runner->run_thread(thread);
    runner->end_thread(thread);
  }
}

void BlockRunner::run_thread(KernelThread& thread) {
  acquired(&grid_);
  try {
    (*kernel_)();
  } catch (const std::exception& error) {
    failure_ = std::string("the kernel threw: ") + error.what();
  } catch (...) {
    failure_ = "the kernel threw";
  }
  if (!failure_.empty()) give_up();
  thread.ended = true;
  ++ended_;
  released(&grid_);
}

void BlockRunner::end_thread(KernelThread& thread) {
  Fiber& fiber = *thread.fiber;
  KernelThread* next = pop();
  if (next && !next->fiber && !kFiberPerThread) {
    next->fiber = &fiber;
    current_thread = next;
    return;
  }
  if (!kFiberPerThread) idle_fibers_.push_back(&fiber);
  if (!next) fiber.switch_to(*main_);
  leave_for(fiber, *next);
}

void BlockRunner::leave_for(Fiber& from, KernelThread& next) {
  current_thread = &next;
  if (!next.fiber) next.fiber = &take_fiber(next);
  from.switch_to(*next.fiber);
}

// Returns when somebody has pushed the thread again.
void BlockRunner::suspend(KernelThread& thread) {
  pauses_ = 0;
  KernelThread* next = pop();
  if (!next) {
    failure_ = description_of_deadlock();
    give_up();
  }
  leave_for(*thread.fiber, *next);
}

// Called where no text is alive any more, since nothing on this stack will be destroyed.
void BlockRunner::give_up() {
  released(&grid_);
  current().fiber->switch_to(*main_);
  __builtin_unreachable();  // nobody switches back
}

void BlockRunner::fail(const char* what, Where where) {
  failure_ = std::string(what) + " at " + text_of(where);
  give_up();
}

// ---- what threads wait for ----

int BlockRunner::barrier(int value, Where where) {
  KernelThread& thread = current();
  if (!at_barrier_.empty() && !same(where, at_barrier_.front()->where)) {
    failure_ = "threads of a block are at different barriers: thread " + text_of(thread.index) + " at " + text_of(where) + ", thread " +
               text_of(at_barrier_.front()->index) + " at " + text_of(at_barrier_.front()->where);
    give_up();
  }
  thread.where = where;
  thread.waits_for_warp = false;
  barrier_sum_ += value;
  released(&at_barrier_);
  if (at_barrier_.size() + 1 < thread_count_) {
    at_barrier_.push_back(&thread);
    suspend(thread);
  } else {
    barrier_result_ = barrier_sum_;
    barrier_sum_ = 0;
    for (KernelThread* other : at_barrier_) push(*other);
    at_barrier_.clear();
  }
  acquired(&at_barrier_);
  return barrier_result_;
}

void BlockRunner::warp_operation(WarpOperation operation, void* argument, Where where) {
  KernelThread& thread = current();
  Warp& warp = warps_[thread.warp];
  if (warp.arrived == 0) {
    warp.operation = operation;
    warp.where = where;
  } else if (warp.operation != operation || !same(warp.where, where)) {
    failure_ = "lanes of a warp are at different operations: thread " + text_of(thread.index) + " at " + text_of(where) + ", others at " +
               text_of(warp.where);
    give_up();
  }
  warp.arguments[thread.lane] = argument;
  warp.waiting[thread.lane] = &thread;
  released(&warp);
  if (++warp.arrived < warp.lane_count) {
    thread.where = where;
    thread.waits_for_warp = true;
    suspend(thread);
    acquired(&warp);
    return;
  }
  warp.arrived = 0;
  acquired(&warp);
  operation(warp.arguments, warp.lane_count);
  released(&warp);
  for (unsigned i = 1; i < warp.lane_count; ++i) {
    const unsigned step = variation_ & 1 ? i : warp.lane_count - i;
    push(*warp.waiting[(thread.lane + step) % warp.lane_count]);
  }
}

// A thread that ran out of other threads to run waits for another OS thread: a peer's kernel, or the host.
void BlockRunner::pause() {
  KernelThread& thread = current();
  if (++pauses_ > ready_) {
    pauses_ = 0;
    std::this_thread::yield();
  }
  released(&grid_);
  push(thread);
  KernelThread* next = pop();
  if (next != &thread) leave_for(*thread.fiber, *next);
}

std::string BlockRunner::description_of_deadlock() const {
  std::string text = "threads wait for ever:";
  std::string latest;
  unsigned kinds = 0;
  for (unsigned i = 0; i < thread_count_ && kinds < 4; ++i) {
    const KernelThread& thread = threads_[i];
    const std::string state = thread.ended ? "has ended" : (thread.waits_for_warp ? "waits for its warp at " : "waits at the barrier at ") + text_of(thread.where);
    if (state == latest) continue;
    text += (kinds++ > 0 ? "; thread " : " thread ") + text_of(thread.index) + " " + state;
    latest = state;
  }
  return text;
}

// ---- background copies ----

// Half of them at once, half when they are waited for: a kernel must bear both.
void BlockRunner::copy(void* target, const void* source, bool valid) {
  KernelThread& thread = current();
  const Copy copy = {target, source, valid, thread.copy_groups};
  if (((variation_ >> 1) ^ thread.lane ^ (reinterpret_cast<uintptr_t>(target) >> 9)) & 1) {
    thread.copies.push_back(copy);
  } else if (valid) {
    std::memcpy(target, source, 16);
  } else {
    std::memset(target, 0, 16);
  }
}

// ---- blocks ----

void BlockRunner::prepare(dim3 grid, dim3 block, size_t shared_bytes) {
  // Exactly as large as asked for, with something to find behind it; aligned as CUDA aligns it.
  shared_bytes_ = shared_bytes;
  if (shared_.size() < shared_bytes + kCanaryBytes + 128) shared_.resize(shared_bytes + kCanaryBytes + 128);
  const auto begin = (reinterpret_cast<uintptr_t>(shared_.data()) + 127) / 128 * 128;
  grid_ = {grid, block, {}, reinterpret_cast<unsigned char*>(begin)};
  shared_end_ = grid_.dynamic_shared + shared_bytes;

  thread_count_ = block.x * block.y * block.z;
  if (threads_.size() < thread_count_) threads_.resize(thread_count_);
  while (kFiberPerThread && fibers_.size() < thread_count_) fibers_.push_back(std::make_unique<Fiber>(fibers_.size()));
  at_barrier_.reserve(thread_count_);
  warps_.resize((thread_count_ + kWarpSize - 1) / kWarpSize);
  for (unsigned i = 0; i < thread_count_; ++i) {
    KernelThread& thread = threads_[i];
    thread.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    thread.grid = &grid_;
    thread.lane = i % kWarpSize;
    thread.warp = i / kWarpSize;
  }
  for (unsigned i = 0; i < warps_.size(); ++i) warps_[i].lane_count = std::min(kWarpSize, thread_count_ - i * kWarpSize);
}

void BlockRunner::begin_block() {
  poison(grid_.dynamic_shared, shared_bytes_);
  std::memset(shared_end_, kCanary, kCanaryBytes);
  first_ = last_ = nullptr;
  ready_ = ended_ = pauses_ = 0;
  at_barrier_.clear();
  barrier_sum_ = 0;
  for (Warp& warp : warps_) warp.arrived = 0;
  const unsigned start = static_cast<unsigned>((variation_ >> 8) % thread_count_);
  for (unsigned i = 0; i < thread_count_; ++i) {
    const unsigned step = variation_ & 1 ? i : thread_count_ - i;
    KernelThread& thread = threads_[(start + step) % thread_count_];
    thread.fiber = nullptr;
    thread.ended = false;
    thread.copies.clear();
    thread.copy_groups = 0;
    push(thread);
  }
}

void BlockRunner::run_block() {
  begin_block();
  released(&grid_);
  leave_for(*main_, *pop());
  acquired(&grid_);
  current_thread = nullptr;
  if (!failure_.empty()) {  // some threads wait and never end
    acquired(&at_barrier_);
    for (Warp& warp : warps_) acquired(&warp);
    return;
  }
  if (ended_ < thread_count_) {
    failure_ = description_of_deadlock();
  } else if (std::string(reinterpret_cast<char*>(shared_end_), kCanaryBytes) != std::string(kCanaryBytes, static_cast<char>(kCanary))) {
    failure_ = "the kernel wrote beyond its " + std::to_string(shared_bytes_) + " bytes of dynamic shared memory";
  }
}

std::string BlockRunner::run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel, uint64_t variation) {
  Fiber main;
  BlockRunner* const outer = std::exchange(runner, this);
  main_ = &main;
  kernel_ = &kernel;
  variation_ = variation;
  failure_.clear();
  prepare(grid, block, shared_bytes);
  poison_shared_variables();
  for (unsigned z = 0; z < grid.z && failure_.empty(); ++z) {
    for (unsigned y = 0; y < grid.y && failure_.empty(); ++y) {
      for (unsigned x = 0; x < grid.x && failure_.empty(); ++x) {
        grid_.block_index = {x, y, z};
        run_block();
      }
    }
  }
  runner = outer;
  if (failure_.empty()) return {};
  // The stacks of threads that never ended are given up.
  idle_fibers_.clear();
  fibers_.clear();
  return std::string("block ") + text_of(grid_.block_index) + ": " + failure_;
}

// ---- what kernels call ----

int block_barrier(int value, Where where) { return runner->barrier(value, where); }

void warp_operation(WarpOperation operation, void* argument, uint32_t mask, Where where) {
  if (mask != 0xffffffffu) fail_kernel("a warp operation whose mask is not full", where);
  runner->warp_operation(operation, argument, where);
}

unsigned lane_index() { return BlockRunner::current().lane; }

uint32_t lanes_of_warp() {
  const unsigned count = runner->warp_of(BlockRunner::current()).lane_count;
  return count == kWarpSize ? 0xffffffffu : (1u << count) - 1;
}

void pause() { runner->pause(); }
void copy_async_16(void* target, const void* source, bool valid) { runner->copy(target, source, valid); }
void copy_async_commit() { ++BlockRunner::current().copy_groups; }

void copy_async_wait(int groups_under_way) {
  KernelThread& thread = BlockRunner::current();
  size_t kept = 0;
  for (const Copy& copy : thread.copies) {
    if (copy.group >= thread.copy_groups - groups_under_way) {
      thread.copies[kept++] = copy;
    } else if (copy.valid) {
      std::memcpy(copy.target, copy.source, 16);
    } else {
      std::memset(copy.target, 0, 16);
    }
  }
  thread.copies.resize(kept);
}

void fail_kernel(const char* what, Where where) { runner->fail(what, where); }

void run_vote(void* const* lanes, unsigned lane_count) {
  uint32_t ballot = 0;
  for (unsigned i = 0; i < lane_count; ++i) ballot |= static_cast<uint32_t>(static_cast<Vote*>(lanes[i])->value) << i;
  for (unsigned i = 0; i < lane_count; ++i) static_cast<Vote*>(lanes[i])->ballot = ballot;
}

void run_nothing(void* const*, unsigned) {}

void poison(void* memory, size_t bytes) {
  constexpr uint64_t kPattern = 0x7ffb7ffb7ffb7ffb;
  auto* target = static_cast<unsigned char*>(memory);
  size_t done = std::min(bytes, sizeof(kPattern));
  std::memcpy(target, &kPattern, done);
  while (done < bytes) {
    const size_t more = std::min({done, bytes - done, size_t{4096}});
    std::memcpy(target + done, target, more);
    done += more;
  }
}

}  // namespace heddle::emulator
