// Split decode on tensor cores, for 16-bit caches: every warp streams tiles of 16 keys and values through a ring of its own in shared
// memory, and multiplies them with all query heads of the KV head, so that each byte of the cache is read once.
//
// An mma has 16 rows. With up to 8 query heads the other half holds what rounding the queries, and later the weights, to 16 bits has
// left over: the sums are then as exact as with float32 queries, at no cost. With more heads all rows are heads.
#include "cuda/attention_split.cuh"
#include "cuda/attention_tile.cuh"
#include "cuda/launch.h"

namespace heddle::cuda {

namespace {

constexpr int kTileKeys = 16;
constexpr int kTileRows = 16;                         // of the queries
constexpr int kExactRows = 8;                         // query heads whose remainders fit beside them

template <class T, int HeadDim, bool Exact>
struct Decode {
  using Rows = Tile<T, HeadDim>;
  static constexpr int kWarps = HeadDim > 128 ? 2 : 4;
  static constexpr int kStages = HeadDim > 64 ? 2 : 4;
  static constexpr int kHeads = Exact ? kExactRows : kTileRows;
  static constexpr int kHalves = Exact ? 1 : 2;       // rows of a lane: lane / 4, and 8 further where those are heads
  static constexpr int kSteps = HeadDim / 16;
  static constexpr bool kKeepQueries = HeadDim <= 96;  // fragments in registers; else they would cost a resident block
  static constexpr int kTileElements = kTileKeys * Rows::kStride;
  static constexpr int kCopies = kTileKeys * Rows::kVectors / kLanes;

  struct alignas(16) Shared {
    T ring[kWarps][kStages][2][kTileElements];        // keys, values; at the end the results of the warps
    T queries[kTileRows * Rows::kStride];
    T fresh[2][HeadDim];                              // the new key and value
    float2 rotation[HeadDim / 2];
  };
  static_assert(sizeof(Shared) <= kLeastSharedBytes);
  static_assert(sizeof(Shared::ring) >= kWarps * kHeads * (HeadDim * sizeof(float) + sizeof(float2)));
  static_assert(sizeof(Shared::ring) >= kHeads * kMaxSplits * sizeof(float));

  // One warp's way through its tiles: every kWarps-th of the part.
  class Warp {
   public:
    __device__ __forceinline__ Warp(const AttentionParameters& p, const SplitPart& part, Shared& shared)
        : p_(p), part_(part), shared_(shared), blocks_(blocks_of(p, part.sequence)), lane_(lane_id()), warp_(warp_id()) {
#pragma unroll
      for (float& maximum : maxima_) maximum = kLowest;
    }

    // The first tiles on their way.
    __device__ __forceinline__ void start() {
#pragma unroll
      for (int stage = 0; stage < kStages; ++stage) {
        look_up(stage);
        copy(stage);
      }
      look_up(kStages);
    }

    __device__ __forceinline__ void attend() {
      load_queries();
      const int tiles = (part_.end - part_.begin + kTileKeys * kWarps - 1) / (kTileKeys * kWarps);
      for (int tile = 0; tile < tiles; ++tile) {
        ptx::copy_async_wait<kStages - 1>();
        __syncwarp();
        const int stage = tile % kStages;
        insert_newest(tile, stage);
        if (first_key(tile) < part_.end) attend_tile(tile, stage);
        __syncwarp();
        copy(stage);
        look_up(tile + kStages + 1);
      }
      ptx::copy_async_wait<0>();
    }

    __device__ __forceinline__ void store(MergeMemory memory) const {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        const int row = lane_ / 4 + half * 8;
        const float sum = quad_sum(sums_[half]);
        if (lane_ % 4 == 0) memory.stats[warp_ * kHeads + row] = make_float2(maxima_[half], sum);
        float* values = memory.values + (warp_ * kHeads + row) * HeadDim + lane_ % 4 * 2;
#pragma unroll
        for (int n = 0; n < HeadDim / 8; ++n) {
          const float low = Exact ? outputs_[n][0] + outputs_[n][2] : outputs_[n][2 * half];
          const float high = Exact ? outputs_[n][1] + outputs_[n][3] : outputs_[n][2 * half + 1];
          *reinterpret_cast<float2*>(values + n * 8) = make_float2(low, high);
        }
      }
    }

