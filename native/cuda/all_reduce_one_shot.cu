// All-reduce of few bytes: one exchange, no fence, no barrier among blocks. Data and flag travel in the same words, double-buffered:
// a block sends for epoch e + 2 only after it has received e + 1 of its peers, which they sent after they had read e.
#include <algorithm>

#include "cuda/all_reduce.cuh"
#include "cuda/launch.h"
#include "cuda/sum_tree.cuh"

namespace heddle::cuda {

namespace {

constexpr int kThreads = 512;

// A matrix whose element type the kernel looks up: an epilogue touches each element once.
struct Elements {
  void* data = nullptr;
  DType dtype = DType::float32;
};

Elements elements_of(const View& view) { return {view.data, view.dtype}; }

__device__ __forceinline__ float load(const Elements& elements, int64_t i) {
  switch (elements.dtype) {
    case DType::bfloat16: return to_float(static_cast<const bfloat16*>(elements.data)[i]);
    case DType::float16: return to_float(static_cast<const float16*>(elements.data)[i]);
    default: return static_cast<const float*>(elements.data)[i];
  }
}
__device__ __forceinline__ void store(const Elements& elements, int64_t i, float value) {
  switch (elements.dtype) {
    case DType::bfloat16: return from_float(value, static_cast<bfloat16*>(elements.data)[i]);
    case DType::float16: return from_float(value, static_cast<float16*>(elements.data)[i]);
    default: return from_float(value, static_cast<float*>(elements.data)[i]);
  }
}

struct OneShot {
  Peers peers;
  StagingLayout layout;
  int64_t count;                                      // elements of x
  int64_t unit;                                       // elements that a block exchanges at once
  Elements residual;                                  // data null: none
  Elements y;
  const float* norm_weight;                           // null: none; then a unit is a row
  float norm_eps;
  Elements normed;
};

template <class T>
constexpr int kVector = 8 / static_cast<int>(sizeof(T));  // elements of eight bytes

template <class T>
union Payload {
  uint2 words;
  T elements[kVector<T>];
};

template <class T>
__device__ __forceinline__ uint2 load_payload(const T* x, int64_t first, int64_t end) {
  Payload<T> payload;
  payload.words = make_uint2(0, 0);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    if (first + i < end) payload.elements[i] = x[first + i];
  }
  return payload.words;
}

// The sum over the ranks of the elements [first, first + kVector), written to y with the residual.
template <class T>
__device__ float reduce_vector(const OneShot& call, const T* x, int64_t begin, int64_t first, int64_t end, int parity, uint32_t epoch,
                               Patience& patience) {
  const Peers& peers = call.peers;
  const int64_t index = (first - begin) / kVector<T>;
  const uint2 mine = load_payload(x, first, end);
  const int block = static_cast<int>(blockIdx.x);
  for (int i = 1; i < peers.size; ++i) {
    const int peer = (peers.rank + i) % peers.size;   // not all into the same peer at once
    send_flagged(peers.staging[peer] + call.layout.unit_slot(parity, block, peers.rank), index, mine, epoch);
  }
  float sums[kVector<T>];
  SumTree<kVector<T>, kPeerLevels> tree;
  for (int rank = 0; rank < peers.size; ++rank) {
    Payload<T> payload;
    const unsigned char* slot = peers.staging[peers.rank] + call.layout.unit_slot(parity, block, rank);
    payload.words = rank == peers.rank ? mine : receive_flagged(slot, index, epoch, rank, patience);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) sums[i] = to_float(payload.elements[i]);
    tree.add(sums, rank, peers.size);
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    const int64_t at = first + i;
    if (at < end) {
      const float sum = call.residual.data ? sums[i] + load(call.residual, at) : sums[i];
      store(call.y, at, sum);
      squares += sum * sum;
    }
  }
  return squares;
}

__device__ float block_sum(float value) {
  __shared__ float parts[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  __syncthreads();                                    // the parts of an earlier call have been read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
  for (int i = 0; i < kThreads / 32; ++i) total += parts[i];
  return total;
}

template <class T>
__global__ void __launch_bounds__(kThreads) one_shot(const __grid_constant__ OneShot call, const T* x) {
  ptx::dependency_wait();
  launch_dependents(call.peers);
  const int block = static_cast<int>(blockIdx.x);
  Patience patience(call.peers);
  auto* counter = reinterpret_cast<uint32_t*>(call.peers.staging[call.peers.rank] + call.layout.epoch(block, 0));
  uint32_t epoch = *counter;
  for (int64_t begin = block * call.unit; begin < call.count; begin += int64_t{gridDim.x} * call.unit) {
    const int64_t end = min(begin + call.unit, call.count);
    ++epoch;
    float squares = 0;
    for (int64_t first = begin + int64_t{threadIdx.x} * kVector<T>; first < end; first += int64_t{kThreads} * kVector<T>) {
      squares += reduce_vector(call, x, begin, first, end, static_cast<int>(epoch % 2), epoch, patience);
    }
    __syncthreads();                                  // all of e is read before any of e + 1 is sent, by whichever threads
    if (!call.norm_weight) continue;
    const float factor = rsqrtf(block_sum(squares) / static_cast<float>(call.unit) + call.norm_eps);
    for (int64_t first = begin + int64_t{threadIdx.x} * kVector<T>; first < end; first += int64_t{kThreads} * kVector<T>) {
      for (int64_t at = first; at < min(first + kVector<T>, end); ++at) {  // what this thread wrote
        store(call.normed, at, load(call.y, at) * factor * call.norm_weight[at - begin]);
      }
    }
  }
  if (threadIdx.x == 0) *counter = epoch;             // every thread has read it: there was a barrier
}

}  // namespace

void all_reduce_one_shot(const Device& device, const Peers& peers, View x, const AllReduceEpilogue& epilogue) {
  const int64_t count = x.rows * x.width;
  if (count == 0) return;
  const auto element = static_cast<int64_t>(size_of(x.dtype));
  const int64_t vector = 8 / element;
  const int64_t largest = static_cast<int64_t>(kUnitBytes) / element;
  int64_t unit = x.width;
  if (!epilogue.norm_weight) {                        // pieces: one for each block, of whole vectors
    const int64_t share = (count + peers.blocks - 1) / peers.blocks;
    unit = std::min(largest, std::max<int64_t>((share + vector - 1) / vector * vector, 64 * vector));
  }
  const int64_t units = (count + unit - 1) / unit;
  const View y = epilogue.residual.data ? epilogue.y : (epilogue.y.data ? epilogue.y : x);
  OneShot call{peers,
               {peers.size, peers.blocks},
               count,
               unit,
               elements_of(epilogue.residual),
               elements_of(y),
               epilogue.norm_weight ? static_cast<const float*>(epilogue.norm_weight->buffer.data()) : nullptr,
               epilogue.norm_eps,
               elements_of(epilogue.normed)};
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    launch("all_reduce",
           {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(units, peers.blocks))),
            .block = dim3(kThreads),
            .stream = device.stream(),
            .dependent = device.dependent_launch()},
           one_shot<T>, call, static_cast<const T*>(x.data));
  });
}

}  // namespace heddle::cuda
