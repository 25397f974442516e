// Unsharded layers in plain double precision, written from the formulas and sharing no code with the library: what the layers must equal.
import type { HostTensor } from '../../lib/native'

export type Matrix = number[][]

export const toMatrix = ({ data, shape: [rows, width] }: HostTensor): Matrix =>
  Array.from({ length: rows! }, (_, r) => Array.from(data.subarray(r * width!, (r + 1) * width!)))

export const fromMatrix = (rows: Matrix): HostTensor => ({ data: Float32Array.from(rows.flat()), shape: [rows.length, rows[0]!.length] })

/** `x · weightᵀ + bias`, weight [out, in] */
export function linear(x: Matrix, weight: HostTensor, bias?: Float32Array): Matrix {
  const [out, width] = weight.shape as [number, number]
  return x.map((row) =>
    Array.from({ length: out }, (_, o) => {
      let sum = bias?.[o] ?? 0
      for (let i = 0; i < width; i++) sum += row[i]! * weight.data[o * width + i]!
      return sum
    })
  )
}

export function erf(x: number): number {
  // Taylor series: exact to double precision for the small arguments of these tests
  if (Math.abs(x) > 5) return Math.sign(x)
  let term = x
  let sum = x
  for (let n = 1; n < 200; n++) {
    term *= (-x * x) / n
    sum += term / (2 * n + 1)
  }
  return (2 / Math.sqrt(Math.PI)) * sum
}

export const activations: Record<'gelu' | 'gelu_tanh' | 'relu' | 'silu', (x: number) => number> = {
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  relu: (x) => Math.max(x, 0),
  silu: (x) => x / (1 + Math.exp(-x))
}

export const map2 = (a: Matrix, b: Matrix, fn: (x: number, y: number) => number): Matrix =>
  a.map((row, r) => row.map((x, c) => fn(x, b[r]![c]!)))

export function rmsNorm(x: Matrix, weight: Float32Array, eps: number): Matrix {
  return x.map((row) => {
    const scale = 1 / Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / row.length + eps)
    return row.map((value, i) => value * scale * weight[i]!)
  })
}

export function layerNorm(x: Matrix, weight: Float32Array, bias: Float32Array | undefined, eps: number): Matrix {
  return x.map((row) => {
    const mean = row.reduce((sum, value) => sum + value, 0) / row.length
    const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / row.length
    return row.map((value, i) => ((value - mean) / Math.sqrt(variance + eps)) * weight[i]! + (bias?.[i] ?? 0))
  })
}

/** Rotates the halves of a head: element i with element i + dim / 2, by position * theta^(-2i / dim). */
export function rotate(head: number[], position: number, theta: number): number[] {
  const half = head.length / 2
  return head.map((value, i) => {
    const angle = position * theta ** ((-2 * (i % half)) / head.length)
    const other = i < half ? -head[i + half]! : head[i - half]!
    return value * Math.cos(angle) + other * Math.sin(angle)
  })
}

export interface ReferenceAttention {
  headCount: number
  kvHeadCount: number
  headDim: number
  causal?: boolean
  slidingWindow?: number
  theta?: number
  /** leading elements of a head that turn; default all */
  ropeDim?: number
  /** factor on cosine and sine */
  ropeScale?: number
  /** factor on the scores; default 1 / sqrt(headDim) */
  scale?: number
  queryNorm?: Float32Array
  keyNorm?: Float32Array
  eps?: number
}

/** Attention over already projected queries [tokens, headCount * headDim], keys and values [tokens, kvHeadCount * headDim]. */
export function attention(q: Matrix, k: Matrix, v: Matrix, options: ReferenceAttention): Matrix {
  const { headCount, kvHeadCount, headDim, causal = true, slidingWindow = Infinity, theta, eps = 1e-6 } = options
  const { ropeDim = headDim, ropeScale = 1, scale = 1 / Math.sqrt(headDim) } = options
  const head = (row: number[], index: number): number[] => row.slice(index * headDim, (index + 1) * headDim)
  const prepare = (row: number[], index: number, position: number, norm?: Float32Array): number[] => {
    const normed = norm ? rmsNorm([head(row, index)], norm, eps)[0]! : head(row, index)
    if (!theta) return normed
    const turned = rotate(normed.slice(0, ropeDim), position, theta).map((value) => value * ropeScale)
    return [...turned, ...normed.slice(ropeDim)]
  }
  return q.map((row, t) =>
    Array.from({ length: headCount }, (_, h) => {
      const kvHead = Math.floor(h / (headCount / kvHeadCount))
      const query = prepare(row, h, t, options.queryNorm)
      const seen = k.map((_, s) => s).filter((s) => (!causal || s <= t) && t - s < slidingWindow)
      const scores = seen.map(
        (s) => prepare(k[s]!, kvHead, s, options.keyNorm).reduce((sum, value, i) => sum + value * query[i]!, 0) * scale
      )
      const max = Math.max(...scores)
      const weights = scores.map((score) => Math.exp(score - max))
      const total = weights.reduce((sum, weight) => sum + weight, 0)
      return Array.from({ length: headDim }, (_, i) => seen.reduce((sum, s, j) => sum + (weights[j]! / total) * head(v[s]!, kvHead)[i]!, 0))
    }).flat()
  )
}

/** Largest difference relative to the largest magnitude of the reference. */
export function relativeError(actual: HostTensor, expected: Matrix): number {
  const flat = expected.flat()
  if (actual.data.length !== flat.length) return Infinity
  const scale = Math.max(...flat.map(Math.abs), 1e-30)
  return flat.reduce((worst, value, i) => {
    const error = Math.abs(actual.data[i]! - value) / scale
    return error > worst || Number.isNaN(error) ? error : worst
  }, 0)
}
