// Send-receive: a segment a round into the staging memory of the receiver, who says when it has been read. Two are under way at most.
#include <algorithm>

#include "cuda/launch.h"
#include "cuda/segments.cuh"

namespace heddle::cuda {

namespace {

struct Transfer {
  Peers peers;
  StagingLayout layout;
  int to;
  int from;
  int64_t count;                                      // bytes
  int64_t segment;
};

using Bytes = unsigned char;

__global__ void __launch_bounds__(kSegmentThreads) transfer(const __grid_constant__ Transfer call, const Bytes* x, Bytes* y) {
  ptx::dependency_wait();
  launch_dependents(call.peers);
  Patience patience(call.peers);
  const int rank = call.peers.rank;
  uint32_t* counter = segment_epoch(call.peers, call.layout);
  uint32_t epoch = *counter;
  int rounds = 0;
  for (int64_t base = int64_t{blockIdx.x} * call.segment; base < call.count; base += int64_t{gridDim.x} * call.segment) {
    const SegmentRound round(call.peers, call.layout, ++epoch);
    const int64_t length = min(call.segment, call.count - base);
    if (++rounds > 2) round.await_from(call.to, result, patience, 2);
    Segment<Bytes>::copy_in(x + base, round.staged<Bytes>(call.to, contribution, rank), length);
    round.announce_to(call.to, contribution);
    round.await_from(call.from, contribution, patience);
    Segment<Bytes>::copy_out(round.staged<Bytes>(rank, contribution, call.from), y + base, length);
    round.announce_to(call.from, result);             // that it has been read
  }
  SegmentRound(call.peers, call.layout, epoch).await_from(call.to, result, patience);
  if (threadIdx.x == 0) *counter = epoch;
}

}  // namespace

void send_receive(const Device& device, const Peers& peers, View x, int to, View y, int from) {
  const int64_t count = x.rows * x.width * static_cast<int64_t>(size_of(x.dtype));
  if (count == 0) return;
  const int64_t share = (count + peers.blocks - 1) / peers.blocks;
  const int64_t segment = std::min<int64_t>((share + 15) / 16 * 16, kSegmentBytes);
  const Transfer call{peers, {peers.size, peers.blocks}, to, from, count, segment};
  launch("send_receive",
         {.grid = dim3(static_cast<unsigned>(std::min<int64_t>((count + segment - 1) / segment, peers.blocks))),
          .block = dim3(kSegmentThreads),
          .stream = device.stream(),
          .dependent = device.dependent_launch()},
         transfer, call, static_cast<const Bytes*>(x.data), static_cast<Bytes*>(y.data));
}

}  // namespace heddle::cuda
