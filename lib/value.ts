// The nodes of a forward pass while it is recorded: no memory, only shapes and how the ranks' parts relate.
import { describe, HeddleError } from './errors'
import { CacheRequest } from './kv-caches'
import type { Recorder } from './program'
import type { Attribute, Op } from './native'
import type { Tensor } from './tensor'

/** `replicated`: equal on all ranks; `sharded`: columns split over the ranks; `partial`: the ranks' values add up to the whole. */
export type Layout = 'replicated' | 'sharded' | 'partial'

export type ActivationKind = 'gelu' | 'gelu_tanh' | 'relu' | 'silu'

/** An attribute that differs between ranks. */
export class PerRank {
  constructor(readonly values: readonly Attribute[]) {}
}

export interface AttentionInputs {
  /** identity of the layer whose cache this is */
  layer: object
  /** per rank: query heads, KV heads, and for each local query head its local KV head */
  headCounts: readonly number[]
  kvHeadCounts: readonly number[]
  kvHeadOfQuery: readonly number[][]
  headDim: number
  scale: number
  causal: boolean
  slidingWindow: number
  rope?: { inverseFrequencies: Tensor; dim: number; scale: number }
  queryNorm?: Tensor
  keyNorm?: Tensor
  normEps: number
}

export interface ExpertsInputs {
  /** on each rank, expert after expert: rows of the gate, then rows of up */
  gateUp: Tensor
  /** on each rank, expert after expert, [width of the values, columns] */
  down: Tensor
  kind: ActivationKind
  /** per rank: the number of the first expert that it holds */
  firstExperts: readonly number[]
  expertsPerToken: number
  /** per rank: pieces of the inner width, or of the experts that it holds, that are summed by themselves and added by a tree */
  chunks?: readonly number[][]
  expertChunks?: readonly number[][]
}

interface NodeInit {
  inputs?: Value[]
  tensors?: (Tensor | CacheRequest | undefined)[]
  attributes?: Record<string, Attribute | PerRank>
  widths?: readonly number[]
  layout?: Layout
  rows?: Value['rows']
}

/** `[tokens, width]`, or `[sequences, width]` after `lastRows`; the width is one number per rank. Methods record and return new values. */
export class Value {
  constructor(
    readonly recorder: Recorder,
    readonly index: number,
    readonly widths: readonly number[],
    readonly layout: Layout,
    readonly rows: 'tokens' | 'sequences'
  ) {}

  /** Width of the whole: of a sharded value the sum over the ranks. */
  get width(): number {
    return this.layout === 'sharded' ? this.widths.reduce((sum, width) => sum + width, 0) : this.widths[0]!
  }

