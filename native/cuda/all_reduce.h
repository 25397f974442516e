// Collectives among ranks whose GPUs, or whose one GPU, reach each other's memory by pointer: the kernels and what they share.
// Rule: block b of a rank waits for block b of its peers alone, so a launch needs its own blocks on the GPU at the same time, no more;
// and a wait ends by itself when the group is aborted or a peer is missing for too long.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/tensor.h"
#include "cuda/device.h"
#include "cuda/device_communicator.h"

namespace heddle::cuda {

constexpr int kPeerLevels = 6;                        // of the tree in which their parts are added
constexpr int kMaxPeers = 1 << kPeerLevels;
// Payload that a block exchanges at once; a fused row must fit.
constexpr size_t kUnitBytes = 32 * 1024;
// Part of a two-shot message that a block sends to one peer at once.
constexpr size_t kSegmentBytes = 16 * 1024;
constexpr int kMaxCollectiveBlocks = 32;

// Words in host memory that kernels read and write while they wait.
struct CollectiveSignals {
  uint32_t aborted;                                   // host → kernels of every rank
  uint32_t padding[31];
  struct alignas(128) Status {
    uint32_t failure;                                 // kernels → host: CollectiveFailure
    uint32_t missing;                                 // the peer that did not come
  } ranks[kMaxPeers];
};
enum CollectiveFailure : uint32_t { kHealthy = 0, kAborted = 1, kTimedOut = 2 };

// How a rank's staging memory is divided; the same on every rank.
struct StagingLayout {
  int ranks = 1;
  int blocks = 1;

  // [parity][block][rank] units of payload words, each word followed by its flag
  constexpr size_t unit_slot(int parity, int block, int rank) const {
    return ((static_cast<size_t>(parity) * static_cast<size_t>(blocks) + static_cast<size_t>(block)) * static_cast<size_t>(ranks) +
            static_cast<size_t>(rank)) * 2 * kUnitBytes;
  }
  constexpr size_t units_end() const { return unit_slot(2, 0, 0); }
  // [parity][block][contribution, result][rank] segments
  constexpr size_t segment_slot(int parity, int block, int result, int rank) const {
    return units_end() + (((static_cast<size_t>(parity) * static_cast<size_t>(blocks) + static_cast<size_t>(block)) * 2 +
                           static_cast<size_t>(result)) * static_cast<size_t>(ranks) + static_cast<size_t>(rank)) * kSegmentBytes;
  }
  constexpr size_t segments_end() const { return segment_slot(2, 0, 0, 0); }
  // [block][contribution, result][rank] epoch up to which the segment is there
  constexpr size_t flag(int block, int result, int rank) const {
    return segments_end() + ((static_cast<size_t>(block) * 2 + static_cast<size_t>(result)) * static_cast<size_t>(ranks) +
                             static_cast<size_t>(rank)) * sizeof(uint32_t);
  }
  // [block][unit, segment] epochs of this rank
  constexpr size_t epoch(int block, int kind) const {
    return flag(blocks, 0, 0) + (static_cast<size_t>(block) * 2 + static_cast<size_t>(kind)) * sizeof(uint32_t);
  }
  constexpr size_t bytes() const { return epoch(blocks, 0); }
};

// A rank's view of its peers, passed to kernels by value.
struct Peers {
  int rank = 0;
  int size = 1;
  int blocks = 1;                                     // of a launch at most
  bool share_gpu = false;                             // two of them are on one GPU
  uint64_t timeout_nanoseconds = 0;
  CollectiveSignals* signals = nullptr;
  unsigned char* staging[kMaxPeers] = {};             // of every rank
};

// x := sum over the ranks, in fp32 and in the order of core/sum_tree.h, then the epilogue; each block exchanges rows (with a norm) or pieces.
// For few bytes: every rank sends all it has to every other.
void all_reduce_one_shot(const Device& device, const Peers& peers, View x, const AllReduceEpilogue& epilogue);
// x := the sum; for many bytes: every rank sums one part, then all exchange the sums.
void all_reduce_two_shot(const Device& device, const Peers& peers, View x);

// What each rank keeps of a buffer.
struct Parts {
  int64_t begin[kMaxPeers] = {};                      // elements
  int64_t length[kMaxPeers] = {};
};
// y := the sum of this rank's part of x over the ranks, in fp32 and in the order of core/sum_tree.h; y may be that part.
void reduce_scatter(const Device& device, const Peers& peers, const void* x, const Parts& parts, View y);
// x to rank `to`, and y from rank `from`; flat, of one size on every rank.
void send_receive(const Device& device, const Peers& peers, View x, int to, View y, int from);
// y := the sum of `ranks` parts of its size and type, one behind the other, in fp32 and in the order of core/sum_tree.h.
void tree_sum(const Device& device, const void* parts, int ranks, View y);
// `bytes` of every rank into all [size * bytes]; of `mine` only `mine_bytes` are read.
void gather_bytes(const Device& device, const Peers& peers, const void* mine, size_t mine_bytes, size_t bytes, void* all);
// y[row] = part 0 [row] | part 1 [row] | …, from parts of `part_bytes` each, part r being [rows, widths[r]].
void interleave(const Device& device, const void* parts, size_t part_bytes, const std::vector<int64_t>& widths, View y);
// The reverse: part r of x [rows, sum of widths] becomes [rows, widths[r]] at `parts` + r * part_bytes.
void separate(const Device& device, View x, const std::vector<int64_t>& widths, void* parts, size_t part_bytes);

}  // namespace heddle::cuda
