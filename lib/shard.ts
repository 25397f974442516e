// Slice arithmetic: which part of a full tensor a rank holds. Pure functions; nothing here knows a layer, a file or the addon.
import { HeddleError } from './errors'
import type { DType, PieceSource, PieceSpec } from './native'

/** A contiguous part of a dimension: `start` inclusive, `end` exclusive. */
export interface Range {
  start: number
  end: number
  /** zeros that a rank's tensor holds after these elements; default none */
  padding?: number
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
  /** query heads of each piece that the contraction of their outputs is taken in; absent: one sum */
  chunks?: number[]
}

/** What a contraction's length is dealt out to, which a group is. */
export interface Ranks {
  size: number
  /** results do not depend on the size, one of 1, 2, 4 and 8. Default false */
  reproducible?: boolean
}

/** The parts of a length that is summed over. */
export interface Split {
  ranges: readonly Range[]
  /**
   * per rank, from the start of its range on: the lengths of the pieces that are summed by themselves and then added by a tree. 0 where there
   * are fewer elements than pieces: a sum of nothing, +0. Absent: one sum
   */
  chunks?: readonly number[][]
}

/** The pieces that a reproducible group takes every contraction in, whatever its size, which divides this. */
const pieceCount = 8

export const largestGroupSize = 64

export const lengthOf = (range: Range): number => range.end - range.start

/** Elements that a rank has memory for, padding included. */
export const heldLength = (range: Range): number => lengthOf(range) + (range.padding ?? 0)

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

/** Sizes up to `largestGroupSize` that leave every rank one of `count` at least. */
export function sizesUpTo(count: number, { reproducible }: Pick<Ranks, 'reproducible'> = {}): number[] {
  const sizes = Array.from({ length: Math.min(count, largestGroupSize) }, (_, i) => i + 1)
  return sizes.filter((size) => !reproducible || pieceCount % size === 0)
}

/** Equal contiguous parts, one per rank; `where` and `dimension` name the caller's quantity in the error. */
export function splitEvenly(where: string, dimension: string, value: number, { size, reproducible }: Ranks): Range[] {
  if (value % size !== 0) {
    const sizes = sizesUpTo(value, { reproducible }).filter((size) => value % size === 0)
    throw new HeddleError(
      'invalid_argument',
      `${where}: ${dimension} ${value} is not divisible by group size ${size}; valid sizes: ${sizes.join(', ')}`,
      { details: { dimension, value, size, validSizes: sizes } }
    )
  }
  return Array.from({ length: size }, (_, rank) => ({ start: rank * (value / size), end: (rank + 1) * (value / size) }))
}

/** Contiguous parts whose lengths differ by one at most; where there are more ranks than elements, those at the end are empty. */
export function splitBalanced(value: number, size: number): Range[] {
  if (value < size) return Array.from({ length: size }, (_, rank) => ({ start: Math.min(rank, value), end: Math.min(rank + 1, value) }))
  const start = (rank: number): number => Math.floor((rank * value) / size)
  return Array.from({ length: size }, (_, rank) => ({ start: start(rank), end: start(rank + 1) }))
}

/** Elements in which widths are dealt out where they suffice: 16 or 8 of them keep rows of 16-bit weights where matrix units want them. */
const widthUnits = [16, 8, 1]

/**
 * Contiguous parts of a width: equal where the size divides it, else as even as whole units of 16 or 8 elements allow. Where there are
 * more ranks than elements, those at the end hold one zero, since no tensor is empty. `strict` refuses as `splitEvenly` does.
 */
export function splitWidth(where: string, dimension: string, value: number, size: number, strict = false): Range[] {
  if (strict || value % size === 0) return splitEvenly(where, dimension, value, { size })
  const unit = widthUnits.find((elements) => elements * size <= value) ?? 1
  const clamped = (units: number): number => Math.min(units * unit, value)
  return splitBalanced(Math.ceil(value / unit), size).map(({ start, end }) =>
    start === end ? { start: value, end: value, padding: 1 } : { start: clamped(start), end: clamped(end) }
  )
}

/** As `splitWidth`, of a length that is summed over; in a reproducible group a rank has whole pieces of those that the size 8 would have. */
export function splitContraction(where: string, dimension: string, value: number, ranks: Ranks, strict = false): Split {
  const { size, reproducible } = ranks
  if (!reproducible) return { ranges: splitWidth(where, dimension, value, size, strict) }
  if (strict) splitEvenly(where, dimension, value, ranks) // refuses
  return dealOut(splitWidth(where, dimension, value, pieceCount), size)
}