   private:
    __device__ __forceinline__ int first_key(int tile) const { return part_.begin + (tile * kWarps + warp_) * kTileKeys; }

    // Cache row of this lane's key of the tile that is copied next: read long before it is needed. None for the newest key, which is
    // not in the cache, and beyond the part.
    __device__ __forceinline__ void look_up(int tile) {
      const int key = first_key(tile) + lane_ % kTileKeys;
      row_ = key < part_.end && key < part_.position ? cache_row(p_, blocks_, part_.kv_head, key) : -1;
    }

    __device__ __forceinline__ void copy(int stage) {
      const T* cache = static_cast<const T*>(p_.cache);
      T* keys = shared_.ring[warp_][stage][0];
      T* values = shared_.ring[warp_][stage][1];
#pragma unroll 4
      for (int i = 0; i < kCopies; ++i) {
        const int item = i * kLanes + lane_;
        const int key = item / Rows::kVectors;
        const int vector = item % Rows::kVectors;
        const int row = __shfl_sync(kAllLanes, row_, key);
        const bool valid = row >= 0;
        const T* source = cache + int64_t{valid ? row : 0} * HeadDim + vector * kVector;
        ptx::copy_async_16(keys + Rows::offset(key, vector), source, valid);
        ptx::copy_async_16(values + Rows::offset(key, vector), source + int64_t{p_.cache_rows} * HeadDim, valid);
      }
      ptx::copy_async_commit();
    }

    // The newest key never comes from the cache: another block may be writing it there at this moment.
    __device__ __forceinline__ void insert_newest(int tile, int stage) {
      const int key = part_.position - first_key(tile);
      if (part_.newest && key >= 0 && key < kTileKeys) {
        for (int item = lane_; item < 2 * Rows::kVectors; item += kLanes) {
          const int part = item / Rows::kVectors;
          const int vector = item % Rows::kVectors;
          *reinterpret_cast<uint4*>(shared_.ring[warp_][stage][part] + Rows::offset(key, vector)) =
              *reinterpret_cast<const uint4*>(shared_.fresh[part] + vector * kVector);
        }
      }
      __syncwarp();
    }

    __device__ __forceinline__ void load_queries() {
      if constexpr (kKeepQueries) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) Rows::load_a(queries_[step], shared_.queries, 0, step * 16, lane_);
      }
    }

    __device__ __forceinline__ void attend_tile(int tile, int stage) {
      float scores[kHalves][4];                       // of keys (lane % 4) * 2 + {0, 1, 8, 9}, in units of log2
      score(shared_.ring[warp_][stage][0], scores);
      mask(first_key(tile), scores);
      uint32_t weights[4];
      soften(scores, weights);
      add_values(shared_.ring[warp_][stage][1], weights);
    }

    __device__ __forceinline__ void score(const T* keys, float (&scores)[kHalves][4]) {
      float sums[2][2][4] = {};                       // two chains of mmas for each 8 keys: half the latency
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t(&query)[4] = queries_[kKeepQueries ? step : 0];
        if constexpr (!kKeepQueries) Rows::load_a(query, shared_.queries, 0, step * 16, lane_);
        uint32_t key[4];
        Rows::load_b(key, keys, 0, step * 16, lane_);
        multiply_add(T{}, sums[step % 2][0], query, key[0], key[1]);
        multiply_add(T{}, sums[step % 2][1], query, key[2], key[3]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float upper = sums[0][i / 2][i % 2] + sums[1][i / 2][i % 2];
        const float lower = sums[0][i / 2][i % 2 + 2] + sums[1][i / 2][i % 2 + 2];
        scores[0][i] = Exact ? upper + lower : upper;
        if constexpr (!Exact) scores[1][i] = lower;
      }
    }

