// Bytes of every rank to every rank, flagged like the one-shot all-reduce; and columns of every rank side by side.
#include <algorithm>

#include "cuda/all_reduce.cuh"
#include "cuda/launch.h"

namespace heddle::cuda {

namespace {

constexpr int kThreads = 512;

struct Gather {
  Peers peers;
  StagingLayout layout;
  const unsigned char* mine;
  unsigned char* all;
  int64_t mine_bytes;
  int64_t bytes;                                      // of each rank in `all`
  int64_t unit;                                       // bytes that a block exchanges at once, a multiple of 16
};

constexpr int kPiece = 16;                            // bytes that a thread moves at once: two flagged words

union Piece {
  uint4 whole;
  uint2 words[2];
  unsigned char bytes[kPiece];
};

__device__ __forceinline__ bool moves_whole(const unsigned char* memory, int64_t first, int64_t end) {
  return first + kPiece <= end && reinterpret_cast<uintptr_t>(memory + first) % kPiece == 0;
}
__device__ __forceinline__ Piece load_piece(const unsigned char* from, int64_t first, int64_t end) {
  Piece piece;
  piece.whole = make_uint4(0, 0, 0, 0);
  if (moves_whole(from, first, end)) {
    piece.whole = *reinterpret_cast<const uint4*>(from + first);
  } else {
    for (int i = 0; i < kPiece && first + i < end; ++i) piece.bytes[i] = from[first + i];
  }
  return piece;
}
__device__ __forceinline__ void store_piece(unsigned char* to, int64_t first, int64_t end, const Piece& piece) {
  if (moves_whole(to, first, end)) {
    *reinterpret_cast<uint4*>(to + first) = piece.whole;
  } else {
    for (int i = 0; i < kPiece && first + i < end; ++i) to[first + i] = piece.bytes[i];
  }
}

__device__ void exchange_piece(const Gather& call, int64_t begin, int64_t first, int64_t end, uint32_t epoch, Patience& patience) {
  const Peers& peers = call.peers;
  const int block = static_cast<int>(blockIdx.x);
  const int parity = static_cast<int>(epoch % 2);
  const int64_t index = (first - begin) / 8;
  const Piece mine = load_piece(call.mine, first, min(end, call.mine_bytes));
  for (int i = 1; i < peers.size; ++i) {
    const int peer = (peers.rank + i) % peers.size;
    unsigned char* slot = peers.staging[peer] + call.layout.unit_slot(parity, block, peers.rank);
    for (int half = 0; half < 2; ++half) send_flagged(slot, index + half, mine.words[half], epoch);
  }
  for (int rank = 0; rank < peers.size; ++rank) {
    const unsigned char* slot = peers.staging[peers.rank] + call.layout.unit_slot(parity, block, rank);
    Piece piece = mine;
    for (int half = 0; half < 2 && rank != peers.rank; ++half) piece.words[half] = receive_flagged(slot, index + half, epoch, rank, patience);
    store_piece(call.all + rank * call.bytes, first, end, piece);
  }
}

__global__ void __launch_bounds__(kThreads) gather(const __grid_constant__ Gather call) {
  ptx::dependency_wait();
  launch_dependents(call.peers);
  const int block = static_cast<int>(blockIdx.x);
  Patience patience(call.peers);
  auto* counter = reinterpret_cast<uint32_t*>(call.peers.staging[call.peers.rank] + call.layout.epoch(block, 0));
  uint32_t epoch = *counter;
  for (int64_t begin = block * call.unit; begin < call.bytes; begin += int64_t{gridDim.x} * call.unit) {
    const int64_t end = min(begin + call.unit, call.bytes);
    ++epoch;
    for (int64_t first = begin + int64_t{threadIdx.x} * kPiece; first < end; first += int64_t{kThreads} * kPiece) {
      exchange_piece(call, begin, first, end, epoch, patience);
    }
    __syncthreads();                                  // as in the one-shot all-reduce; and every thread has read the counter
  }
  if (threadIdx.x == 0) *counter = epoch;
}

struct Columns {
  int32_t first[kMaxPeers + 1];                       // of every rank in a row of y
};

// y[row, column] and its place in the part of the rank whose column it is, both ways.
template <class T, bool to_parts>
__global__ void rearrange_columns(unsigned char* parts, size_t part_bytes, const __grid_constant__ Columns columns, int ranks, T* y,
                                  int64_t rows) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int64_t width = columns.first[ranks];
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < rows * width; i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t row = i / width;
    const auto column = static_cast<int32_t>(i % width);
    int rank = 0;
    while (column >= columns.first[rank + 1]) ++rank;
    T& at = reinterpret_cast<T*>(parts + static_cast<size_t>(rank) * part_bytes)[row * (columns.first[rank + 1] - columns.first[rank]) +
                                                                                 column - columns.first[rank]];
    if constexpr (to_parts) {
      at = y[i];
    } else {
      y[i] = at;
    }
  }
}

template <bool to_parts>
void rearrange(const Device& device, void* parts, size_t part_bytes, const std::vector<int64_t>& widths, View y, const char* where) {
  Columns columns = {};
  for (size_t rank = 0; rank < widths.size(); ++rank) columns.first[rank + 1] = columns.first[rank] + static_cast<int32_t>(widths[rank]);
  const int64_t count = y.rows * y.width;
  if (count == 0) return;
  const Launch spec{.grid = dim3(static_cast<unsigned>(std::clamp<int64_t>((count + 255) / 256, 1, 8 * device.sm_count()))),
                    .block = dim3(256),
                    .stream = device.stream(),
                    .dependent = device.dependent_launch()};
  auto* bytes = static_cast<unsigned char*>(parts);
  const auto ranks = static_cast<int>(widths.size());
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    launch(where, spec, rearrange_columns<T, to_parts>, bytes, part_bytes, columns, ranks, static_cast<T*>(y.data), y.rows);
  });
}

}  // namespace

void gather_bytes(const Device& device, const Peers& peers, const void* mine, size_t mine_bytes, size_t bytes, void* all) {
  if (bytes == 0) return;
  const auto count = static_cast<int64_t>(bytes);
  const int64_t share = (count + peers.blocks - 1) / peers.blocks;
  const int64_t unit = std::clamp<int64_t>((share + kPiece - 1) / kPiece * kPiece, 512, static_cast<int64_t>(kUnitBytes));
  const Gather call{peers, {peers.size, peers.blocks}, static_cast<const unsigned char*>(mine), static_cast<unsigned char*>(all),
                    static_cast<int64_t>(mine_bytes), count, unit};
  launch("all_gather",
         {.grid = dim3(static_cast<unsigned>(std::min<int64_t>((count + unit - 1) / unit, peers.blocks))),
          .block = dim3(kThreads),
          .stream = device.stream(),
          .dependent = device.dependent_launch()},
         gather, call);
}

void interleave(const Device& device, const void* parts, size_t part_bytes, const std::vector<int64_t>& widths, View y) {
  rearrange<false>(device, const_cast<void*>(parts), part_bytes, widths, y, "all_gather");
}

void separate(const Device& device, View x, const std::vector<int64_t>& widths, void* parts, size_t part_bytes) {
  rearrange<true>(device, parts, part_bytes, widths, x, "reduce_scatter");
}

}  // namespace heddle::cuda