  /**
   * `y = x · weightᵀ`: sharded by a weight that is split by rows, a partial sum by one that is split by columns. `chunks`, per rank: the widths
   * of the pieces of x that are summed by themselves and added by a tree; see `Split` in shard.ts. A reproducible group needs them for a
   * partial sum.
   */
  linear(weight: Tensor, chunks?: readonly number[][]): Value {
    const expected = weight.sharding === 'columns' ? 'sharded' : 'replicated'
    if (this.recorder.size > 1) this.#expect('linear', expected)
    this.#expectWidths(
      'linear',
      this.recorder.ranks.map((rank) => weight.width(rank))
    )
    const layout = ({ rows: 'sharded', columns: 'partial', replicated: 'replicated' } as const)[weight.sharding]
    if (layout === 'partial') this.#expectPieces('linear', chunks)
    const attributes = { ...(chunks && { chunks: new PerRank(chunks) }) }
    return this.#node('linear', { tensors: [weight], attributes, widths: this.recorder.ranks.map((rank) => weight.rows(rank)), layout })
  }

  /** Adds a vector to every row; the bias is split as the value is. A partial sum is refused: each rank would add the bias. */
  addBias(bias: Tensor): Value {
    this.#expect('addBias', 'replicated', 'sharded')
    this.#expectWidths(
      'addBias',
      this.recorder.ranks.map((rank) => bias.rows(rank))
    )
    return this.#node('addBias', { tensors: [bias] })
  }

  /** In a reproducible group partial sums are refused, but for rows of tables, which are exact: which sums meet first would depend on the size. */
  add(other: Value): Value {
    if (!(other instanceof Value)) throw invalid('add', 'a value', describe(other))
    if (other.recorder !== this.recorder) throw invalid('add', 'a value of the same recording', 'one of another')
    if (other.layout !== this.layout || other.rows !== this.rows)
      throw invalid('add', `a ${this.layout} value of ${this.rows}`, `a ${other.layout} one of ${other.rows}`)
    this.#expectWidths('add', other.widths)
    const exact = [this, other].every((value) => this.recorder.opOf(value) === 'embed')
    if (this.layout === 'partial' && this.recorder.group.reproducible && !exact)
      throw invalid('add', 'sums over the ranks (allReduce()) in a reproducible group', 'partial ones')
    return this.#node('add', { inputs: [this, other] })
  }

  /** The sum of the ranks' partial values, on every rank. */
  allReduce(): Value {
    this.#expect('allReduce', 'partial')
    if (this.recorder.size === 1) return this.#as('replicated')
    return this.#node('allReduce', { layout: 'replicated' })
  }

  /** The whole of a sharded value, on every rank. */
  allGather(): Value {
    if (this.layout === 'replicated') return this
    this.#expect('allGather', 'sharded')
    if (this.recorder.size === 1) return this.#as('replicated')
    return this.#node('allGather', {
      attributes: { widths: [...this.widths] },
      widths: this.recorder.perRank(this.width),
      layout: 'replicated'
    })
  }

  /** This rank's columns of a replicated value: `ranges[rank]`. No communication. */
  shard(ranges: readonly { start: number; end: number }[]): Value {
    this.#expect('shard', 'replicated')
    if (this.recorder.size === 1) return this.#as('sharded')
    return this.#node('slice', {
      attributes: { start: new PerRank(ranges.map((range) => range.start)) },
      widths: ranges.map((range) => range.end - range.start),
      layout: 'sharded'
    })
  }

  /** Columns `[start, start + width)` of a replicated value. */
  slice(start: number, width: number): Value {
    this.#expect('slice', 'replicated')
    if (start === 0 && width === this.width) return this
    return this.#node('slice', { attributes: { start }, widths: this.recorder.perRank(width) })
  }

  rmsNorm(weight: Tensor, eps: number): Value {
    this.#expect('rmsNorm', 'replicated')
    return this.#node('rmsNorm', { tensors: [weight], attributes: { eps } })
  }

  layerNorm(weight: Tensor, bias: Tensor | undefined, eps: number): Value {
    this.#expect('layerNorm', 'replicated')
    return this.#node('layerNorm', { tensors: [weight, bias], attributes: { eps } })
  }

  activation(kind: ActivationKind): Value {
    this.#expect('activation', 'replicated', 'sharded')
    return this.#node('activation', { attributes: { kind } })
  }

  /** `activation(gate) * up` of a value that holds `gate | up` on each rank; half as wide. */
  gated(kind: ActivationKind): Value {
    this.#expect('gated', 'replicated', 'sharded')
    return this.#node('gated', { attributes: { kind }, widths: this.widths.map((width) => width / 2) })
  }

  /**
   * Of router logits, one for each expert: softmax, of which the largest `expertsPerToken` remain (the lower expert at a tie), and the
   * others become 0; with `normalized`, those that remain add up to one.
   */
  route(expertsPerToken: number, normalized: boolean): Value {
    this.#expect('route', 'replicated')
    return this.#node('route', { attributes: { expertsPerToken, normalized } })
  }

  /** The sum over the experts whose weight in `routing` is not 0 of that weight times `down(kind(gate(x)) * up(x))`: a partial sum, or all of it of whole weights. */
  experts(routing: Value, { gateUp, down, kind, firstExperts, expertsPerToken, chunks, expertChunks }: ExpertsInputs): Value {
    this.#expect('experts', 'replicated')
    routing.#expect('experts', 'replicated')
    this.#expectWidths(
      'experts',
      this.recorder.ranks.map((rank) => gateUp.width(rank))
    )
    const layout = gateUp.sharding === 'replicated' ? 'replicated' : 'partial'
    if (layout === 'partial') this.#expectPieces('experts', chunks ?? expertChunks)
    return this.#node('experts', {
      inputs: [this, routing],
      tensors: [gateUp, down],
      attributes: {
        kind,
        firstExpert: new PerRank(firstExperts),
        expertsPerToken,
        ...(chunks && { chunks: new PerRank(chunks) }),
        ...(expertChunks && { expertChunks: new PerRank(expertChunks) })
      },
      layout
    })
  }

  /** Rotary embedding, cache append and attention over `queries | keys | values`; `[tokens, headCount * headDim]` on each rank. */
  attention(inputs: AttentionInputs): Value {
    const { headDim, headCounts, kvHeadCounts } = inputs
    this.#expectWidths(
      'attention',
      headCounts.map((count, rank) => (count + 2 * kvHeadCounts[rank]!) * headDim)
    )
    const cache = new CacheRequest(inputs.layer, kvHeadCounts, headDim)
    return this.#node('attention', {
      tensors: [cache, inputs.rope?.inverseFrequencies, inputs.queryNorm, inputs.keyNorm],
      attributes: {
        headCount: new PerRank(headCounts),
        kvHeadCount: new PerRank(kvHeadCounts),
        kvHeadOfQuery: new PerRank(inputs.kvHeadOfQuery),
        headDim,
        scale: inputs.scale,
        causal: inputs.causal,
        slidingWindow: inputs.slidingWindow,
        ropeDim: inputs.rope?.dim ?? 0,
        ropeScale: inputs.rope?.scale ?? 1,
        normEps: inputs.normEps
      },
      widths: headCounts.map((count) => count * headDim)
    })
  }

  /** The rows of the last token of each sequence. */
  lastRows(): Value {
    if (this.rows === 'sequences') return this
    return this.#node('lastRows', { rows: 'sequences' })
  }

  /**
   * Rows of a table that is split over the vocabulary, times `scale`: a partial sum, since a foreign id gives a zero row, unless every rank
   * holds the whole table. Only of `g.tokens()` and, for a table of positions, `g.positions()`.
   */
  embed(weight: Tensor, vocabSize: number, firstRows: readonly number[], scale = 1): Value {
    const byPosition = this.index === Recorded.positions
    if (!byPosition && this.index !== Recorded.tokens)
      throw invalid('embed', 'the token ids of the step, g.tokens(), or g.positions()', 'another value')
    return this.#node('embed', {
      inputs: [],
      tensors: [weight],
      attributes: { firstRow: new PerRank(firstRows), vocabSize, byPosition, scale },
      widths: this.recorder.ranks.map((rank) => weight.width(rank)),
      layout: weight.sharding === 'replicated' ? 'replicated' : 'partial'
    })
  }

  /** Draws one token per sequence from logits that are split over the vocabulary; the step's result carries them. */
  sample(vocabSize: number, firstIds: readonly number[]): void {
    if (this.rows !== 'sequences') throw invalid('sample', 'rows of sequences, after lastRows()', 'rows of tokens')
    this.#node('sample', { attributes: { firstId: new PerRank(firstIds), vocabSize }, widths: this.recorder.perRank(1) })
  }

  #node(op: Op, init: NodeInit): Value {
    return this.recorder.record(op, {
      inputs: init.inputs ?? [this],
      tensors: init.tensors ?? [],
      attributes: init.attributes ?? {},
      widths: init.widths ?? this.widths,
      layout: init.layout ?? this.layout,
      rows: init.rows ?? this.rows
    })
  }

  #as(layout: Layout): Value {
    return new Value(this.recorder, this.index, this.widths, layout, this.rows)
  }

  #expect(op: string, ...layouts: Layout[]): void {
    if (this.index < 0) throw invalid(op, 'activations', this.index === Recorded.tokens ? 'token ids' : 'positions')
    if (!layouts.includes(this.layout)) throw invalid(op, `a ${layouts.join(' or ')} value`, `a ${this.layout} one`)
  }

  /** Without them the bits of a sum over what is split would depend on the size. */
  #expectPieces(op: string, chunks: readonly number[][] | undefined): void {
    if (this.recorder.group.reproducible && !chunks) throw invalid(op, 'pieces (chunks) in a reproducible group', 'none')
  }

  #expectWidths(op: string, widths: readonly number[]): void {
    if (this.widths.some((width, rank) => width !== widths[rank]))
      throw invalid(op, `local widths ${widths.join(', ')}`, this.widths.join(', '))
  }
}

/** Indices of values that no node makes. */
export const Recorded = { tokens: -1, positions: -2 } as const

function invalid(op: string, expected: string, got: string): HeddleError {
  return new HeddleError('invalid_argument', `${op}: expected ${expected}, got ${got}`)
}
