// A program small enough to follow by hand: y = sum over the ranks of x · W_rankᵀ, with W_rank = (rank + 1) · W.
import type { NodeSpec, ProgramSpec, StepSpec, TensorSpec } from '../../lib/native'

export const weight = Float32Array.of(1, 2, 3, 4, 5, 6) // [out 3, in 2]

export function weightSpecs(size: number): TensorSpec[] {
  return Array.from({ length: size }, (_, rank) => ({
    dtype: 'float32',
    shape: [3, 2],
    role: 'weight',
    pieces: [
      {
        source: { data: weight.map((element) => element * (rank + 1)) },
        dtype: 'float32',
        offset: 0,
        rows: 3,
        rowElements: 2,
        rowStride: 8,
        targetOffset: 0,
        targetStride: 2
      }
    ]
  }))
}

export function programSpec(size: number, weightId: number, maxTokens = 8): ProgramSpec {
  const nodes: NodeSpec[] = [
    { op: 'input', inputs: [], tensors: [], width: 2, attributes: { name: 'x' } },
    { op: 'linear', inputs: [0], tensors: [weightId], width: 3, attributes: {} },
    { op: 'allReduce', inputs: [1], tensors: [], width: 3, attributes: {} },
    { op: 'output', inputs: [2], tensors: [], width: 3, attributes: { name: 'y' } }
  ]
  return { nodes: Array.from({ length: size }, () => nodes), maxTokens, maxSequences: 1 }
}

export function stepOf(rows: number[][]): StepSpec {
  return {
    tokens: new Int32Array(rows.length),
    positions: Int32Array.from(rows, (_, index) => index),
    sequenceStarts: Int32Array.of(0, rows.length),
    slots: Int32Array.of(0),
    blockTable: new Int32Array(0),
    sampling: [
      {
        temperature: 0,
        topK: 0,
        topP: 1,
        minP: 0,
        seed: 0,
        repetitionPenalty: 1.5,
        presencePenalty: 0.5,
        frequencyPenalty: 0.5,
        answerStart: 0,
        logprobs: 2
      }
    ],
    edits: { starts: Int32Array.of(0, 1), ids: Int32Array.of(1), counts: Int32Array.of(2), biases: Float32Array.of(0.5) },
    inputs: { x: { data: Float32Array.from(rows.flat()), shape: [rows.length, 2] } }
  }
}

export function expectedRows(size: number, rows: number[][]): number[] {
  const factor = (size * (size + 1)) / 2
  return rows.flatMap(([a, b]) => [0, 1, 2].map((out) => factor * (a! * weight[2 * out]! + b! * weight[2 * out + 1]!)))
}
