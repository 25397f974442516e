// The CUDA emulator itself: that kernels compute what a GPU computes, and that what a GPU refuses or hangs on is found.
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "../emulator/host_state.h"
#include "../test.h"
#include "core/dtype.h"
#include "cuda/launch.h"
#include "cuda/ptx.cuh"

namespace heddle::test {
namespace {

namespace ptx = cuda::ptx;

// Device memory with the contents of a vector, and back.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : count_(values.size()) {
    check(cudaMalloc(&data_, count_ * sizeof(T)) == cudaSuccess, "cudaMalloc");
    cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice);
  }
  ~OnDevice() { (void)cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* get() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> values(count_);
    check(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess, "reading back");
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

template <class... P, class... A>
cudaError_t run(dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(P...), A... arguments) {
  return emulator::launch_kernel("test", grid, block, shared_bytes, nullptr, kernel, static_cast<P>(arguments)...);
}

// A variable of the environment for a scope.
class Setting {
 public:
  Setting(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Setting() { unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
};

// Expects a kernel to fail with a text that contains `what`, and repairs the device.
template <class... P, class... A>
void expect_failure(const char* what, dim3 block, void (*kernel)(P...), A... arguments) {
  emulator::print_failures(false);
  check(run(1, block, 64, kernel, arguments...) == cudaErrorLaunchFailure, what, ": the launch did not fail");
  check(emulator::last_failure().find(what) != std::string::npos, "expected \"", what, "\", got \"", emulator::last_failure(), "\"");
  check(cudaDeviceSynchronize() == cudaErrorLaunchFailure, what, ": the device is not broken");
  check(cudaGetLastError() == cudaErrorLaunchFailure && cudaGetLastError() == cudaErrorLaunchFailure, what, ": the error does not stay");
  emulator::repair_devices();
  emulator::print_failures(true);
  check(cudaDeviceSynchronize() == cudaSuccess, what, ": the device was not repaired");
}

// ---- indices, barriers, shared memory ----

__global__ void write_index(int* out) {
  const int block = static_cast<int>(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  const int thread = static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  const int threads = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  out[block * threads + thread] = block * threads + thread;
}

// Each block turns its 256 elements round, through shared memory, and sums them by a tree.
__global__ void turn_and_sum(const int* in, int* out, int* sums) {
  __shared__ int tile[256];
  int* const tree = reinterpret_cast<int*>(emulator::dynamic_shared());
  const unsigned i = threadIdx.x;
  tile[i] = in[blockIdx.x * 256 + i];
  tree[i] = tile[i];
  __syncthreads();
  out[blockIdx.x * 256 + i] = tile[255 - i];
  for (unsigned half = 128; half > 0; half /= 2) {
    if (i < half) tree[i] += tree[i + half];
    __syncthreads();
  }
  if (i == 0) sums[blockIdx.x] = tree[0];
}

__global__ void count_votes(const int* in, int* out) {
  const int i = static_cast<int>(threadIdx.x);
  out[3 * i] = __syncthreads_count(in[i]);
  out[3 * i + 1] = __syncthreads_or(in[i]);
  out[3 * i + 2] = __syncthreads_and(in[i]);
}

// What races on purpose is not for the thread sanitizer.
#if defined(__SANITIZE_THREAD__)
constexpr bool kMayRace = false;
#else
constexpr bool kMayRace = true;
#endif

// Neighbours without a barrier between writing and reading.
__global__ void forget_barrier(int* out) {
  __shared__ int tile[64];
  tile[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = tile[(threadIdx.x + 1) % 64];
}

__global__ void read_unwritten(float* out) {
  __shared__ float tile[32];
  out[threadIdx.x] = tile[threadIdx.x];
  out[32 + threadIdx.x] = reinterpret_cast<float*>(emulator::dynamic_shared())[threadIdx.x];
  __syncthreads();
  tile[threadIdx.x] = 1;
}

HEDDLE_TEST(emulator_numbers_threads_and_blocks) {
  const dim3 grid(3, 2, 2);
  const dim3 block(5, 3, 2);
  const OnDevice<int> out(std::vector<int>(12 * 30, -1));
  check(run(grid, block, 0, write_index, out.get()) == cudaSuccess, "launch");
  const std::vector<int> values = out.values();
  for (int i = 0; i < 12 * 30; ++i) check(values[static_cast<size_t>(i)] == i, "thread ", i);
}

HEDDLE_TEST(emulator_holds_threads_at_barriers_in_every_order) {
  std::vector<int> in(4 * 256);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int>(i * 7 % 1000);
  const OnDevice<int> x(in), y(std::vector<int>(in.size())), sums(std::vector<int>(4));
  for (const char* seed : {"0", "1", "2", "3", "4"}) {
    const Setting setting("HEDDLE_EMULATOR_SEED", seed);
    check(run(4, 256, 1024, turn_and_sum, x.get(), y.get(), sums.get()) == cudaSuccess, "launch");
    const std::vector<int> turned = y.values();
    for (size_t b = 0; b < 4; ++b) {
      int sum = 0;
      for (size_t i = 0; i < 256; ++i) {
        sum += in[b * 256 + i];
        check(turned[b * 256 + i] == in[b * 256 + 255 - i], "block ", b, " element ", i);
      }
      check(sums.values()[b] == sum, "sum of block ", b);
    }
  }
}

HEDDLE_TEST(emulator_counts_votes_of_a_block) {
  std::vector<int> in(96, 0);
  in[3] = in[70] = 1;
  const OnDevice<int> x(in), y(std::vector<int>(96 * 3));
  check(run(1, 96, 0, count_votes, x.get(), y.get()) == cudaSuccess, "launch");
  const std::vector<int> out = y.values();
  for (size_t i = 0; i < 96; ++i) check(out[3 * i] == 2 && out[3 * i + 1] == 1 && out[3 * i + 2] == 0, "thread ", i);
}

HEDDLE_TEST(emulator_shows_a_missing_barrier) {
  if (!kMayRace) return;
  int wrong = 0;
  const OnDevice<int> out(std::vector<int>(64));
  for (int launch = 0; launch < 4; ++launch) {
    check(run(1, 64, 0, forget_barrier, out.get()) == cudaSuccess, "launch");
    const std::vector<int> values = out.values();
    for (size_t i = 0; i < 64; ++i) wrong += values[i] != static_cast<int>((i + 1) % 64);
  }
  check(wrong > 0, "a kernel without its barrier was right");
}

HEDDLE_TEST(emulator_poisons_shared_and_device_memory) {
  const OnDevice<float> out(std::vector<float>(64));
  for (int launch = 0; launch < 2; ++launch) {
    check(run(1, 32, 128, read_unwritten, out.get()) == cudaSuccess, "launch");
    for (const float value : out.values()) check(std::isnan(value), "unwritten shared memory held ", value);
  }
  float* fresh = nullptr;
  std::vector<float> values(1000);
  check(cudaMalloc(&fresh, 4000) == cudaSuccess, "cudaMalloc");
  cudaMemcpy(values.data(), fresh, 4000, cudaMemcpyDeviceToHost);
  for (const float value : values) check(std::isnan(value), "fresh device memory held ", value);
  cudaFree(fresh);
}

// ---- warps ----

template <class T>
__global__ void shuffles(const T* in, T* out) {
  const unsigned i = threadIdx.x;
  out[i] = __shfl_sync(0xffffffffu, in[i], 5);
  out[128 + i] = __shfl_xor_sync(0xffffffffu, in[i], 12);
  out[256 + i] = __shfl_down_sync(0xffffffffu, in[i], 3);
  out[384 + i] = __shfl_up_sync(0xffffffffu, in[i], 3);
  out[512 + i] = __shfl_sync(0xffffffffu, in[i], static_cast<int>(i) + 1, 8);
  out[640 + i] = __shfl_down_sync(0xffffffffu, in[i], 1, 16);
}

template <class T>
void expect_shuffles() {
  std::vector<T> in(128);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<T>(i * i + 1);
  const OnDevice<T> x(in), y(std::vector<T>(768));
  check(run(1, 128, 0, shuffles<T>, x.get(), y.get()) == cudaSuccess, "launch");
  const std::vector<T> out = y.values();
  for (size_t i = 0; i < 128; ++i) {
    const size_t warp = i / 32 * 32;
    const size_t lane = i % 32;
    check(out[i] == in[warp + 5], "broadcast to ", i);
    check(out[128 + i] == in[warp + (lane ^ 12)], "xor to ", i);
    check(out[256 + i] == in[warp + (lane + 3 < 32 ? lane + 3 : lane)], "down to ", i);
    check(out[384 + i] == in[warp + (lane >= 3 ? lane - 3 : lane)], "up to ", i);
    check(out[512 + i] == in[i / 8 * 8 + (i + 1) % 8], "broadcast in eighths to ", i);
    check(out[640 + i] == in[i % 16 == 15 ? i : i + 1], "down in halves to ", i);
  }
}

__global__ void votes(const int* in, unsigned* out) {
  const unsigned i = threadIdx.x;
  out[3 * i] = __ballot_sync(0xffffffffu, in[i]);
  out[3 * i + 1] = static_cast<unsigned>(__any_sync(0xffffffffu, in[i]));
  out[3 * i + 2] = static_cast<unsigned>(__all_sync(0xffffffffu, in[i]));
}

__global__ void sum_of_partial_warp(float* out) {
  float sum = 1;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, static_cast<unsigned>(step));
  if (threadIdx.x == 0) *out = sum;
}

HEDDLE_TEST(emulator_shuffles_numbers_of_32_and_64_bits) {
  expect_shuffles<int>();
  expect_shuffles<unsigned>();
  expect_shuffles<float>();
  expect_shuffles<double>();
  expect_shuffles<long long>();
}

HEDDLE_TEST(emulator_votes_in_warps) {
  std::vector<int> in(64, 1);
  for (size_t i = 0; i < 32; ++i) in[i] = i == 4 || i == 31;
  const OnDevice<int> x(in);
  const OnDevice<unsigned> y(std::vector<unsigned>(192));
  check(run(1, 64, 0, votes, x.get(), y.get()) == cudaSuccess, "launch");
  const std::vector<unsigned> out = y.values();
  for (size_t i = 0; i < 64; ++i) {
    check(out[3 * i] == (i < 32 ? 1u << 4 | 1u << 31 : 0xffffffffu), "ballot of ", i);
    check(out[3 * i + 1] == 1 && out[3 * i + 2] == (i < 32 ? 0 : 1), "any and all of ", i);
  }
}

HEDDLE_TEST(emulator_gives_nothing_useful_from_lanes_that_do_not_exist) {
  const OnDevice<float> out(std::vector<float>(1));
  check(run(1, 20, 0, sum_of_partial_warp, out.get()) == cudaSuccess, "launch");
  check(std::isnan(out.values()[0]), "20 lanes summed to ", out.values()[0]);
  check(run(1, 32, 0, sum_of_partial_warp, out.get()) == cudaSuccess && out.values()[0] == 32, "32 lanes summed to ", out.values()[0]);
}

// ---- tensor cores ----

// d = a · b by fragments that are filled as the PTX ISA numbers them, element by element.
template <bool Half>
__global__ void multiply(const uint16_t* a, const uint16_t* b, const float* c, float* d) {
  const unsigned g = threadIdx.x / 4;
  const unsigned t = threadIdx.x % 4;
  uint32_t af[4] = {}, bf[2] = {};
  float df[4];
  for (unsigned i = 0; i < 8; ++i) {
    const unsigned row = i < 2 || (i >= 4 && i < 6) ? g : g + 8;
    const unsigned column = 2 * t + (i & 1) + (i < 4 ? 0 : 8);
    af[i / 2] |= uint32_t{a[row * 16 + column]} << (16 * (i & 1));
  }
  for (unsigned i = 0; i < 4; ++i) bf[i / 2] |= uint32_t{b[(2 * t + (i & 1) + (i < 2 ? 0 : 8)) * 8 + g]} << (16 * (i & 1));
  for (unsigned i = 0; i < 4; ++i) df[i] = c[(i < 2 ? g : g + 8) * 8 + 2 * t + (i & 1)];
  if constexpr (Half) ptx::mma_float16(df, af, bf);
  else ptx::mma_bfloat16(df, af, bf);
  for (unsigned i = 0; i < 4; ++i) d[(i < 2 ? g : g + 8) * 8 + 2 * t + (i & 1)] = df[i];
}

template <bool Half>
void expect_product() {
  Random random(7);
  std::vector<uint16_t> a(256), b(128);
  std::vector<double> af(256), bf(128);
  const auto narrow = [](float x) { return Half ? float_to_float16(x) : float_to_bfloat16(x); };
  const auto wide = [](uint16_t x) { return double{Half ? float16_to_float(x) : bfloat16_to_float(x)}; };
  for (size_t i = 0; i < 256; ++i) af[i] = wide(a[i] = narrow(random.uniform()));
  for (size_t i = 0; i < 128; ++i) bf[i] = wide(b[i] = narrow(random.uniform()));
  const std::vector<float> c = random.uniform_vector(128);
  const OnDevice<uint16_t> da(a), db(b);
  const OnDevice<float> dc(c), dd(std::vector<float>(128));
  check(run(1, 32, 0, multiply<Half>, da.get(), db.get(), dc.get(), dd.get()) == cudaSuccess, "launch");
  const std::vector<float> d = dd.values();
  for (size_t i = 0; i < 16; ++i) {
    for (size_t j = 0; j < 8; ++j) {
      double sum = c[i * 8 + j];
      for (size_t k = 0; k < 16; ++k) sum += af[i * 16 + k] * bf[k * 8 + j];
      check_close(d[i * 8 + j], sum, 1e-5, "element ", i, ", ", j);
    }
  }
}

// A 16x16 matrix from shared memory, straight or transposed, as the four fragments that mma wants of its left factor.
template <bool Transposed>
__global__ void load_fragments(const uint16_t* in, uint16_t* out) {
  __shared__ __align__(16) uint16_t tile[16][24];
  const unsigned lane = threadIdx.x;
  for (unsigned i = lane; i < 256; i += 32) tile[i / 16][i % 16] = in[i];
  __syncwarp();
  uint32_t r[4];
  const void* row = &tile[lane % 16][lane / 16 * 8];
  if constexpr (Transposed) ptx::load_matrix_x4_transposed(r, row);
  else ptx::load_matrix_x4(r, row);
  for (unsigned m = 0; m < 4; ++m) {
    for (unsigned half = 0; half < 2; ++half) {
      const unsigned i = lane / 4 + 8 * (m % 2);
      const unsigned j = 2 * (lane % 4) + half + 8 * (m / 2);
      out[i * 16 + j] = static_cast<uint16_t>(r[m] >> (16 * half));
    }
  }
}

HEDDLE_TEST(emulator_multiplies_fragments_as_tensor_cores) {
  expect_product<false>();
  expect_product<true>();
}

HEDDLE_TEST(emulator_loads_matrices_into_fragments) {
  std::vector<uint16_t> in(256);
  for (size_t i = 0; i < 256; ++i) in[i] = static_cast<uint16_t>(i);
  const OnDevice<uint16_t> x(in), y(std::vector<uint16_t>(256));
  check(run(1, 32, 0, load_fragments<false>, x.get(), y.get()) == cudaSuccess && y.values() == in, "straight");
  check(run(1, 32, 0, load_fragments<true>, x.get(), y.get()) == cudaSuccess, "transposed");
  const std::vector<uint16_t> out = y.values();
  for (size_t i = 0; i < 16; ++i) {      // each 8x8 matrix is transposed where it is
    for (size_t j = 0; j < 16; ++j) {
      const size_t source = (i / 8 * 8 + j % 8) * 16 + j / 8 * 8 + i % 8;
      check(out[i * 16 + j] == in[source], "transposed ", i, ", ", j);
    }
  }
}

// ---- background copies ----

template <bool Wait>
__global__ void copy_in_background(const uint4* in, uint4* out) {
  __shared__ uint4 tile[2][64];
  ptx::copy_async_16(&tile[0][threadIdx.x], in + threadIdx.x);
  ptx::copy_async_commit();
  ptx::copy_async_16(&tile[1][threadIdx.x], in + 64 + threadIdx.x, threadIdx.x < 60);
  ptx::copy_async_commit();
  if constexpr (Wait) ptx::copy_async_wait<1>();
  __syncthreads();
  out[threadIdx.x] = tile[0][63 - threadIdx.x];
  if constexpr (Wait) ptx::copy_async_wait<0>();
  __syncthreads();
  out[64 + threadIdx.x] = tile[1][63 - threadIdx.x];
}

HEDDLE_TEST(emulator_finishes_background_copies_when_they_are_waited_for) {
  std::vector<uint4> in(128);
  for (unsigned i = 0; i < 128; ++i) in[i] = make_uint4(i, i + 1, i + 2, i + 3);
  const OnDevice<uint4> x(in), y(in);
  int wrong_without = 0;
  for (int launch = 0; launch < 4; ++launch) {
    check(run(1, 64, 0, copy_in_background<true>, x.get(), y.get()) == cudaSuccess, "launch");
    const std::vector<uint4> out = y.values();
    for (unsigned i = 0; i < 64; ++i) {
      check(out[i].x == 63 - i && out[i].w == 66 - i, "first half ", i);
      check(out[64 + i].y == (i < 4 ? 0 : 128 - i), "second half ", i, ": ", out[64 + i].y);
    }
    if (!kMayRace) continue;
    check(run(1, 64, 0, copy_in_background<false>, x.get(), y.get()) == cudaSuccess, "launch");
    const std::vector<uint4> early = y.values();
    for (unsigned i = 0; i < 64; ++i) wrong_without += early[i].x != 63 - i;
  }
  check(wrong_without > 0 || !kMayRace, "a missing wait does not show");
}

// ---- atomics and waiting ----

__global__ void last_block(unsigned* counter, float* total, int* last) {
  __shared__ unsigned ticket;
  atomicAdd(total, 1.0f);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) ticket = atomicInc(counter, gridDim.x - 1);
  __syncthreads();
  if (ticket == gridDim.x - 1) atomicMax(last, static_cast<int>(*total));
}

__global__ void answer(uint32_t* mine, const uint32_t* other, uint32_t* rounds) {
  for (uint32_t round = 1; round <= 50; ++round) {
    if (threadIdx.x == 0) ptx::store_release_system(mine, round);
    while (ptx::load_acquire_system(other) < round) ptx::pause();
    __syncthreads();
  }
  if (threadIdx.x == 0) *rounds = 50;
}

HEDDLE_TEST(emulator_tells_the_last_block) {
  const OnDevice<unsigned> counter({0});
  const OnDevice<float> total({0});
  const OnDevice<int> last({-1});
  check(run(7, 64, 0, last_block, counter.get(), total.get(), last.get()) == cudaSuccess, "launch");
  check(last.values()[0] == 7 * 64 && counter.values()[0] == 0, "the last block saw ", last.values()[0]);
}

HEDDLE_TEST(emulator_kernels_of_two_threads_wait_for_each_other) {
  const OnDevice<uint32_t> words(std::vector<uint32_t>(2)), rounds(std::vector<uint32_t>(2));
  const auto rank = [&](int i) {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess, "stream");
    const auto body = [&words, &rounds, i] { answer(words.get() + i, words.get() + (1 - i), rounds.get() + i); };
    check(emulator::launch(1, 64, 0, stream, body) == cudaSuccess, "launch of ", i);
    check(cudaStreamSynchronize(stream) == cudaSuccess && cudaStreamDestroy(stream) == cudaSuccess, "end of ", i);
  };
  std::thread other([&] { rank(1); });
  rank(0);
  other.join();
  check(rounds.values() == std::vector<uint32_t>({50, 50}), "rounds");
}

// ---- what goes wrong in kernels ----

__global__ void return_early() {
  if (threadIdx.x == 3) return;
  __syncthreads();
}
__global__ void return_before_shuffle(float* out) {
  if (threadIdx.x == 3) return;
  out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}
__global__ void part_ways() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void part_ways_in_warp(float* out) {
  if (threadIdx.x % 2) *out = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
  else *out = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}
__global__ void half_mask(float* out) {
  if (threadIdx.x < 16) *out = __shfl_xor_sync(0xffffu, 1.0f, 1);
}
__global__ void load_from_odd_address(const uint32_t* in, uint4* out) { *out = ptx::load_streaming(in + 1); }
__global__ void overrun() { emulator::dynamic_shared()[64 + threadIdx.x % 2] = 1; }
__global__ void throw_text() { throw std::runtime_error("thrown text"); }

HEDDLE_TEST(emulator_finds_threads_that_would_wait_for_ever) {
  const OnDevice<float> out(std::vector<float>(64));
  expect_failure("waits at the barrier", 64, return_early);
  expect_failure("waits for its warp", 64, return_before_shuffle, out.get());
  expect_failure("different barriers", 64, part_ways);
  expect_failure("different operations", 64, part_ways_in_warp, out.get());
  expect_failure("mask is not full", 32, half_mask, out.get());
}

HEDDLE_TEST(emulator_finds_vector_accesses_that_are_not_aligned) {
  const OnDevice<uint32_t> in(std::vector<uint32_t>(8));
  const OnDevice<uint4> out(std::vector<uint4>(1));
  expect_failure("not aligned", 1, load_from_odd_address, in.get(), out.get());
}

HEDDLE_TEST(emulator_finds_writes_beyond_dynamic_shared_memory) { expect_failure("beyond its 64 bytes", 32, overrun); }

HEDDLE_TEST(emulator_keeps_exceptions_inside_launches) { expect_failure("thrown text", 32, throw_text); }

HEDDLE_TEST(emulator_refuses_what_no_gpu_would_launch) {
  const OnDevice<int> out({0});
  check(run(dim3(0), 32, 0, write_index, out.get()) == cudaErrorInvalidConfiguration, "no blocks");
  check(run(1, dim3(32, 0), 0, write_index, out.get()) == cudaErrorInvalidConfiguration, "no threads");
  check(run(1, 1025, 0, write_index, out.get()) == cudaErrorInvalidValue, "1025 threads");
  check(run(1, dim3(64, 32), 0, write_index, out.get()) == cudaErrorInvalidValue, "2048 threads");
  check(run(dim3(1, 65536), 32, 0, write_index, out.get()) == cudaErrorInvalidValue, "65536 rows of blocks");
  check(run(1, 32, 228 * 1024, write_index, out.get()) == cudaErrorInvalidValue, "too much shared memory");
  check(cudaGetLastError() == cudaErrorInvalidValue && cudaGetLastError() == cudaSuccess, "an error that passes");
  check(run(1, 1, 227 * 1024, write_index, out.get()) == cudaSuccess, "the most shared memory");
  const Setting setting("HEDDLE_EMULATOR_COMPUTE_CAPABILITY", "80");
  check(run(1, 1, 164 * 1024, write_index, out.get()) == cudaErrorInvalidValue, "too much for sm_80");
  cudaGetLastError();
}

HEDDLE_TEST(emulator_refuses_addresses_of_the_host) {
  std::vector<int> host(64);
  int* pinned = nullptr;
  check(cudaMallocHost(&pinned, 256) == cudaSuccess, "pinned memory");
  check(run(1, 32, 0, write_index, host.data() + 1) == cudaErrorIllegalAddress, "pageable memory");
  check(run(1, 32, 0, write_index, pinned) == cudaSuccess && pinned[31] == 31, "page-locked memory");
  cudaFreeHost(pinned);
}

HEDDLE_TEST(emulator_fails_the_launch_that_was_named) {
  const OnDevice<int> out({0});
  emulator::print_failures(false);
  emulator::fail_launch(2);
  check(run(1, 1, 0, write_index, out.get()) == cudaSuccess, "first");
  check(run(1, 1, 0, write_index, out.get()) == cudaErrorLaunchFailure, "second");
  check(run(1, 1, 0, write_index, out.get()) == cudaErrorLaunchFailure, "after it");
  void* memory = nullptr;
  check(cudaMalloc(&memory, 16) == cudaErrorLaunchFailure, "memory of a broken device");
  emulator::repair_devices();
  {
    const Setting setting("HEDDLE_EMULATOR_FAIL_LAUNCH", "1");
    check(run(1, 1, 0, write_index, out.get()) == cudaErrorLaunchFailure, "by the environment");
    emulator::repair_devices();
    check(run(1, 1, 0, write_index, out.get()) == cudaSuccess, "once");
  }
  emulator::print_failures(true);
}

// ---- memory, streams, graphs ----

HEDDLE_TEST(emulator_limits_memory) {
  const Setting setting("HEDDLE_EMULATOR_MEMORY", "1048576");
  const int64_t before = emulator::counters().device_bytes;
  size_t free = 0, total = 0;
  void* large = nullptr;
  void* small = nullptr;
  check(cudaMalloc(&large, 1 << 21) == cudaErrorMemoryAllocation && !large, "twice what there is");
  check(cudaGetLastError() == cudaErrorMemoryAllocation, "last error");
  check(cudaMalloc(&large, 1 << 19) == cudaSuccess, "half");
  check(cudaMemGetInfo(&free, &total) == cudaSuccess && total == 1 << 20 && free <= 1 << 19, "free bytes");
  check(cudaMalloc(&small, (1 << 19) + 256) == cudaErrorMemoryAllocation, "more than the rest");
  cudaGetLastError();
  check(emulator::counters().device_bytes == before + (1 << 19), "bytes in use");
  check(cudaFree(large) == cudaSuccess && emulator::counters().device_bytes == before, "bytes after cudaFree");
  check(cudaFree(large) == cudaErrorInvalidValue, "freed twice");
  check(cudaMalloc(&small, 0) == cudaSuccess && !small, "nothing");
  cudaGetLastError();
}

HEDDLE_TEST(emulator_refuses_copies_out_of_bounds_or_in_the_wrong_direction) {
  const OnDevice<int> x(std::vector<int>(64));
  std::vector<int> host(128);
  check(cudaMemcpy(x.get(), host.data(), 65 * 4, cudaMemcpyHostToDevice) == cudaErrorInvalidValue, "too many");
  check(cudaMemcpy(host.data(), x.get() + 1, 64 * 4, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue, "too far");
  check(cudaMemcpy(x.get() - 1, host.data(), 8, cudaMemcpyHostToDevice) == cudaErrorInvalidValue, "too early");
  check(cudaMemcpy(host.data(), x.get(), 16, cudaMemcpyHostToDevice) == cudaErrorInvalidValue, "wrong direction");
  check(cudaMemset(x.get(), 0, 64 * 4 + 1) == cudaErrorInvalidValue, "set too many");
  check(cudaMemcpy(x.get(), host.data(), 64 * 4, cudaMemcpyDefault) == cudaSuccess, "direction found");
  check(cudaMemcpy2D(x.get(), 32, host.data(), 64, 16, 8, cudaMemcpyHostToDevice) == cudaSuccess, "rows");
  check(cudaMemcpy2D(x.get(), 32, host.data(), 64, 36, 8, cudaMemcpyHostToDevice) == cudaErrorInvalidValue, "rows wider than their pitch");
  check(cudaMemcpy2D(x.get(), 32, host.data(), 64, 16, 9, cudaMemcpyHostToDevice) == cudaErrorInvalidValue, "too many rows");
  cudaGetLastError();
}

__global__ void add_one(int* x) { x[threadIdx.x] += 1; }

struct StreamAndEvent {
  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  StreamAndEvent() {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess, "stream");
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess, "event");
  }
  ~StreamAndEvent() {
    (void)cudaStreamDestroy(stream);
    (void)cudaEventDestroy(event);
  }
};

cudaError_t launch_add_one(cudaStream_t stream, int* x) {
  return emulator::launch(1, 32, 0, stream, [x] { add_one(x); }, "add_one");
}

HEDDLE_TEST(emulator_replays_captured_graphs) {
  const OnDevice<int> x(std::vector<int>(32)), y(std::vector<int>(32));
  const StreamAndEvent main, side;
  check(cudaStreamBeginCapture(main.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "begin");
  check(launch_add_one(main.stream, x.get()) == cudaSuccess, "captured launch");
  check(cudaEventRecord(main.event, main.stream) == cudaSuccess && cudaStreamWaitEvent(side.stream, main.event) == cudaSuccess, "fork");
  check(cudaMemcpyAsync(y.get(), x.get(), 128, cudaMemcpyDeviceToDevice, side.stream) == cudaSuccess, "captured copy");
  check(cudaEventRecord(side.event, side.stream) == cudaSuccess && cudaStreamWaitEvent(main.stream, side.event) == cudaSuccess, "join");
  check(cudaMemsetAsync(x.get() + 31, 0, 4, main.stream) == cudaSuccess, "captured memset");
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check(cudaStreamEndCapture(main.stream, &graph) == cudaSuccess, "end");
  check(x.values()[0] == 0, "a captured kernel ran");
  check(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess && cudaGraphDestroy(graph) == cudaSuccess, "instantiate");
  check(cudaGraphUpload(exec, main.stream) == cudaSuccess, "upload");
  for (int i = 0; i < 3; ++i) check(cudaGraphLaunch(exec, main.stream) == cudaSuccess, "launch ", i);
  check(cudaStreamSynchronize(main.stream) == cudaSuccess, "synchronize");
  check(x.values()[0] == 3 && x.values()[31] == 0, "x after three launches");
  check(y.values()[0] == 3 && y.values()[31] == 1, "y after three launches");
  check(cudaGraphExecDestroy(exec) == cudaSuccess, "destroy");
  check(cudaGraphLaunch(exec, main.stream) == cudaErrorInvalidResourceHandle, "a graph that was destroyed");
  cudaGetLastError();
}

HEDDLE_TEST(emulator_refuses_what_a_capture_forbids) {
  const OnDevice<int> x(std::vector<int>(32));
  const StreamAndEvent main, side;
  cudaGraph_t graph = nullptr;
  const auto spoiled = [&](const char* what, auto&& call, cudaError_t expected) {
    check(cudaStreamBeginCapture(main.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess, what, ": begin");
    const cudaError_t got = call();
    check(got == expected, what, ": expected ", cudaGetErrorName(expected), ", got ", cudaGetErrorName(got));
    check(cudaStreamEndCapture(main.stream, &graph) == cudaErrorStreamCaptureInvalidated && !graph, what, ": end");
    cudaGetLastError();
  };
  void* memory = nullptr;
  spoiled("cudaMalloc", [&] { return cudaMalloc(&memory, 16); }, cudaErrorStreamCaptureUnsupported);
  spoiled("cudaFree", [&] { return cudaFree(x.get()); }, cudaErrorStreamCaptureUnsupported);
  spoiled("synchronize", [&] { return cudaStreamSynchronize(main.stream); }, cudaErrorStreamCaptureUnsupported);
  spoiled("query", [&] { return cudaStreamQuery(main.stream); }, cudaErrorStreamCaptureUnsupported);
  spoiled("event query", [&] { return cudaEventQuery(side.event); }, cudaErrorStreamCaptureUnsupported);
  spoiled("cudaMemcpy", [&] { return cudaMemcpy(x.get(), x.get() + 16, 16, cudaMemcpyDefault); }, cudaErrorStreamCaptureUnsupported);
  cudaEventRecord(side.event, side.stream);
  spoiled("event of another stream", [&] { return cudaStreamWaitEvent(main.stream, side.event); }, cudaErrorStreamCaptureIsolation);

  check(cudaStreamBeginCapture(main.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "begin");
  std::thread([&] {
    void* other = nullptr;
    check(cudaMalloc(&other, 16) == cudaSuccess && cudaFree(other) == cudaSuccess, "another thread during a thread-local capture");
  }).join();
  cudaEventRecord(main.event, main.stream);
  cudaStreamWaitEvent(side.stream, main.event);
  launch_add_one(side.stream, x.get());
  check(cudaStreamEndCapture(main.stream, &graph) == cudaErrorStreamCaptureUnjoined, "a fork that was not joined");
  check(cudaStreamSynchronize(main.stream) == cudaSuccess && cudaStreamSynchronize(side.stream) == cudaSuccess, "after the captures");
  check(x.values()[0] == 0, "work of a failed capture ran");
  cudaGetLastError();
}

HEDDLE_TEST(emulator_streams_may_run_late) {
  const Setting setting("HEDDLE_EMULATOR_ASYNC", "1");
  const OnDevice<int> x(std::vector<int>(32));
  int* pinned = nullptr;
  check(cudaMallocHost(&pinned, 128) == cudaSuccess, "pinned memory");
  std::fill(pinned, pinned + 32, -1);
  {
    const StreamAndEvent first, second;
    std::atomic<bool> open{false};
    cudaLaunchHostFunc(first.stream, [](void* flag) { static_cast<std::atomic<bool>*>(flag)->wait(false); }, &open);
    check(launch_add_one(first.stream, x.get()) == cudaSuccess, "launch");
    check(cudaEventRecord(first.event, first.stream) == cudaSuccess, "record");
    check(cudaStreamWaitEvent(second.stream, first.event) == cudaSuccess, "wait");
    check(cudaMemcpyAsync(pinned, x.get(), 128, cudaMemcpyDeviceToHost, second.stream) == cudaSuccess, "copy");
    check(cudaEventQuery(first.event) == cudaErrorNotReady && cudaStreamQuery(second.stream) == cudaErrorNotReady, "before it ran");
    check(pinned[0] == -1, "the copy came early");
    open = true;
    open.notify_all();
    check(cudaStreamSynchronize(second.stream) == cudaSuccess && pinned[0] == 1 && pinned[31] == 1, "after synchronize");
    check(cudaEventQuery(first.event) == cudaSuccess, "the event");
  }
  cudaFreeHost(pinned);
}

HEDDLE_TEST(emulator_broken_devices_keep_nobody_waiting) {
  const Setting setting("HEDDLE_EMULATOR_ASYNC", "1");
  const OnDevice<int> x(std::vector<int>(32));
  emulator::print_failures(false);
  {
    const StreamAndEvent late;
    emulator::fail_launch(1);
    launch_add_one(late.stream, x.get());
    (void)cudaEventRecord(late.event, late.stream);
    check(cudaEventSynchronize(late.event) == cudaErrorLaunchFailure, "event");
    check(cudaStreamSynchronize(late.stream) == cudaErrorLaunchFailure, "stream");
  }
  emulator::repair_devices();
  emulator::print_failures(true);
}

HEDDLE_TEST(emulator_has_as_many_devices_as_it_is_told) {
  const Setting setting("HEDDLE_EMULATOR_DEVICES", "3");
  int count = 0, can = 0, driver = 0;
  check(cudaGetDeviceCount(&count) == cudaSuccess && count == 3, "count");
  check(cudaSetDevice(3) == cudaErrorInvalidDevice, "a fourth device");
  check(cudaDeviceCanAccessPeer(&can, 0, 2) == cudaSuccess && can == 1, "peers");
  check(cudaSetDevice(1) == cudaSuccess, "the second");
  check(cudaDeviceEnablePeerAccess(2, 0) == cudaSuccess, "peer access");
  check(cudaDeviceEnablePeerAccess(2, 0) == cudaErrorPeerAccessAlreadyEnabled, "peer access again");
  check(cudaDeviceDisablePeerAccess(2) == cudaSuccess, "no peer access");
  {
    const StreamAndEvent other;
    cudaSetDevice(0);
    check(emulator::launch(1, 1, 0, other.stream, [] {}) == cudaErrorInvalidResourceHandle, "a stream of another device");
  }
  const Setting apart("HEDDLE_EMULATOR_PEER_ACCESS", "0");
  check(cudaDeviceCanAccessPeer(&can, 0, 2) == cudaSuccess && can == 0, "no peers");
  const Setting old("HEDDLE_EMULATOR_DRIVER_VERSION", "12080");
  check(cudaDriverGetVersion(&driver) == cudaSuccess && driver == 12080, "driver");
  check(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver && count == 0, "an old driver");
  cudaGetLastError();
}

HEDDLE_TEST(emulator_counts_what_lives) {
  const emulator::Counters before = emulator::counters();
  emulator::clear_launch_names();
  {
    const OnDevice<int> x(std::vector<int>(32));
    const StreamAndEvent both;
    launch_add_one(both.stream, x.get());
    const emulator::Counters now = emulator::counters();
    check(now.streams == before.streams + 1 && now.events == before.events + 1, "handles");
    check(now.device_allocations == before.device_allocations + 1 && now.device_bytes == before.device_bytes + 128, "memory");
    check(now.launches == before.launches + 1 && emulator::launch_names() == std::vector<std::string>({"add_one"}), "launches");
  }
  const emulator::Counters after = emulator::counters();
  check(after.streams == before.streams && after.events == before.events && after.device_allocations == before.device_allocations, "leaks");
}

}  // namespace
}  // namespace heddle::test
