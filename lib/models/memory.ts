// Whether a model fits into memory, asked before any of it is taken: weights of all ranks first, then as large a KV cache as is wanted and
// fits.
import os from 'node:os'
import { HeddleError } from '../errors'

export interface MemoryNeeds {
  /** bytes of the weights, of all ranks that share the memory */
  weightBytes: number
  /** bytes of one cached token, of the same ranks */
  cacheBytesPerToken: number
  /** cached tokens asked for by the caller; none: `contextTokens` several times over, as far as memory goes */
  maxTokens?: number
  contextTokens: number
  blockSize: number
}

/** Sequences of full length that the default cache holds while it stays small. */
const defaultSequences = 8
const smallCacheTokens = 16384

/** Of what the weights leave, the part that a cache may take when nobody asked for a size. */
const cacheShare = 0.5

/** Cached tokens to make room for, in whole blocks. Throws `out_of_memory`. */
export function planCacheTokens(needs: MemoryNeeds, availableBytes: number): number {
  const { weightBytes, cacheBytesPerToken, maxTokens, contextTokens, blockSize } = needs
  const left = availableBytes - weightBytes
  if (left < 0) throw outOfMemory(`weights of ${megabytes(weightBytes)}`, availableBytes)
  if (maxTokens !== undefined) {
    const tokens = Math.ceil(maxTokens / blockSize) * blockSize
    if (tokens * cacheBytesPerToken <= left) return tokens
    throw outOfMemory(
      `weights of ${megabytes(weightBytes)} and a cache of ${megabytes(tokens * cacheBytesPerToken)} (maxTokens ${maxTokens})`,
      availableBytes
    )
  }
  const wanted = Math.max(contextTokens, Math.min(contextTokens * defaultSequences, smallCacheTokens))
  const fitting = Math.floor((left * cacheShare) / cacheBytesPerToken)
  const blocks = Math.min(Math.ceil(wanted / blockSize), Math.floor(fitting / blockSize))
  if (blocks < 1) throw outOfMemory(`weights of ${megabytes(weightBytes)} and a cache`, availableBytes)
  return blocks * blockSize
}

/**
 * Bytes that can be taken now. A container counts its file cache as used although the kernel gives it up on demand: a second estimate
 * leaves that out.
 */
export function availableMemory(): number {
  const limit = process.constrainedMemory() || Infinity
  const uncached = Math.min(os.freemem(), limit - process.memoryUsage.rss())
  return Math.max(process.availableMemory(), uncached)
}

function outOfMemory(what: string, availableBytes: number): HeddleError {
  const text = `AutoModelForCausalLM: expected ${what} to fit into memory, got ${megabytes(availableBytes)} available`
  return new HeddleError('out_of_memory', text, { details: { availableBytes } })
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`
