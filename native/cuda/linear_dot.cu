// Matrix products for one to four rows of x: a warp takes weight rows one after another and lies in wait for nothing but memory.
// Rule: one block per multiprocessor, x in its shared memory, weights in one stream (linear_stream.cuh).
#include "cuda/launch.h"
#include "cuda/linear_epilogue.cuh"
#include "cuda/linear_kernels.h"
#include "cuda/linear_stream.cuh"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

struct DotWork {
  WeightMatrix weights;
  const void* x;
  const float* norm_weight;                           // null: none
  float norm_eps;
  DType x_dtype;
  bool x_aligned;
  int x_rows;
  int padded;                                         // in, rounded up to whole rounds; x is zero from `in` on
  int rounds;                                         // of a row
  int tiles;
  Epilogue epilogue;
};

template <int N>
__device__ __forceinline__ void load_input(const DotWork& work, int64_t index, float (&values)[N]) {
  if (!work.x_aligned) {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = read_element(work.x, work.x_dtype, index + i);
    return;
  }
  switch (work.x_dtype) {
    case DType::float32: return load(static_cast<const float*>(work.x) + index, values);
    case DType::bfloat16: return load(static_cast<const bfloat16*>(work.x) + index, values);
    case DType::float16: return load(static_cast<const float16*>(work.x) + index, values);
  }
}

// The factor of each row's RMS norm, on all threads.
template <int M, int N>
__device__ __forceinline__ void norm_factors(const DotWork& work, float* partials, float (&factors)[M]) {
  const int in = work.weights.in;
#pragma unroll
  for (int m = 0; m < M; ++m) {
    float squares = 0;
#pragma unroll 1
    for (int k = static_cast<int>(threadIdx.x) * N; m < work.x_rows && k < in; k += kStreamThreads * N) {
      float values[N] = {};
      load_input(work, int64_t{m} * in + k, values);
#pragma unroll
      for (int i = 0; i < N; ++i) squares += values[i] * values[i];
    }
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) partials[m * kStreamWarps + threadIdx.x / 32] = squares;
  }
  __syncthreads();
#pragma unroll
  for (int m = 0; m < M; ++m) {
    float total = 0;
#pragma unroll 4
    for (int warp = 0; warp < kStreamWarps; ++warp) total += partials[m * kStreamWarps + warp];
    factors[m] = rsqrtf(total / static_cast<float>(in) + work.norm_eps);
  }
}

// x into shared memory: normalised, rounded to S, with zeros behind each row. `scales` are this thread's first norm weights.
template <class S, int M, int N>
__device__ __forceinline__ void stage_input(const DotWork& work, const float (&scales)[N], S* x, float* partials) {
  const int in = work.weights.in, start = static_cast<int>(threadIdx.x) * N;
  float factors[M] = {};
  if (work.norm_weight) norm_factors<M, N>(work, partials, factors);
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll 1
    for (int k = start; k < work.padded; k += kStreamThreads * N) {
      float values[N] = {};
      if (m < work.x_rows && k < in) load_input(work, int64_t{m} * in + k, values);
      if (work.norm_weight && k < in) {
        float later[N] = {};
        if (k != start) load(work.norm_weight + k, later);
#pragma unroll
        for (int i = 0; i < N; ++i) values[i] *= factors[m] * (k == start ? scales[i] : later[i]);
      }
      store(x + m * work.padded + k, values);
    }
  }
  __syncthreads();
}

template <class W, int N>
__device__ __forceinline__ void widen(uint4 v, float (&values)[N]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(W) == 4) {
      values[i] = __uint_as_float(words[i]);
    } else {
      const float2 pair = unpack<W>(words[i]);
      values[2 * i] = pair.x;
      values[2 * i + 1] = pair.y;
    }
  }
}

template <class S, int N>
__device__ __forceinline__ void load_staged(const S* x, float (&values)[N]) {
  if constexpr (sizeof(S) == 2) {
    widen<S>(*reinterpret_cast<const uint4*>(x), values);
  } else {
    load(x, values);
  }
}

// Sums are those of the whole warp, on all lanes; each lane finishes one element of y.
template <int M, int R>
__device__ __forceinline__ void finish_tile(const DotWork& work, int tile, const float (&sums)[M][R]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const bool gated = work.epilogue.gated;
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (lane != m * R + r || m >= work.x_rows || (gated && r % 2)) continue;
      const int column = tile * work.weights.rows_per_tile + (gated ? r / 2 : r);
      if (column <= work.weights.last_row) finish(work.epilogue, m, column, sums[m][r], R > 1 ? sums[m][(r + 1) % R] : 0.0f);
    }
  }
}