    __device__ __forceinline__ void mask(int first, float (&scores)[kHalves][4]) const {
      if (first + kTileKeys <= part_.end) return;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = first + i / 2 * 8 + lane_ % 4 * 2 + i % 2;
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          if (key >= part_.end) scores[half][i] = -INFINITY;
        }
      }
    }

    // Scores to weights exp2(score - maximum), as an a fragment; earlier sums follow a maximum that has grown.
    __device__ __forceinline__ void soften(float (&scores)[kHalves][4], uint32_t (&weights)[4]) {
      float factors[kHalves];
      bool grown = false;
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        float(&x)[4] = scores[half];
        const float top = raised(maxima_[half], quad_max(fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]))));
        factors[half] = ptx::exp2(maxima_[half] - top);
        grown = grown || top > maxima_[half];
        maxima_[half] = top;
#pragma unroll
        for (float& score : x) score = ptx::exp2(score - top);
        sums_[half] = sums_[half] * factors[half] + (x[0] + x[1]) + (x[2] + x[3]);
      }
      if (__any_sync(kAllLanes, grown)) {
#pragma unroll
        for (float(&output)[4] : outputs_) {
#pragma unroll
          for (int i = 0; i < 4; ++i) output[i] *= factors[i / 2 % kHalves];
        }
      }
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const float low = scores[0][2 * pair];
        const float high = scores[0][2 * pair + 1];
        weights[2 * pair] = pack<T>(low, high);
        weights[2 * pair + 1] = Exact ? pack<T>(low - rounded<T>(low), high - rounded<T>(high))
                                      : pack<T>(scores[kHalves - 1][2 * pair], scores[kHalves - 1][2 * pair + 1]);
      }
    }

    __device__ __forceinline__ void add_values(const T* values, const uint32_t (&weights)[4]) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t value[4];
        Rows::load_b_transposed(value, values, 0, step * 16, lane_);
        multiply_add(T{}, outputs_[2 * step], weights, value[0], value[1]);
        multiply_add(T{}, outputs_[2 * step + 1], weights, value[2], value[3]);
      }
    }

    const AttentionParameters& p_;
    const SplitPart& part_;
    Shared& shared_;
    const int32_t* blocks_;
    int lane_;
    int warp_;
    int row_ = -1;
    uint32_t queries_[kKeepQueries ? kSteps : 1][4];
    float maxima_[kHalves];
    float sums_[kHalves] = {};
    float outputs_[HeadDim / 8][4] = {};              // columns n * 8 + (lane % 4) * 2 + {0, 1} of row lane / 4, then of the row 8 further
  };

  // One warp, one head: scaled so that scores come in units of log2.
  static __device__ __forceinline__ void prepare_query(const AttentionParameters& p, const SplitPart& part, int row, Shared& shared) {
    const int head = p.heads.query[part.first_row + row];
    const float scale = p.scale * kLog2e;
    prepare_head(p, query_offset(p, part.token, head), p.query_norm, shared.rotation, [&](int i, float x) {
      const float query = x * scale;
      const int column = i % kVector;
      from_float(query, shared.queries[Rows::offset(row, i / kVector) + column]);
      if constexpr (Exact) from_float(query - rounded<T>(query), shared.queries[Rows::offset(row + kExactRows, i / kVector) + column]);
    });
  }

  // What needs no earlier kernel. Rows without a head are zero: their scores are, and nobody reads their outputs.
  static __device__ __forceinline__ void begin(const AttentionParameters& p, const SplitPart& part, Shared& shared) {
    fill_rotation(p, part.position, shared.rotation);
    for (int i = static_cast<int>(threadIdx.x); i < kTileRows * Rows::kStride / kVector; i += kWarps * kLanes) {
      *reinterpret_cast<uint4*>(shared.queries + i * kVector) = make_uint4(0, 0, 0, 0);
    }
    __syncthreads();
  }

  static __device__ __forceinline__ void prepare(const AttentionParameters& p, const SplitPart& part, Shared& shared) {
    const int tasks = part.rows + (part.newest ? 2 : 0);
    for (int task = warp_id(); task < tasks; task += kWarps) {
      if (task < part.rows) {
        prepare_query(p, part, task, shared);
      } else if (task == part.rows) {
        append_key(p, part, shared.rotation, shared.fresh[0]);
      } else {
        append_value(p, part, shared.fresh[1]);
      }
    }
    __syncthreads();
  }
};

