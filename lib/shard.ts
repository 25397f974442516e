// Slice arithmetic: which part of a full tensor a rank holds. Pure functions; nothing here knows a layer, a file or the addon.
import { HeddleError } from './errors'
import type { DType, PieceSource, PieceSpec } from './native'

/** A contiguous part of a dimension: `start` inclusive, `end` exclusive. */
export interface Range {
  start: number
  end: number
}

/** A full tensor, row-major, that a rank's slice is taken from. `offset` is in bytes from the start of the source. */
export interface WeightSource {
  dtype: DType
  shape: number[]
  source: PieceSource
  offset: number
}

/** The query heads of a rank, the KV heads that they read, and for each local query head its local KV head. */
export interface HeadShard {
  queries: Range
  keyValues: Range
  kvHeadOfQuery: number[]
}

export const largestGroupSize = 64

export const lengthOf = (range: Range): number => range.end - range.start

export const elementBytes = (dtype: DType): number => (dtype === 'float32' ? 4 : 2)

/** Sizes up to `largestGroupSize` that split every one of the dimensions evenly. */
export function validSizes(...dimensions: number[]): number[] {
  const sizes = []
  for (let size = 1; size <= largestGroupSize; size++) if (dimensions.every((value) => value % size === 0)) sizes.push(size)
  return sizes
}

/** Equal contiguous parts, one per rank; `where` and `dimension` name the caller's quantity in the error. */
export function splitEvenly(where: string, dimension: string, value: number, size: number): Range[] {
  if (value % size !== 0) {
    const sizes = validSizes(value)
    throw new HeddleError(
      'invalid_argument',
      `${where}: ${dimension} ${value} is not divisible by group size ${size}; valid sizes: ${sizes.join(', ')}`,
      { details: { dimension, value, size, validSizes: sizes } }
    )
  }
  return Array.from({ length: size }, (_, rank) => ({ start: rank * (value / size), end: (rank + 1) * (value / size) }))
}

/** Parts of ceil(value / size) elements; the last ranks hold fewer, or none, of the real ones and are padded to the common length. */
export function splitPadded(value: number, size: number): { ranges: Range[]; localLength: number } {
  const localLength = Math.ceil(value / size)
  const clamp = (index: number): number => Math.min(index, value)
  return {
    localLength,
    ranges: Array.from({ length: size }, (_, rank) => ({ start: clamp(rank * localLength), end: clamp((rank + 1) * localLength) }))
  }
}

export const everything = (length: number): Range => ({ start: 0, end: length })

/** The same heads in elements: a range of heads of `headDim` each. */
export const scaled = (range: Range, factor: number): Range => ({ start: range.start * factor, end: range.end * factor })

/**
 * Contiguous query heads per rank, and the KV heads that they touch: an equal share while the size divides the KV heads, a copy on
 * several ranks where it exceeds them (KV-head replication, as in vLLM).
 */
export function splitHeads(where: string, headCount: number, kvHeadCount: number, size: number): HeadShard[] {
  const queriesPerKvHead = headCount / kvHeadCount
  return splitEvenly(where, 'headCount', headCount, size).map((queries) => {
    const kvHead = (query: number): number => Math.floor(query / queriesPerKvHead)
    const keyValues = { start: kvHead(queries.start), end: kvHead(queries.end - 1) + 1 }
    const kvHeadOfQuery = Array.from({ length: lengthOf(queries) }, (_, i) => kvHead(queries.start + i) - keyValues.start)
    return { queries, keyValues, kvHeadOfQuery }
  })
}

/**
 * The rectangle [rows, columns] of a matrix (or of a vector, as a matrix of one column), put at `targetRow` of a local tensor whose rows
 * hold `targetWidth` elements.
 */
export function piece(weight: WeightSource, rows: Range, columns: Range, targetRow: number, targetWidth: number): PieceSpec {
  const width = weight.shape.slice(1).reduce((product, length) => product * length, 1)
  const bytes = elementBytes(weight.dtype)
  const start = {
    source: weight.source,
    dtype: weight.dtype,
    offset: weight.offset + (rows.start * width + columns.start) * bytes,
    targetOffset: targetRow * targetWidth
  }
  if (lengthOf(columns) === width && targetWidth === width) {
    // whole rows lie one after the other in both: a single long row
    const count = lengthOf(rows) * width
    return { ...start, rows: 1, rowElements: count, rowStride: count * bytes, targetStride: count }
  }
  return { ...start, rows: lengthOf(rows), rowElements: lengthOf(columns), rowStride: width * bytes, targetStride: targetWidth }
}
