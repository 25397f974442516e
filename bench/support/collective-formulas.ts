// The arithmetic of the collective cases: pure functions, derived in docs/performance.md. Bytes are the column "size" of nccl-tests (of the
// whole array, where ranks hold parts), bandwidths are GB/s (10^9), `ranks` is at least 2.
import { type CollectiveName } from './facts'

/** Bytes of the whole array that are done in a second. */
export function algorithmBandwidth(bytes: number, seconds: number): number {
  return bytes / seconds / 1e9
}

/**
 * What every link must carry in one direction, in a ring of point-to-point transfers, for each byte of the array: with it, figures of
 * different group sizes compare with the same link. Source: NVIDIA/nccl-tests, doc/PERFORMANCE.md.
 */
export function busFactor(collective: CollectiveName, ranks: number): number {
  switch (collective) {
    case 'all_reduce': return (2 * (ranks - 1)) / ranks
    case 'all_gather':
    case 'reduce_scatter': return (ranks - 1) / ranks
    case 'send_recv': return 1
  }
}

export function busBandwidth(collective: CollectiveName, ranks: number, bytes: number, seconds: number): number {
  return algorithmBandwidth(bytes, seconds) * busFactor(collective, ranks)
}

const encodings = [1, 32 / 33, 16 / 17]

/**
 * GB/s of data in one direction of a link, from the MB/s that NVML reports. Drivers of some generations count what is on
 * the wire: 25.781 for NVLink 2 is 33/32 of 25, as 128b/132b makes it, and 26.562 for NVLink 4 is 17/16 of 25, as 256b/257b with the error
 * correction RS(544,514) makes it (257/256 · 544/514). Data rates are multiples of 5 GB/s: the encoding that leads to one is taken, else none.
 */
export function dataRate(megabytesPerSecond: number): number {
  const rates = encodings.map((share) => (megabytesPerSecond * share) / 1000)
  const data = rates.find((rate) => Math.round(rate / 5) > 0 && Math.abs(rate / (5 * Math.round(rate / 5)) - 1) < 1e-3)
  return data === undefined ? megabytesPerSecond / 1000 : 5 * Math.round(data / 5)
}

/** GB/s of data in one direction of all links of a GPU. */
export function lineRate(links: readonly { megabytesPerSecond: number }[]): number {
  return links.reduce((sum, { megabytesPerSecond }) => sum + dataRate(megabytesPerSecond), 0)
}

/** What transfers reach of the line rate, after the protocol: 370 of 450 GB/s on Hopper. Source: an NCCL author in NVIDIA/nccl-tests#212. */
export const practicalShare = 370 / 450

/**
 * The largest bus bandwidth of an all-reduce in the switch (NVLS): a link carries S (1 + 1/n) bytes in one direction, the rank's array
 * and its part of the sum, so S / t = line / (1 + 1/n). Of the others a link carries what it does in a ring, so the line rate is their
 * limit and there is no other.
 */
export function nvlsLimit(collective: CollectiveName, ranks: number, line: number): number | undefined {
  return collective === 'all_reduce' ? (busFactor(collective, ranks) / (1 + 1 / ranks)) * line : undefined
}

/**
 * Bytes that must at least pass between memory and all ranks together for each byte of the array: every input is read once and every
 * result written once, and what ranks read of each other comes from a cache.
 */
export function memoryFactor(collective: CollectiveName, ranks: number): number {
  switch (collective) {
    case 'all_reduce':
    case 'send_recv': return 2 * ranks // each rank reads S and writes S
    case 'all_gather':
    case 'reduce_scatter': return ranks + 1 // parts of S / n on one side, S for each rank on the other
  }
}

/** The bus bandwidth at which memory is the limit; `bandwidth`: of all ranks' memory together. */
export function memoryLimit(collective: CollectiveName, ranks: number, bandwidth: number): number {
  return (bandwidth / memoryFactor(collective, ranks)) * busFactor(collective, ranks)
}
