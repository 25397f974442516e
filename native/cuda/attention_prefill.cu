// Attention of prompts on tensor cores: a block has up to 128 queries of one head and streams tiles of keys and values, found through
// the block table, past them, the next tile on its way while one is worked on. Scores never leave registers.
// Rule: prepared queries lie in y where the block's own outputs go; nobody else reads or writes there.
#include "cuda/attention_head.cuh"
#include "cuda/attention_tile.cuh"
#include "cuda/launch.h"

namespace heddle::cuda {

namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kLanes;

template <class T, int HeadDim>
struct Prefill {
  using Rows = Tile<T, HeadDim>;
  static constexpr int kBands = HeadDim > 128 ? 1 : 2;           // of 16 queries a warp: each key fragment serves both
  static constexpr int kWarpRows = 16 * kBands;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kKeys = HeadDim > 128 ? 32 : 64;           // of a tile
  static constexpr int kSpan = HeadDim > 96 ? 32 : 64;            // keys whose scores a warp holds at once
  static constexpr int kSteps = HeadDim / 16;
  static constexpr int kStages = 2;
  using Scores = float[kBands][kSpan / 8][4];

  struct alignas(16) Shared {
    T queries[kRows * Rows::kStride];                 // at the end the outputs
    T ring[kStages][2][kKeys * Rows::kStride];        // keys, values
    int32_t rows[2][kKeys];                           // cache rows of tiles to come; -1: none
  };

  static_assert(sizeof(Shared) <= kLeastSharedBytes);

  // The queries of a block and the keys that they see.
  struct Work {
    int sequence;
    int head;
    int kv_head;
    int token;                                        // first query
    int count;                                        // of queries
    int position;                                     // of the first query
    int context;
    KeyRange keys;                                    // all that any query sees
  };

  static __device__ __forceinline__ bool find_work(const AttentionParameters& p, Work& work) {
    work.sequence = static_cast<int>(blockIdx.z);
    if (work.sequence >= p.step.counts->sequences) return false;
    const int first = p.step.sequence_starts[work.sequence];
    const int count = p.step.sequence_starts[work.sequence + 1] - first;
    const int skipped = static_cast<int>(gridDim.y - 1 - blockIdx.y) * kRows;   // the longest ranges of keys begin first
    if (skipped >= count || (p.decode_follows && count == 1)) return false;
    work.head = p.heads.query[blockIdx.x];
    work.kv_head = 0;
    while (p.heads.start[work.kv_head + 1] <= blockIdx.x) ++work.kv_head;
    work.token = first + skipped;
    work.count = min(kRows, count - skipped);
    work.position = p.step.positions[work.token];
    work.context = work.position + count - skipped;
    work.keys.begin = visible_keys(p, work.position, work.context).begin / kKeys * kKeys;
    work.keys.end = visible_keys(p, work.position + work.count - 1, work.context).end;
    return true;
  }

  class Block {
   public:
    __device__ __forceinline__ Block(const AttentionParameters& p, const Work& work, Shared& shared)
        : p_(p), work_(work), shared_(shared), blocks_(blocks_of(p, work.sequence)), lane_(lane_id()), row_(warp_id() * kWarpRows) {
#pragma unroll
      for (int i = 0; i < 2 * kBands; ++i) maxima_[i] = kLowest;
    }

    __device__ __forceinline__ void attend() {
      const int tiles = (work_.keys.end - work_.keys.begin + kKeys - 1) / kKeys;
      look_up(0);
      look_up(1);
      load_queries();
      __syncthreads();
      copy(0);
      for (int tile = 0; tile < tiles; ++tile) {
        ptx::copy_async_wait<0>();
        __syncthreads();                              // the tile is there for all, and all are done with the one before
        copy(tile + 1);
        look_up(tile + 2);
        attend_tile(tile);
      }
      ptx::copy_async_wait<0>();
    }

