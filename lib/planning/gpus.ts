// What a GPU gives, for predictions. Read and matrix rates are what was measured where it was, else the datasheet's times the share that the
// measured ones reach; links are bytes a second and direction. Everything that comes from this table is marked as modelled.

export interface GpuProfile {
  name: string
  memoryBytes: number
  /** bytes a second that a kernel can read */
  readRate: number
  /** dense 16-bit operations a second that large matrix products reach */
  arithmeticRate: number
  /** bytes a second and direction between two GPUs, as collectives reach it */
  linkRate: number
  /** seconds that a small all-reduce takes among 2 ranks; each doubling of the ranks adds a quarter of it */
  latency: number
}

const nvlink = 4e-6 // one-shot through peers' memory
const pcie = 15e-6

/** Memory reads reach 92 % of the datasheet on the H200 that was measured, matrix products 71 %, collectives 82 % of the line. */
export const gpuProfiles: readonly GpuProfile[] = [
  { name: 'H200', memoryBytes: 141e9, readRate: 4.42e12, arithmeticRate: 700e12, linkRate: 370e9, latency: nvlink },
  { name: 'H100', memoryBytes: 80e9, readRate: 0.92 * 3.35e12, arithmeticRate: 0.71 * 989e12, linkRate: 370e9, latency: nvlink },
  { name: 'B200', memoryBytes: 180e9, readRate: 0.92 * 8e12, arithmeticRate: 0.71 * 2250e12, linkRate: 740e9, latency: nvlink },
  { name: 'A100-80GB', memoryBytes: 80e9, readRate: 0.92 * 2.039e12, arithmeticRate: 0.71 * 312e12, linkRate: 246e9, latency: nvlink },
  { name: 'A100-40GB', memoryBytes: 40e9, readRate: 0.92 * 1.555e12, arithmeticRate: 0.71 * 312e12, linkRate: 246e9, latency: nvlink },
  { name: 'L40S', memoryBytes: 48e9, readRate: 0.92 * 0.864e12, arithmeticRate: 0.71 * 362e12, linkRate: 22e9, latency: pcie },
  { name: 'RTX-4090', memoryBytes: 24e9, readRate: 0.92 * 1.008e12, arithmeticRate: 0.71 * 165e12, linkRate: 22e9, latency: pcie }
]
