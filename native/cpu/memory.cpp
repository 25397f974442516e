#include "cpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>

#include "core/error.h"

namespace heddle::cpu {

namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;

// The kernel grants a map before it has the pages, and kills the process when they run out. So the maps of all ranks
// are counted against what this process can ever have.
std::atomic<size_t> mapped_bytes{0};

size_t control_group_limit(const char* file) {
  size_t limit = 0;
  return std::ifstream(file) >> limit ? limit : std::numeric_limits<size_t>::max();  // "max" is no number
}

size_t total_memory() {
  static const size_t total =
      std::min({static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE)),
                control_group_limit("/sys/fs/cgroup/memory.max"),
                control_group_limit("/sys/fs/cgroup/memory/memory.limit_in_bytes")});
  return total;
}

[[noreturn]] void fail(size_t bytes) {
  throw Error(ErrorCode::out_of_memory,
              "cpu: could not allocate " + std::to_string(bytes) + " bytes: " + std::to_string(mapped_bytes.load()) +
                  " of " + std::to_string(total_memory()) + " bytes of memory are in use by models already");
}

Buffer allocate_small(size_t bytes) {
  const size_t rounded = std::max(bytes + kAlignment - 1, kAlignment) / kAlignment * kAlignment;
  void* data = std::aligned_alloc(kAlignment, rounded);
  if (!data) fail(bytes);
  std::memset(data, 0, rounded);
  return Buffer(data, bytes, [](void* memory, size_t) { std::free(memory); });
}

void reserve(size_t bytes) {
  size_t used = mapped_bytes.load();
  do {
    if (bytes > total_memory() || used > total_memory() - bytes) fail(bytes);
  } while (!mapped_bytes.compare_exchange_weak(used, used + bytes));
}

void release(void* data, size_t bytes) {
  munmap(data, bytes);
  mapped_bytes -= bytes;
}

}  // namespace

Buffer allocate(size_t bytes) {
  if (bytes < kHugePage) return allocate_small(bytes);
  reserve(bytes);
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    mapped_bytes -= bytes;
    fail(bytes);
  }
#ifdef MADV_HUGEPAGE
  madvise(data, bytes, MADV_HUGEPAGE);  // a wish: without huge pages it only runs slower
#endif
  return Buffer(data, bytes, release);
}

}  // namespace heddle::cpu