    // Outputs by way of shared memory, where the warp's own queries were: whole rows leave at once.
    __device__ __forceinline__ void store() {
      if (p_.y_dtype == DType::bfloat16) {
        store_as(bfloat16{});
      } else {
        store_as(float16{});
      }
    }

   private:
    __device__ __forceinline__ int first_key(int tile) const { return work_.keys.begin + tile * kKeys; }

    __device__ __forceinline__ void look_up(int tile) {
      const int i = static_cast<int>(threadIdx.x);
      if (i >= kKeys) return;
      const int key = first_key(tile) + i;
      shared_.rows[tile % 2][i] = key < work_.keys.end ? cache_row(p_, blocks_, work_.kv_head, key) : -1;
    }

    __device__ __forceinline__ void copy(int tile) {
      const T* cache = static_cast<const T*>(p_.cache);
      T(&stage)[2][kKeys * Rows::kStride] = shared_.ring[tile % kStages];
#pragma unroll 4
      for (int i = 0; i < kKeys * Rows::kVectors / kThreads; ++i) {
        const int item = i * kThreads + static_cast<int>(threadIdx.x);
        const int key = item / Rows::kVectors;
        const int vector = item % Rows::kVectors;
        const int row = shared_.rows[tile % 2][key];
        const bool valid = row >= 0;
        const T* source = cache + int64_t{valid ? row : 0} * HeadDim + vector * kVector;
        ptx::copy_async_16(stage[0] + Rows::offset(key, vector), source, valid);
        ptx::copy_async_16(stage[1] + Rows::offset(key, vector), source + int64_t{p_.cache_rows} * HeadDim, valid);
      }
      ptx::copy_async_commit();
    }

    // Element of y where row `row` of the block begins.
    __device__ __forceinline__ int64_t y_offset(int row) const {
      return (int64_t{work_.token + row} * p_.head_count + work_.head) * HeadDim;
    }

    // y has 16-bit elements: the cache's, or the other kind, which is converted.
    __device__ __forceinline__ void load_queries() {
      const auto* y = static_cast<const uint16_t*>(p_.y);
      for (int item = static_cast<int>(threadIdx.x); item < kRows * Rows::kVectors; item += kThreads) {
        const int row = item / Rows::kVectors;
        const int vector = item % Rows::kVectors;
        uint4 bits = make_uint4(0, 0, 0, 0);
        if (row < work_.count) bits = converted(*reinterpret_cast<const uint4*>(y + y_offset(row) + vector * kVector));
        *reinterpret_cast<uint4*>(shared_.queries + Rows::offset(row, vector)) = bits;
      }
    }
    __device__ __forceinline__ uint4 converted(uint4 bits) const {
      if (p_.y_dtype == p_.cache_dtype) return bits;
      return make_uint4(converted(bits.x), converted(bits.y), converted(bits.z), converted(bits.w));
    }
    __device__ __forceinline__ uint32_t converted(uint32_t pair) const {
      const float2 x = p_.y_dtype == DType::bfloat16 ? unpack<bfloat16>(pair) : unpack<float16>(pair);
      return pack<T>(x.x, x.y);
    }

    __device__ __forceinline__ void attend_tile(int tile) {
      const int last_row = min(row_ + kWarpRows, work_.count) - 1;
      if (last_row < row_) return;
      const KeyRange oldest = visible_keys(p_, work_.position + row_, work_.context);
      const KeyRange newest = visible_keys(p_, work_.position + last_row, work_.context);
      const T(&stage)[2][kKeys * Rows::kStride] = shared_.ring[tile % kStages];
#pragma unroll 1
      for (int span = 0; span < kKeys; span += kSpan) {
        const int first = first_key(tile) + span;
        if (first >= newest.end || first + kSpan <= oldest.begin) continue;   // nothing for this warp
        Scores scores;
        score(stage[0], span, scores);
        if (first + kSpan > oldest.end || first < newest.begin) mask(first, scores);
        soften(scores);
        add_values(stage[1], span, scores);
      }
    }