/** As `splitBalanced`, of things that are summed over. Ranks at the end may have none. */
export function splitCount(value: number, { size, reproducible }: Ranks): Split {
  return reproducible ? dealOut(splitBalanced(value, pieceCount), size) : { ranges: splitBalanced(value, size) }
}

/** Consecutive pieces for each rank. Empty ones are last: they add up to one zero where a rank has no other. */
function dealOut(pieces: readonly Range[], size: number): { ranges: Range[]; chunks: number[][] } {
  const each = pieces.length / size
  const held = Array.from({ length: size }, (_, rank) => pieces.slice(rank * each, (rank + 1) * each))
  const ranges = held.map((own): Range => {
    const [start, end] = [own[0]!.start, own.at(-1)!.end]
    return start === end ? { start, end, padding: 1 } : { start, end }
  })
  return { ranges, chunks: held.map((own) => own.map(lengthOf)) }
}

/** Parts of ceil(value / size) elements; the last ranks hold fewer, or none, of the real ones and are padded to the common length. */
export function splitPadded(value: number, size: number): { ranges: Range[]; localLength: number } {
  const localLength = Math.ceil(value / size)
  const clamp = (index: number): number => Math.min(index, value)
  const ranges = Array.from({ length: size }, (_, rank) => {
    const range = { start: clamp(rank * localLength), end: clamp((rank + 1) * localLength) }
    const padding = localLength - lengthOf(range)
    return padding === 0 ? range : { ...range, padding }
  })
  return { localLength, ranges }
}

export const everything = (length: number): Range => ({ start: 0, end: length })

/** The whole on each of `size` ranks. */
export const onEveryRank = (length: number, size: number): Range[] => Array.from({ length: size }, () => everything(length))

/** The same heads in elements: a range of heads of `headDim` each. */
export const scaled = (range: Range, factor: number): Range => ({ start: range.start * factor, end: range.end * factor })

/**
 * Contiguous query heads per rank, as even as possible, and the KV heads that they touch. While the size is at most the number of KV heads
 * a rank has whole groups, so that each KV head is on one rank; beyond, it is copied to all ranks whose queries read it (KV-head
 * replication, as in vLLM). In a reproducible group a rank has whole pieces of those that the largest size would have. `strict` refuses what
 * does not divide `headCount`. Throws `invalid_argument` with the valid sizes.
 */
export function splitHeads(where: string, headCount: number, kvHeadCount: number, ranks: Ranks, strict = false): HeadShard[] {
  const queriesPerKvHead = headCount / kvHeadCount
  const { ranges, chunks } = splitQueries(where, headCount, kvHeadCount, ranks, strict)
  return ranges.map((queries, rank) => {
    const kvHead = (query: number): number => Math.floor(query / queriesPerKvHead)
    const keyValues = { start: kvHead(queries.start), end: kvHead(queries.end - 1) + 1 }
    const kvHeadOfQuery = Array.from({ length: lengthOf(queries) }, (_, i) => kvHead(queries.start + i) - keyValues.start)
    return { queries, keyValues, kvHeadOfQuery, ...(chunks && { chunks: chunks[rank]! }) }
  })
}

function splitQueries(where: string, headCount: number, kvHeadCount: number, ranks: Ranks, strict: boolean): Split {
  const { size, reproducible } = ranks
  if (strict) splitEvenly(where, 'headCount', headCount, ranks) // refuses; a valid size is split as without it
  if (size > headCount) {
    const sizes = sizesUpTo(headCount, ranks)
    throw new HeddleError('invalid_argument', `${where}: headCount ${headCount} is less than group size ${size}; valid sizes: ${sizes.join(', ')}`, {
      details: { dimension: 'headCount', value: headCount, size, validSizes: sizes }
    })
  }
  const parts = (count: number): Range[] =>
    count <= kvHeadCount ? splitBalanced(kvHeadCount, count).map((groups) => scaled(groups, headCount / kvHeadCount)) : splitBalanced(headCount, count)
  return reproducible ? dealOut(parts(sizesUpTo(headCount, ranks).at(-1)!), size) : { ranges: parts(size) }
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
