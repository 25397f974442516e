// A mixture of experts: every rank routes every token; of each expert a rank holds a part of the inner width, or it holds whole experts.
// One all-reduce at the end.
import { checkFlags, checkOptions, checkPositive } from '../checks'
import { HeddleError, invalidArgument } from '../errors'
import type { Group } from '../group'
import { everything, lengthOf, onEveryRank, splitContraction, splitCount } from '../shard'
import type { Range, Split } from '../shard'
import type { ActivationKind, ExpertsInputs, Value } from '../value'
import { Layer } from './layer'
import type { ParallelOptions, Parameter, ParameterPart } from './layer'
import { checkActivation } from './mlp'

const knownOptions = [
  'hiddenSize',
  'intermediateSize',
  'expertCount',
  'expertsPerToken',
  'activation',
  'normalized',
  'expertParallel',
  'parallel',
  'strict'
]

export interface MoEOptions extends ParallelOptions {
  hiddenSize: number
  /** inner width of one expert */
  intermediateSize: number
  expertCount: number
  /** experts that see a token: those that the router finds most probable */
  expertsPerToken: number
  /** default `silu` */
  activation?: ActivationKind
  /** the weights of a token's experts add up to one; else they are the probabilities among all. Default true */
  normalized?: boolean
  /** whole experts on each rank, in place of a part of every expert */
  expertParallel?: boolean
}

/**
 * The sum over a token's experts of their weight times `down(activation(gate(x)) * up(x))`, with softmax over the router's logits (Shazeer
 * et al. 2017). `load`: `gate.weight` [expertCount, hiddenSize], the router, and for every expert `experts.N.gate_proj.weight` and
 * `experts.N.up_proj.weight` [intermediateSize, hiddenSize] and `experts.N.down_proj.weight` [hiddenSize, intermediateSize].
 * A width that does not divide is split unevenly. With `expertParallel` and fewer experts than ranks, those at the end add zeros. With `strict`
 * both throw `invalid_argument`.
 */
export class TPMoE extends Layer {
  readonly activation: ActivationKind
  readonly #options: MoEOptions
  /** per rank: the experts that it holds, and the part of their inner width */
  readonly #experts: readonly Range[]
  readonly #inner: readonly Range[]
  readonly #chunks: Pick<ExpertsInputs, 'chunks' | 'expertChunks'>

  constructor(group: Group, options: MoEOptions) {
    super(group)
    checkOptions('TPMoE', options, knownOptions)
    const { hiddenSize, intermediateSize, expertCount, expertsPerToken, activation = 'silu', normalized, expertParallel, parallel = true, strict } = options
    checkPositive('TPMoE', { hiddenSize, intermediateSize, expertCount, expertsPerToken })
    checkFlags('TPMoE', { normalized, expertParallel, parallel, strict })
    if (expertParallel && !parallel) throw invalidArgument('TPMoE: parallel', 'true where expertParallel is', parallel)
    checkActivation('TPMoE', activation)
    if (expertsPerToken > expertCount) {
      const text = `TPMoE: expected expertsPerToken of at most expertCount ${expertCount}, got ${expertsPerToken}`
      throw new HeddleError('invalid_argument', text)
    }
    this.#options = options
    this.activation = activation
    const whole = (length: number): Range[] => onEveryRank(length, group.size)
    if (!expertParallel) {
      this.#experts = whole(expertCount)
      const split = (): Split => splitContraction('TPMoE', 'intermediateSize', intermediateSize, group, strict)
      const { ranges, chunks } = parallel ? split() : { ranges: whole(intermediateSize) }
      this.#inner = ranges
      this.#chunks = chunks ? { chunks } : {}
      return
    }
    if (strict && expertCount < group.size) {
      const text = `TPMoE: expected expertCount of at least the group size ${group.size}, got ${expertCount}`
      throw new HeddleError('invalid_argument', text, { details: { dimension: 'expertCount', value: expertCount, size: group.size } })
    }
    // no tensor is empty: a rank without experts holds a column of zeros in place of the first one's width
    const { ranges: shares, chunks: expertChunks } = splitCount(expertCount, group)
    this.#chunks = expertChunks ? { expertChunks } : {}
    this.#experts = shares.map((share) => (lengthOf(share) > 0 ? share : { start: 0, end: 1 }))
    this.#inner = shares.map((share) => (lengthOf(share) > 0 ? everything(intermediateSize) : { start: 0, end: 0, padding: 1 }))
  }

  protected override parameters(): Parameter[] {
    const { hiddenSize, intermediateSize, expertCount, expertParallel, parallel = true } = this.#options
    const whole = (length: number): Range[] => this.#inner.map(() => everything(length))
    const experts = Array.from({ length: expertCount }, (_, expert) => expert)
    const held = (expert: number, ranges: readonly Range[]): Range[] =>
      ranges.map((range, rank) => {
        const { start, end } = this.#experts[rank]!
        return expert >= start && expert < end ? range : { start: 0, end: 0 }
      })
    const inward = (expert: number, name: string): ParameterPart => ({
      name: `experts.${expert}.${name}.weight`,
      shape: [intermediateSize, hiddenSize],
      rows: held(expert, this.#inner),
      columns: whole(hiddenSize)
    })
    const outward = (expert: number): ParameterPart => ({
      name: `experts.${expert}.down_proj.weight`,
      shape: [hiddenSize, intermediateSize],
      rows: held(expert, whole(hiddenSize)),
      columns: this.#inner
    })
    const gate: ParameterPart = {
      name: 'gate.weight',
      shape: [expertCount, hiddenSize],
      rows: whole(expertCount),
      columns: whole(hiddenSize)
    }
    return [
      { key: 'router', kind: 'matrix', sharding: 'replicated', parts: [gate] },
      {
        key: 'gateUp',
        kind: 'matrix',
        sharding: parallel ? 'rows' : 'replicated',
        parts: experts.flatMap((expert) => [inward(expert, 'gate_proj'), inward(expert, 'up_proj')])
      },
      { key: 'down', kind: 'matrix', sharding: !parallel ? 'replicated' : expertParallel ? 'rows' : 'columns', parts: experts.map(outward) }
    ]
  }

  /** `[tokens, hiddenSize]` → the same. */
  forward(x: Value): Value {
    const { expertsPerToken, normalized = true, parallel = true } = this.#options
    const routing = this.taken(x).linear(this.tensor('router')).route(expertsPerToken, normalized)
    const firstExperts = this.#experts.map(({ start }) => start)
    const weights = { gateUp: this.tensor('gateUp'), down: this.tensor('down') }
    const y = x.experts(routing, { ...weights, kind: this.activation, firstExperts, expertsPerToken, ...this.#chunks })
    return parallel ? y.allReduce() : y
  }
}