// W: of the weights. S: of x in the product. M: most rows of x. R: weight rows that a warp takes at once.
template <class W, class S, int M, int R>
__global__ void __launch_bounds__(kStreamThreads, 2) dot_kernel(const DotWork work) {
  constexpr int kElements = 16 / sizeof(W), kStep = 32 * kElements, U = kCopiesInFlight / R;
  HEDDLE_DYNAMIC_SHARED(shared);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int first = tiles_before(work.tiles, blockIdx.x, gridDim.x) + warp;
  const int end = tiles_before(work.tiles, blockIdx.x + 1, gridDim.x);

  using Stream = WeightStream<W, R, U, kStep>;
  Stream stream(work.weights, {first, kStreamWarps, end, 0, lane * kElements, work.weights.in, work.rounds}, shared);
  stream.prefetch(lane % 8 == 0, 1);
  float scales[kElements] = {};
  if (work.norm_weight && static_cast<int>(threadIdx.x) * kElements < work.weights.in) load(work.norm_weight + threadIdx.x * kElements, scales);
  ptx::dependency_launch();
  ptx::dependency_wait();

  S* x = reinterpret_cast<S*>(shared + kRingBytes);
  stage_input<S, M>(work, scales, x, reinterpret_cast<float*>(x + M * work.padded));

#pragma unroll 1
  for (int tile = first; tile < end; tile += kStreamWarps) {
    float sums[M][R] = {};
#pragma unroll 1
    for (int k = lane * kElements; k < work.padded; k += Stream::kRound) {
#pragma unroll
      for (int u = 0; u < U; ++u) {
        stream.wait();
        float weights[R][kElements];
#pragma unroll
        for (int r = 0; r < R; ++r) widen<W>(stream.read(r, u), weights[r]);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          float values[kElements];
          load_staged(x + m * work.padded + k + u * kStep, values);
#pragma unroll
          for (int r = 0; r < R; ++r) {
#pragma unroll
            for (int i = 0; i < kElements; ++i) sums[m][r] += values[i] * weights[r][i];
          }
        }
        stream.copy(u);
      }
      stream.next_round();
    }
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int r = 0; r < R; ++r) sums[m][r] = warp_sum(sums[m][r]);
    }
    finish_tile<M, R>(work, tile, sums);
  }
  ptx::copy_async_wait<0>();
}

// Weight rows that a warp takes at once: several where one alone is too short to keep all loads in flight, pairs with a gate.
int rows_at_once(const LinearCall& call) {
  const int64_t row_bytes = call.weight->width() * static_cast<int64_t>(size_of(call.weight->dtype));
  if (call.x.rows > 1) return 2;
  if (row_bytes <= 1024) return 4;
  return row_bytes <= 2048 || call.gated ? 2 : 1;
}

int64_t padded_width(const LinearCall& call) {
  const int64_t round = int64_t{kCopiesInFlight} / rows_at_once(call) * 512 / static_cast<int64_t>(size_of(call.weight->dtype));
  return (call.weight->width() + round - 1) / round * round;
}

int64_t template_rows(int64_t rows) { return rows <= 2 ? rows : 4; }

size_t shared_bytes(const LinearCall& call) {
  const size_t element = multiplies_float32(call) ? 4 : 2;
  const auto rows = static_cast<size_t>(template_rows(call.x.rows));
  return kRingBytes + rows * (static_cast<size_t>(padded_width(call)) * element + kStreamWarps * sizeof(float));
}

DotWork work_of(const LinearCall& call) {
  const int at_once = rows_at_once(call);
  DotWork work = {};
  work.weights = weight_matrix(call, call.gated ? at_once / 2 : at_once);
  work.x = call.x.data;
  work.norm_weight = call.norm_weight ? static_cast<const float*>(call.norm_weight->buffer.data()) : nullptr;
  work.norm_eps = call.norm_eps;
  work.x_dtype = call.x.dtype;
  work.x_aligned = rows_aligned(call.x);
  work.x_rows = static_cast<int>(call.x.rows);
  work.padded = static_cast<int>(padded_width(call));
  work.rounds = static_cast<int>(padded_width(call) * static_cast<int64_t>(size_of(call.weight->dtype)) * at_once / (kCopiesInFlight * 512));
  work.tiles = tile_count(work.weights);
  work.epilogue = epilogue_of(call);
  return work;
}

template <class W, class S, int M, int R>
void launch_dot(const Device& device, const LinearCall& call) {
  const DotWork work = work_of(call);
  launch("linear",
         {.grid = dim3(static_cast<unsigned>(std::min(device.sm_count(), work.tiles))),
          .block = dim3(kStreamThreads),
          .shared_bytes = shared_bytes(call),
          .stream = device.stream(),
          .dependent = device.dependent_launch()},
         dot_kernel<W, S, M, R>, work);
}

template <class W, class S>
void launch_dot(const Device& device, const LinearCall& call) {
  switch (template_rows(call.x.rows)) {
    case 1:
      switch (rows_at_once(call)) {
        case 1: return launch_dot<W, S, 1, 1>(device, call);
        case 2: return launch_dot<W, S, 1, 2>(device, call);
        default: return launch_dot<W, S, 1, 4>(device, call);
      }
    case 2: return launch_dot<W, S, 2, 2>(device, call);
    default: return launch_dot<W, S, 4, 2>(device, call);
  }
}

}  // namespace

bool can_dot(const Device& device, const LinearCall& call) {
  return call.x.rows <= kMaxDotRows && is_aligned(call.weight->buffer.data(), call.weight->dtype, call.weight->width()) &&
         (!call.norm_weight || is_aligned(call.norm_weight->buffer.data(), DType::float32, 4)) &&
         shared_bytes(call) <= device.shared_bytes_per_block();
}

void linear_dot(const Device& device, const LinearCall& call) {
  with_type(call.weight->dtype, [&](auto type) {
    using W = decltype(type);
    if (multiplies_float32(call)) return launch_dot<W, float>(device, call);
    launch_dot<W, W>(device, call);
  });
}

}  // namespace heddle::cuda
