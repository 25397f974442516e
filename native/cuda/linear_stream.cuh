// The weights of a matrix product as one unbroken stream of 16-byte copies per lane, from tile to tile of weight rows, so that memory is
// busy while a tile is summed up, and before the kernel may touch what earlier kernels wrote. Rule: a lane reads from the ring only what
// it copied itself, so that no barrier is needed.
#pragma once
#include "cuda/linear.h"
#include "cuda/numbers.cuh"
#include "cuda/ptx.cuh"

namespace heddle::cuda {

// With 16 warps on a multiprocessor, 8 copies of each lane are 64 KB under way: twice what HBM3e needs to be kept busy. They wait in
// shared memory, not in registers: with 64 of those and 512 threads, the next kernel of the stream fits on the multiprocessor too and
// can begin to load its own weights while this one ends.
constexpr int kCopiesInFlight = 8;
constexpr int kStreamWarps = 16;
constexpr int kStreamThreads = 32 * kStreamWarps;
constexpr size_t kRingBytes = size_t{16} * kCopiesInFlight * kStreamThreads;
// Rounds of copies that are brought into L2 before the kernel waits for its predecessor: with those under way, 192 KB of each
// multiprocessor, which is all of a shard of an 8-billion-parameter model's layer over 8 GPUs.
constexpr int kRoundsAhead = 2;

struct WeightMatrix {
  const void* data;
  int64_t row_bytes;
  int in;
  int pairs;                                          // with a gate: rows p and pairs + p belong together; else 0
  int last_row;                                       // of the rows or pairs; those beyond are read as this one
  int rows_per_tile;
};

// What a lane reads: of tiles `tile`, `tile + stride`, ... below `end` the row `row_of_lane` (and those that R adds), of each row
// elements from `begin` to `limit`, in `rounds` rounds.
struct LaneShare {
  int tile, stride, end;
  int row_of_lane;
  int begin, limit;
  int rounds;
};

// A round is R * U copies; copy (r, u) is of element `k + u * kStep` of weight row r of the tile.
template <class W, int R, int U, int kStep>
class WeightStream {
 public:
  static_assert(R * U == kCopiesInFlight);
  static constexpr int kRound = U * kStep;            // elements of a row

  // `ring`: kRingBytes of the block's shared memory. Starts the first round.
  __device__ WeightStream(const WeightMatrix& matrix, const LaneShare& share, unsigned char* ring)
      : matrix_(matrix), share_(share), ring_(reinterpret_cast<uint4*>(ring) + threadIdx.x) {
    open_tile(share.tile);
#pragma unroll
    for (int u = 0; u < U; ++u) copy(u);
    next_round();
  }

  // Copies u of the round that was started before the last have arrived.
  __device__ __forceinline__ void wait() const { ptx::copy_async_wait<U - 1>(); }
  __device__ __forceinline__ uint4 read(int r, int u) const { return ring_[slot(r, u)]; }

  // Starts copies u of the next round, in the place of those just read; zeros outside of the matrix.
  __device__ __forceinline__ void copy(int u) {
#pragma unroll
    for (int r = 0; r < R; ++r) ptx::copy_async_16(ring_ + slot(r, u), rows_[r] + u * kStep * sizeof(W), k_ + u * kStep < bound_);
    ptx::copy_async_commit();
  }

  __device__ __forceinline__ void next_round() {
    if (++round_ == share_.rounds) return open_tile(tile_ + share_.stride);
    k_ += kRound;
#pragma unroll
    for (int r = 0; r < R; ++r) rows_[r] += kRound * sizeof(W);
  }

  // Brings the rounds after those under way into L2. `leads`: this lane's copies u with u % every == 0 each begin 128 bytes that no
  // other lane has.
  __device__ void prefetch(bool leads, int every) const {
    WeightStream ahead = *this;
#pragma unroll 1
    for (int round = 0; round < kRoundsAhead; ++round, ahead.next_round()) {
#pragma unroll
      for (int u = 0; u < U; ++u) {
        if (!leads || u % every != 0 || ahead.k_ + u * kStep >= ahead.bound_) continue;
#pragma unroll
        for (int r = 0; r < R; ++r) ptx::prefetch_l2(ahead.rows_[r] + u * kStep * sizeof(W));
      }
    }
  }

 private:
  static constexpr int slot(int r, int u) { return (r * U + u) * kStreamThreads; }

  __device__ __forceinline__ void open_tile(int tile) {
    tile_ = tile;
    round_ = 0;
    k_ = share_.begin;
    bound_ = tile < share_.end ? share_.limit : 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int of_tile = tile * matrix_.rows_per_tile + share_.row_of_lane + (matrix_.pairs ? r / 2 : r);
      const int row = min(of_tile, matrix_.last_row) + (r % 2 ? matrix_.pairs : 0);
      rows_[r] = static_cast<const unsigned char*>(matrix_.data) + row * matrix_.row_bytes + share_.begin * static_cast<int64_t>(sizeof(W));
    }
  }

  const WeightMatrix& matrix_;
  const LaneShare share_;
  uint4* const ring_;
  int tile_ = 0;
  int round_ = 0;
  int k_ = 0;
  int bound_ = 0;                                     // limit, or 0 behind the last tile
  const unsigned char* rows_[R];
};

// The tiles of a block: all blocks get equally many, or one more.
__device__ __forceinline__ int tiles_before(int tiles, unsigned block, unsigned blocks) {
  return static_cast<int>(int64_t{tiles} * block / blocks);
}

// ---- on the host ----

// `rows_per_tile`: rows, or pairs with a gate.
inline WeightMatrix weight_matrix(const LinearCall& call, int rows_per_tile) {
  WeightMatrix matrix = {};
  matrix.data = call.weight->buffer.data();
  matrix.in = static_cast<int>(call.weight->width());
  matrix.row_bytes = matrix.in * static_cast<int64_t>(size_of(call.weight->dtype));
  matrix.pairs = call.gated ? static_cast<int>(call.weight->rows() / 2) : 0;
  matrix.last_row = static_cast<int>(call.gated ? matrix.pairs : call.weight->rows()) - 1;
  matrix.rows_per_tile = rows_per_tile;
  return matrix;
}

inline int tile_count(const WeightMatrix& matrix) { return matrix.last_row / matrix.rows_per_tile + 1; }

}  // namespace heddle::cuda