    __device__ __forceinline__ void score(const T* keys, int span, Scores& scores) const {
#pragma unroll
      for (int band = 0; band < kBands; ++band) {
#pragma unroll
        for (int n = 0; n < kSpan / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) scores[band][n][i] = 0;
        }
      }
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t query[kBands][4];
#pragma unroll
        for (int band = 0; band < kBands; ++band) Rows::load_a(query[band], shared_.queries, row_ + band * 16, step * 16, lane_);
#pragma unroll
        for (int n = 0; n < kSpan / 16; ++n) {
          uint32_t key[4];
          Rows::load_b(key, keys, span + n * 16, step * 16, lane_);
#pragma unroll
          for (int band = 0; band < kBands; ++band) {
            multiply_add(T{}, scores[band][2 * n], query[band], key[0], key[1]);
            multiply_add(T{}, scores[band][2 * n + 1], query[band], key[2], key[3]);
          }
        }
      }
    }

    __device__ __forceinline__ void mask(int first, Scores& scores) const {
#pragma unroll
      for (int band = 0; band < kBands; ++band) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const KeyRange keys = visible_keys(p_, work_.position + row_ + band * 16 + lane_ / 4 + i / 2 * 8, work_.context);
          const int key = first + lane_ % 4 * 2 + i % 2;
#pragma unroll
          for (int n = 0; n < kSpan / 8; ++n) {
            if (key + n * 8 < keys.begin || key + n * 8 >= keys.end) scores[band][n][i] = -INFINITY;
          }
        }
      }
    }

    // Scores to weights exp2(score * scale - maximum); earlier sums follow a maximum that has grown.
    __device__ __forceinline__ void soften(Scores& scores) {
      const float scale = p_.scale * kLog2e;
      float factors[2 * kBands];
      bool grown = false;
#pragma unroll
      for (int row = 0; row < 2 * kBands; ++row) {
        float(&x)[kSpan / 8][4] = scores[row / 2];
        const int i = row % 2 * 2;
        float top = -INFINITY;
#pragma unroll
        for (int n = 0; n < kSpan / 8; ++n) top = fmaxf(top, fmaxf(x[n][i], x[n][i + 1]));
        top = raised(maxima_[row], quad_max(top) * scale);
        factors[row] = ptx::exp2(maxima_[row] - top);
        grown = grown || top > maxima_[row];
        maxima_[row] = top;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < kSpan / 8; ++n) {
          x[n][i] = ptx::exp2(x[n][i] * scale - top);
          x[n][i + 1] = ptx::exp2(x[n][i + 1] * scale - top);
          sum += x[n][i] + x[n][i + 1];
        }
        sums_[row] = sums_[row] * factors[row] + sum;
      }
      if (__any_sync(kAllLanes, grown)) rescale(factors);
    }

    __device__ __forceinline__ void rescale(const float (&factors)[2 * kBands]) {
#pragma unroll
      for (int band = 0; band < kBands; ++band) {
#pragma unroll
        for (int n = 0; n < HeadDim / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) outputs_[band][n][i] *= factors[2 * band + i / 2];
        }
      }
    }

    // Accumulators of two groups of 8 keys are, rounded, the a fragment of 16 keys.
    __device__ __forceinline__ void add_values(const T* values, int span, const Scores& weights) {
#pragma unroll
      for (int k = 0; k < kSpan / 16; ++k) {
        uint32_t weight[kBands][4];
#pragma unroll
        for (int band = 0; band < kBands; ++band) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float(&pair)[4] = weights[band][2 * k + i / 2];
            weight[band][i] = pack<T>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
          }
        }
