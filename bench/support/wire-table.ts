// Times of an all-reduce that modelled figures are made with, where a machine has fewer cores or GPUs than a group has ranks. Data with
// its source; nothing computed from it may be shown without the word "modelled".

type Point = readonly [bytes: number, microseconds: number]

const kilobyte = 1024
const megabyte = 1024 * kilobyte

export interface Wire {
  source: string
  /** measured or published times by number of ranks */
  table: ReadonlyMap<number, readonly Point[]>
  /** whether it says anything about groups of this size */
  covers(ranks: number): boolean
  /** of one all-reduce of `bytes`; 0 for one rank */
  microseconds(ranks: number, bytes: number): number
}

// Among threads of one process: two ranks measured, docs/performance.md. More ranks: every rank moves 2 (n - 1) / n of the bytes instead
// of all of them once, at the same speed.
const localPoints: readonly Point[] = [
  [4 * kilobyte, 0.64], [16 * kilobyte, 0.9], [64 * kilobyte, 2.6], [512 * kilobyte, 16], [2 * megabyte, 67], [8 * megabyte, 384],
]

// Best published figures on Hopper with NVSwitch. 8 ranks: MSCCL++ in a CUDA graph up to 1 MB (sgl-project/sglang#22734), torch multimem
// from 4 MB (vllm-project/vllm#42324), NCCL at 128 MB. 2 and 4 ranks: a one-shot kernel up to 1 MB (sglang#2904), beyond it NCCL at its
// bus bandwidth of 347 and 339 GB/s (github.com/waynehacking8/nccl-collectives-bench).
const nvlinkPoints = new Map<number, readonly Point[]>([
  [2, [[4 * kilobyte, 3.9], [32 * kilobyte, 4.5], [256 * kilobyte, 7.9], [megabyte, 19.9], [16 * megabyte, 64], [256 * megabyte, 790]]],
  [4, [[4 * kilobyte, 3.7], [32 * kilobyte, 4.8], [256 * kilobyte, 13.9], [megabyte, 31.1], [16 * megabyte, 101.9], [256 * megabyte, 1186]]],
  [8, [[8 * kilobyte, 6], [64 * kilobyte, 8.2], [256 * kilobyte, 10.6], [megabyte, 14], [4 * megabyte, 27], [16 * megabyte, 87],
    [32 * megabyte, 165], [128 * megabyte, 561]]],
])

export const wires = {
  local: {
    source: 'the all-reduce among two ranks of one process as measured in docs/performance.md, times 2 (n - 1) / n for n ranks',
    table: new Map([[2, localPoints]]),
    covers: (ranks) => ranks >= 1,
    microseconds: (ranks, bytes) => (ranks === 1 ? 0 : ((2 * (ranks - 1)) / ranks) * interpolated(localPoints, bytes)),
  },
  nvlink: {
    source: 'best published all-reduce on Hopper with NVSwitch (sglang#22734, sglang#2904, vllm#42324, NCCL), see bench/support/wire-table.ts',
    table: nvlinkPoints,
    covers: (ranks) => ranks === 1 || nvlinkPoints.has(ranks),
    microseconds(ranks, bytes) {
      if (ranks === 1) return 0
      const points = nvlinkPoints.get(ranks)
      if (!points) throw new Error(`wire table: expected 1, ${[...nvlinkPoints.keys()].join(', ')} ranks, got ${ranks}`)
      return interpolated(points, bytes)
    },
  },
} satisfies Record<string, Wire>

/** On logarithms of both; below the first point its time, beyond the last its speed. */
function interpolated(points: readonly Point[], bytes: number): number {
  const [firstBytes, firstTime] = points[0]
  if (bytes <= firstBytes) return firstTime
  const next = points.findIndex(([at]) => at >= bytes)
  if (next < 0) {
    const [lastBytes, lastTime] = points[points.length - 1]
    return (lastTime * bytes) / lastBytes
  }
  const [lowBytes, lowTime] = points[next - 1]
  const [highBytes, highTime] = points[next]
  const part = Math.log(bytes / lowBytes) / Math.log(highBytes / lowBytes)
  return lowTime * (highTime / lowTime) ** part
}
