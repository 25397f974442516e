// Filling device memory through page-locked chunks: what arrives, what is one copy, and that no chunk is written before it was copied.
#include "cuda/fill_target.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "../test.h"
#include "core/fill.h"
#include "on_device.h"

namespace heddle::test {
namespace {

// On the emulator copies come late then, as on a GPU.
class LateCopies {
 public:
  LateCopies() { ::setenv("HEDDLE_EMULATOR_ASYNC", "1", 1); }
  ~LateCopies() { ::unsetenv("HEDDLE_EMULATOR_ASYNC"); }
};

// A tensor of zeros.
struct OnGpu {
  OnGpu(const cuda::Device& given, size_t bytes) : device(given), memory(cuda::device_memory(bytes, "test")) {
    cuda::check(cudaMemsetAsync(memory.data(), 0, bytes, device.stream()), "test");
  }
  std::vector<uint8_t> read() const {
    std::vector<uint8_t> bytes(memory.bytes());
    to_host(device, bytes.data(), memory.data(), bytes.size());
    return bytes;
  }
  const cuda::Device& device;
  Buffer memory;
};

void write(FillTarget& target, std::vector<uint8_t>& expected, size_t offset, size_t bytes, Random& random) {
  char* place = target.claim(offset, bytes);
  for (size_t i = 0; i < bytes; ++i) expected[offset + i] = static_cast<uint8_t>(random.next());
  std::memcpy(place, expected.data() + offset, bytes);
}

}  // namespace

HEDDLE_TEST(fill_target_takes_claims_of_any_order_and_size) {
  const LateCopies late;
  const cuda::Device device(0);
  cuda::FillStaging staging(device);
  constexpr size_t bytes = 3 * kLargestClaim / 2;
  Random random(5);
  for (int tensor = 0; tensor < 6; ++tensor) {        // two whole rings
    const OnGpu gpu(device, bytes);
    std::vector<uint8_t> expected(bytes);
    cuda::DeviceFillTarget target(staging, gpu.memory.data());
    write(target, expected, kLargestClaim / 2, kLargestClaim, random);
    size_t end = 0;
    for (int row = 0; row < 400; ++row) {             // neighbours, with a gap now and then
      const size_t length = static_cast<size_t>(1 + random.below(5000));
      write(target, expected, end, length, random);
      end += length + (row % 7 == 0 ? static_cast<size_t>(random.below(300)) : 0);
    }
    write(target, expected, 100, 1000, random);       // what is claimed later holds
    target.finish();
    check(gpu.read() == expected, "tensor ", tensor);
  }
}

HEDDLE_TEST(fill_target_makes_one_copy_of_neighbours) {
  const cuda::Device device(0);
  cuda::FillStaging staging(device);
  const OnGpu gpu(device, 4096);
  cuda::DeviceFillTarget target(staging, gpu.memory.data());
  std::vector<uint8_t> expected(4096);
  char* first = target.claim(10, 30);
  std::memset(first, 1, 30);
  char* second = target.claim(40, 50);
  check(second == first + 30, "a neighbour lies behind");
  std::memset(second, 2, 50);
  char* apart = target.claim(91, 8);
  check(apart > second + 50 && reinterpret_cast<uintptr_t>(apart) % 64 == 0, "what is none begins aligned, in the same chunk");
  std::memset(apart, 3, 8);
  target.finish();
  std::memset(expected.data() + 10, 1, 30);
  std::memset(expected.data() + 40, 2, 50);
  std::memset(expected.data() + 91, 3, 8);
  check(gpu.read() == expected, "all of it arrives");
}

// Marks alone are written, so that the host is far ahead of the copies.
HEDDLE_TEST(fill_target_waits_for_the_copies_of_a_chunk_before_it_is_written_again) {
  const LateCopies late;
  const cuda::Device device(0);
  cuda::FillStaging staging(device);
  constexpr size_t count = 24;
  const OnGpu gpu(device, count * kLargestClaim);
  cuda::DeviceFillTarget target(staging, gpu.memory.data());
  for (size_t i = 0; i < count; ++i) std::memset(target.claim(i * kLargestClaim, kLargestClaim), static_cast<int>(i + 1), 16);
  target.finish();
  for (size_t i = 0; i < count; ++i) {
    uint8_t marks[16] = {};
    to_host(device, marks, static_cast<const char*>(gpu.memory.data()) + i * kLargestClaim, sizeof marks);
    for (const uint8_t mark : marks) check(mark == i + 1, "chunk ", i, " holds the mark of ", mark - 1);
  }
}

HEDDLE_TEST(fill_target_that_is_dropped_leaves_nothing_for_the_next) {
  const LateCopies late;
  const cuda::Device device(0);
  cuda::FillStaging staging(device);
  const OnGpu failed(device, 256);
  {
    cuda::DeviceFillTarget target(staging, failed.memory.data());
    std::memset(target.claim(0, 128), 7, 128);
    (void)target.claim(128, 128);                     // its bytes could not be read
  }
  const OnGpu next(device, 256);
  cuda::DeviceFillTarget target(staging, next.memory.data());
  std::memset(target.claim(0, 256), 9, 256);
  target.finish();
  check(next.read() == std::vector<uint8_t>(256, 9), "the next tensor");
  check(failed.read() == std::vector<uint8_t>(256, 0), "nothing was copied for the first");
}

HEDDLE_TEST(fill_target_takes_what_fill_reads_and_converts) {
  const LateCopies late;
  const cuda::Device device(0);
  cuda::FillStaging staging(device);
  constexpr int64_t rows = 3000;
  constexpr int64_t columns = 1500;
  const std::vector<float> values = Random(7).uniform_vector(static_cast<size_t>(rows * columns));
  const auto* first = reinterpret_cast<const uint8_t*>(values.data());
  Piece piece;
  piece.bytes = std::make_shared<const std::vector<uint8_t>>(first, first + values.size() * sizeof(float));
  piece.rows = rows;
  piece.row_stride = columns * sizeof(float);
  for (const int64_t width : {columns, columns - 1, int64_t{130}}) {       // dense, long rows, short rows
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      CreateTensor message;
      message.dtype = dtype;
      message.shape = {rows, width};
      piece.row_elements = piece.target_stride = width;
      message.pieces = {piece};
      const size_t bytes = static_cast<size_t>(rows * width) * size_of(dtype);
      std::vector<uint8_t> expected(bytes);
      SourceFiles files;
      FileCounters counters;
      const std::atomic<bool> cancelled{false};
      HostFillTarget host(expected.data());
      fill(host, message, files, counters, cancelled);
      const OnGpu gpu(device, bytes);
      cuda::DeviceFillTarget target(staging, gpu.memory.data());
      fill(target, message, files, counters, cancelled);
      check(gpu.read() == expected, width, " of ", columns, " columns as ", name_of(dtype));
    }
  }
}

HEDDLE_TEST(fill_target_fails_where_the_copy_is_refused) {
  const cuda::Device device(0);
  cuda::FillStaging staging(device);
  cuda::DeviceFillTarget target(staging, nullptr);
  std::memset(target.claim(0, 64), 1, 64);
  check_throws(ErrorCode::device_failed, [&] { target.finish(); }, "a copy to nowhere");
  const OnGpu gpu(device, 64);
  cuda::DeviceFillTarget good(staging, gpu.memory.data());
  std::memset(good.claim(0, 64), 1, 64);
  good.finish();
  check(gpu.read() == std::vector<uint8_t>(64, 1), "the next copy is not its business");
}

}  // namespace heddle::test