#pragma unroll
        for (int n = 0; n < kSteps; ++n) {
          uint32_t value[4];
          Rows::load_b_transposed(value, values, span + k * 16, n * 16, lane_);
#pragma unroll
          for (int band = 0; band < kBands; ++band) {
            multiply_add(T{}, outputs_[band][2 * n], weight[band], value[0], value[1]);
            multiply_add(T{}, outputs_[band][2 * n + 1], weight[band], value[2], value[3]);
          }
        }
      }
    }

    template <class Y>
    __device__ __forceinline__ void store_as(Y) {
#pragma unroll
      for (int band = 0; band < kBands; ++band) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float factor = 1 / quad_sum(sums_[2 * band + half]);
          T* row = shared_.queries;
          const int line = row_ + band * 16 + half * 8 + lane_ / 4;
#pragma unroll
          for (int n = 0; n < HeadDim / 8; ++n) {
            *reinterpret_cast<uint32_t*>(row + Rows::offset(line, n) + lane_ % 4 * 2) =
                pack<Y>(outputs_[band][n][2 * half] * factor, outputs_[band][n][2 * half + 1] * factor);
          }
        }
      }
      __syncwarp();
      auto* y = static_cast<uint16_t*>(p_.y);
      for (int item = lane_; item < kWarpRows * Rows::kVectors; item += kLanes) {
        const int row = row_ + item / Rows::kVectors;
        const int vector = item % Rows::kVectors;
        if (row >= work_.count) continue;
        *reinterpret_cast<uint4*>(y + y_offset(row) + vector * kVector) =
            *reinterpret_cast<const uint4*>(shared_.queries + Rows::offset(row, vector));
      }
    }

    const AttentionParameters& p_;
    const Work& work_;
    Shared& shared_;
    const int32_t* blocks_;
    int lane_;
    int row_;                                         // first of the warp's queries in the block
    float maxima_[2 * kBands];                        // of rows lane / 4 and 8 further, band by band, in units of log2
    float sums_[2 * kBands] = {};                     // of this lane's columns
    float outputs_[kBands][HeadDim / 8][4] = {};
  };
};

template <class T, int HeadDim>
__global__ void __launch_bounds__(kThreads) prefill_kernel(AttentionParameters p) {
  using Kernel = Prefill<T, HeadDim>;
  HEDDLE_DYNAMIC_SHARED(memory);
  auto& shared = *reinterpret_cast<typename Kernel::Shared*>(memory);
  ptx::dependency_wait();
  ptx::dependency_launch();
  typename Kernel::Work work;
  if (!Kernel::find_work(p, work)) return;
  typename Kernel::Block block(p, work, shared);
  block.attend();
  block.store();
}

template <class T, int HeadDim>
void launch_prefill(const Device& device, const AttentionParameters& p, const StepShape& shape) {
  using Kernel = Prefill<T, HeadDim>;
  const auto tiles = static_cast<unsigned>((shape.longest_part + Kernel::kRows - 1) / Kernel::kRows);
  launch("attention",
         {.grid = dim3(static_cast<unsigned>(p.head_count), tiles, static_cast<unsigned>(shape.sequences)), .block = dim3(kThreads),
          .shared_bytes = sizeof(typename Kernel::Shared), .stream = device.stream(), .dependent = device.dependent_launch()},
         prefill_kernel<T, HeadDim>, p);
}

template <class T>
void launch_prefill(const Device& device, const AttentionParameters& p, const StepShape& shape) {
  switch (p.head_dim) {
    case 64: return launch_prefill<T, 64>(device, p, shape);
    case 96: return launch_prefill<T, 96>(device, p, shape);
    case 128: return launch_prefill<T, 128>(device, p, shape);
    default: return launch_prefill<T, 256>(device, p, shape);
  }
}

bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

}  // namespace

bool prefill_runs(const AttentionParameters& p) {
  const bool known = p.head_dim == 64 || p.head_dim == 96 || p.head_dim == 128 || p.head_dim == 256;
  return known && p.cache_dtype != DType::float32 && p.y_dtype != DType::float32 && aligned(p.cache) && aligned(p.y);
}

void attention_prefill(const Device& device, const AttentionParameters& p, const StepShape& shape) {
  if (p.cache_dtype == DType::bfloat16) {
    launch_prefill<bfloat16>(device, p, shape);
  } else {
    launch_prefill<float16>(device, p, shape);
  }
}

}  // namespace heddle::cuda