// Before the wait it reads the arrays of the step and keys of earlier steps. The arrays come by a transfer, which the stream begins
// when all kernels of earlier steps have ended, and ends before the first kernel of this step begins: no kernel that may still run
// writes either of them, but for the newest keys, which are not read from the cache.
template <class T, int HeadDim, bool Exact>
__global__ void __launch_bounds__(Decode<T, HeadDim, Exact>::kWarps* kLanes, 3) decode_kernel(AttentionParameters p, SplitPlan plan) {
  using Kernel = Decode<T, HeadDim, Exact>;
  HEDDLE_DYNAMIC_SHARED(memory);
  auto& shared = *reinterpret_cast<typename Kernel::Shared*>(memory);
  SplitPart part;
  const bool busy = find_part(p, plan, part);
  if (!busy) {
    ptx::dependency_wait();                           // even so: whoever waits for this kernel waits for those before it
    return;
  }
  typename Kernel::Warp warp(p, part, shared);
  warp.start();                                       // the cache is on its way while the queries come
  Kernel::begin(p, part, shared);
  ptx::dependency_wait();
  ptx::dependency_launch();
  Kernel::prepare(p, part, shared);
  if (part.rows <= 0) return;
  warp.attend();
  __syncthreads();
  const MergeMemory results = merge_memory(plan, memory, Kernel::kWarps);
  warp.store(results);
  __syncthreads();
  finish_part(p, plan, part, results);
}

template <class T, int HeadDim, bool Exact>
void launch_decode(const Device& device, const AttentionParameters& p, const StepShape& shape) {
  using Kernel = Decode<T, HeadDim, Exact>;
  const SplitPlan plan = plan_split(device, p, shape, Kernel::kHeads);
  launch("attention decode",
         {.grid = grid_of(plan, p, shape), .block = dim3(Kernel::kWarps * kLanes), .shared_bytes = sizeof(typename Kernel::Shared),
          .stream = device.stream(), .dependent = device.dependent_launch()},
         decode_kernel<T, HeadDim, Exact>, p, plan);
}

// Queries of a float32 group keep their precision however many heads there are; and those of a reproducible one, where a head that has been
// parted from its neighbours must be computed as it is among them.
template <class T, int HeadDim>
void launch_decode(const Device& device, const AttentionParameters& p, const StepShape& shape) {
  if (widest_group(p) <= kExactRows || p.y_dtype == DType::float32 || device.reproducible) {
    launch_decode<T, HeadDim, true>(device, p, shape);
  } else {
    launch_decode<T, HeadDim, false>(device, p, shape);
  }
}

// False where there is no kernel for the head dimension.
template <class T>
bool try_decode(const Device& device, const AttentionParameters& p, const StepShape& shape) {
  switch (p.head_dim) {
    case 64: return launch_decode<T, 64>(device, p, shape), true;
    case 96: return launch_decode<T, 96>(device, p, shape), true;
    case 128: return launch_decode<T, 128>(device, p, shape), true;
    case 256: return launch_decode<T, 256>(device, p, shape), true;
    default: return false;
  }
}

}  // namespace

void attention_decode(const Device& device, const AttentionParameters& p, const StepShape& shape) {
  const bool aligned = reinterpret_cast<uintptr_t>(p.cache) % 16 == 0;
  if (aligned && p.cache_dtype == DType::bfloat16 && try_decode<bfloat16>(device, p, shape)) return;
  if (aligned && p.cache_dtype == DType::float16 && try_decode<float16>(device, p, shape)) return;
  attention_decode_plain(device, p, shape);
}

}  // namespace heddle::cuda
