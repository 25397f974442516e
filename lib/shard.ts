// Slice arithmetic: which part of a full tensor a rank holds. Pure functions; nothing here knows a layer, a file or the addon.
import { HeddleError } from './errors'
import type { DType, PieceSource, PieceSpec } from './native'

/** A contiguous part of a dimension: `start` inclusive, `end` exclusive. */
export interface Range {
  start: number
  end: number
}

/** A full tensor that a rank's slice is taken from: row-major, or a matrix that is stored by columns. */
export interface WeightSource {
  dtype: DType
  shape: number[]
  source: PieceSource
  /** bytes from the start of the source to the first element */
  offset: number
  /** the columns of the matrix lie one after the other, not its rows */
  transposed?: boolean
  /** elements between the starts of two rows (columns, if transposed) in the source; default: those of one */
  stride?: number
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

/** The nearest number of a data type, ties to even. For positive numbers in the range of normal ones. */
export function rounded(value: number, dtype: DType): number {
  const single = Math.fround(value)
  if (dtype === 'float32') return single
  const kept = dtype === 'bfloat16' ? 8 : 11 // bits of the significand
  const unit = 2 ** (Math.floor(Math.log2(Math.abs(single) || 1)) - kept + 1)
  const [below, rest] = [Math.floor(single / unit), (single / unit) % 1]
  return unit * (rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? below + 1 : below)
}

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

/** Contiguous parts, none empty, whose lengths differ by one at most. */
export function splitBalanced(where: string, dimension: string, value: number, size: number): Range[] {
  if (value < size) {
    throw new HeddleError('invalid_argument', `${where}: expected ${dimension} of at least the group size ${size}, got ${value}`, {
      details: { dimension, value, size }
    })
  }
  const start = (rank: number): number => Math.floor((rank * value) / size)
  return Array.from({ length: size }, (_, rank) => ({ start: start(rank), end: start(rank + 1) }))
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

const widthOf = ({ shape }: WeightSource): number => shape.slice(1).reduce((product, length) => product * length, 1)

/** The `count` rows from `start` on, as a tensor of their own. */
export function rowsOf(weight: WeightSource, start: number, count: number): WeightSource {
  const { transposed = false, stride = transposed ? weight.shape[0]! : widthOf(weight) } = weight
  const offset = weight.offset + start * (transposed ? 1 : stride) * elementBytes(weight.dtype)
  return { ...weight, shape: [count, ...weight.shape.slice(1)], offset, ...(transposed && { stride }) }
}

/**
 * The rectangle [rows, columns] of a matrix (or of a vector, as a matrix of one column), put at `targetRow` of a local tensor whose rows
 * hold `targetWidth` elements.
 */
export function piece(weight: WeightSource, rows: Range, columns: Range, targetRow: number, targetWidth: number): PieceSpec {
  const width = widthOf(weight)
  const bytes = elementBytes(weight.dtype)
  const { transposed = false, stride = transposed ? weight.shape[0]! : width } = weight
  const [line, place] = transposed ? [columns.start, rows.start] : [rows.start, columns.start]
  const start = {
    source: weight.source,
    dtype: weight.dtype,
    offset: weight.offset + (line * stride + place) * bytes,
    targetOffset: targetRow * targetWidth
  }
  if (transposed) {
    const shape = { rows: lengthOf(rows), rowElements: lengthOf(columns), targetStride: targetWidth }
    return { ...start, ...shape, rowStride: stride * bytes, transposed }
  }
  if (lengthOf(columns) === width && targetWidth === width && stride === width) {
    // whole rows lie one after the other in both: a single long row
    const count = lengthOf(rows) * width
    return { ...start, rows: 1, rowElements: count, rowStride: count * bytes, targetStride: count }
  }
  return { ...start, rows: lengthOf(rows), rowElements: lengthOf(columns), rowStride: stride * bytes, targetStride: targetWidth }
}
