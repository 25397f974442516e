// Whether a model fits onto its GPUs, asked before its memory is taken: what the ranks of a GPU hold first, then as large a KV cache as is
// wanted and fits. Rule: pure functions; what is free is asked by the caller.
import { HeddleError } from '../errors'
import { heldLength, lengthOf, splitContraction, splitHeads } from '../shard'
import type { Ranks } from '../shard'
import type { ModelConfig } from './config'
import type { DecoderPlan } from './plan-parts'
import type { ResolvedPart } from './tp-plan'

/** What one rank takes of its GPU. */
export interface GpuShare {
  rank: number
  device: number
  weightBytes: number
  workspaceBytes: number
  cacheBytesPerToken: number
}

export interface GpuMemory {
  totalBytes: number
  freeBytes: number
}

export interface CacheWish {
  /** cached tokens asked for by the caller; none: `contextTokens` for each of `sequences`, as far as memory goes */
  maxTokens?: number
  contextTokens: number
  sequences: number
  blockSize: number
}

/** Of a GPU's memory, the part that may be in use, by whomever. */
export const defaultUtilization = 0.9

/** Scratch that does not grow with a step: the matrix library's, split attention's, captured graphs. */
const fixedWorkspaceBytes = 256 * 2 ** 20

/** Cached tokens to make room for, in whole blocks, the same on every GPU. Throws `out_of_memory` with ranks, need and free bytes. */
export function planGpuCacheTokens(shares: GpuShare[], memoryOf: (device: number) => GpuMemory, utilization: number, wish: CacheWish): number {
  const { maxTokens, contextTokens, sequences, blockSize } = wish
  const wanted = Math.ceil((maxTokens ?? contextTokens * sequences) / blockSize)
  const least = maxTokens === undefined ? 1 : wanted
  const devices = [...new Set(shares.map(({ device }) => device))]
  const fitting = devices.map((device) => {
    const gpu = new GpuPlan(device, shares.filter((share) => share.device === device), memoryOf(device), utilization)
    return gpu.blocks(blockSize, least)
  })
  return Math.min(wanted, ...fitting) * blockSize
}

class GpuPlan {
  constructor(
    readonly device: number,
    readonly shares: GpuShare[],
    readonly memory: GpuMemory,
    readonly utilization: number
  ) {}

  /** Blocks that fit beside the weights; throws where these are less than `least`. */
  blocks(blockSize: number, least: number): number {
    const { totalBytes, freeBytes } = this.memory
    const budget = Math.floor(this.utilization * totalBytes) - (totalBytes - freeBytes) // what others use counts too
    const held = this.#sum('weightBytes') + this.#sum('workspaceBytes')
    const blockBytes = blockSize * this.#sum('cacheBytesPerToken')
    const blocks = Math.floor((budget - held) / blockBytes)
    if (blocks >= least) return blocks
    throw this.#outOfMemory(held, least * blockBytes)
  }

  #sum(key: 'weightBytes' | 'workspaceBytes' | 'cacheBytesPerToken'): number {
    return this.shares.reduce((sum, share) => sum + share[key], 0)
  }

  #outOfMemory(heldBytes: number, cacheBytes: number): HeddleError {
    const { device, utilization } = this
    const { totalBytes, freeBytes } = this.memory
    const ranks = this.shares.map(({ rank }) => rank)
    const neededBytes = heldBytes + cacheBytes
    const who = `${ranks.length > 1 ? 'ranks' : 'rank'} ${ranks.join(', ')} on GPU ${device}`
    const parts = `weights ${megabytes(this.#sum('weightBytes'))}, workspace ${megabytes(this.#sum('workspaceBytes'))}, cache ${megabytes(cacheBytes)}`
    const got = `${megabytes(freeBytes)} free of ${megabytes(totalBytes)}, of which gpuMemoryUtilization ${utilization} may be in use`
    const text = `AutoModelForCausalLM: ${who}: expected ${megabytes(neededBytes)} (${parts}), got ${got}`
    return new HeddleError('out_of_memory', text, { details: { ranks, device, neededBytes, freeBytes, totalBytes } })
  }
}

/**
 * Bytes that a rank's programs take beside weights and cache: an upper estimate, from the widths of what lives at the same time. What the
 * plan leaves whole anywhere is as wide as on a single rank.
 */
export function workspaceEstimate(
  config: ModelConfig,
  { size, reproducible = false }: Ranks,
  limits: { maxTokens: number; maxSequences: number },
  { attention, mlp, head, embedding }: DecoderPlan
): number {
  const { hiddenSize, headCount, kvHeadCount, headDim, intermediateSize, vocabSize, experts } = config
  const sizeOf = (parts: readonly ResolvedPart[]): number => (parts.some(({ split }) => split === 'replicate') ? 1 : size)
  const ranksOf = (parts: readonly ResolvedPart[]): Ranks => ({ size: sizeOf(parts), reproducible })
  const shards = splitHeads('workspace', headCount, kvHeadCount, ranksOf(attention))
  const heads = Math.max(...shards.map(({ queries, keyValues }) => lengthOf(queries) + 2 * lengthOf(keyValues)))
  const inner = Math.max(...splitContraction('workspace', 'intermediateSize', intermediateSize, ranksOf(mlp)).ranges.map(heldLength))
  const routing = 2 * (experts?.expertCount ?? 0)
  const width = 6 * hiddenSize + 2 * heads * headDim + 3 * inner + routing
  const logits = 2 * limits.maxSequences * Math.ceil(vocabSize / sizeOf([head ?? embedding]))
  return fixedWorkspaceBytes + 4 * (limits.maxTokens * width + logits) + (experts ? expertsScratch(config, limits.maxTokens) : 0)
}

/** What experts hand on between kernels, for as many rows as go at once: inner values, the terms of the sums, lists of rows. */
function expertsScratch({ hiddenSize, experts }: ModelConfig, maxTokens: number): number {
  const { expertCount, expertsPerToken, intermediateSize } = experts!
  return 4 * Math.min(maxTokens, 512) * (expertsPerToken * (hiddenSize + intermediateSize) + expertCount)
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`
