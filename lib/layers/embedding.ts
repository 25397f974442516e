// The two ends of a language model, split over the vocabulary. A vocabulary that does not divide is padded with zero rows on the last
// ranks; padding takes memory but never shows in logits and is never sampled.
import { checkFlags, checkOptions, checkPositive } from '../checks'
import { HeddleError, invalidArgument } from '../errors'
import type { Group } from '../group'
import { everything, onEveryRank, splitPadded } from '../shard'
import type { Range } from '../shard'
import type { HostTensor, Tensor } from '../tensor'
import type { Value } from '../value'
import { Layer } from './layer'
import type { Parameter, ParallelOptions } from './layer'

/** A rank's rows of a `[vocabSize, hiddenSize]` table: its part, or all of them, in both cases padded to equal parts. */
class VocabShard {
  readonly ranges: Range[]
  /** the ids that a rank draws from */
  readonly #candidates: Range[]

  constructor(
    readonly group: Group,
    readonly vocabSize: number,
    readonly hiddenSize: number,
    readonly parallel: boolean
  ) {
    const { ranges, localLength } = splitPadded(vocabSize, group.size)
    const padding = localLength * group.size - vocabSize
    this.ranges = parallel ? ranges : onEveryRank(vocabSize, group.size).map((whole) => (padding === 0 ? whole : { ...whole, padding }))
    this.#candidates = ranges.map((_, rank) => ({ start: rank * localLength, end: (rank + 1) * localLength }))
  }

  /** The id of the first row of each rank's table. */
  firstRows(): number[] {
    return this.ranges.map(({ start }, rank) => (this.parallel ? this.#candidates[rank]!.start : start))
  }

  /** Logits as `localLogits` gives them, of which each rank draws from its own part. */
  sample(logits: Value): void {
    const own = this.parallel ? logits : logits.shard(this.#candidates)
    own.sample(this.vocabSize, this.#candidates.map(({ start }) => start))
  }

  weight(): Parameter {
    const columns = this.ranges.map(() => everything(this.hiddenSize))
    return {
      key: 'weight',
      kind: 'matrix',
      sharding: this.parallel ? 'rows' : 'replicated',
      parts: [{ name: 'weight', shape: [this.vocabSize, this.hiddenSize], rows: this.ranges, columns }]
    }
  }

  bias(): Parameter {
    const columns = this.ranges.map(() => everything(1))
    return {
      key: 'bias',
      kind: 'vector',
      sharding: this.parallel ? 'rows' : 'replicated',
      parts: [{ name: 'bias', shape: [this.vocabSize], rows: this.ranges, columns }]
    }
  }
}

export interface EmbeddingOptions extends ParallelOptions {
  /** factor on every row; a head that shares the table does not see it. Default 1 */
  scale?: number
}

/** Token ids to rows of the table: a rank looks up the ids it holds, an all-reduce joins them. `load`: `weight` [vocabSize, hiddenSize]. */
export class VocabParallelEmbedding extends Layer {
  readonly scale: number
  readonly parallel: boolean
  readonly #shard: VocabShard

  constructor(
    group: Group,
    readonly vocabSize: number,
    readonly hiddenSize: number,
    options: EmbeddingOptions = {}
  ) {
    super(group)
    checkPositive('VocabParallelEmbedding', { vocabSize, hiddenSize })
    checkOptions('VocabParallelEmbedding', options, ['scale', 'parallel', 'strict'])
    const { scale = 1, parallel = true, strict } = options
    checkFlags('VocabParallelEmbedding', { parallel, strict })
    if (!Number.isFinite(scale)) throw invalidArgument('VocabParallelEmbedding: scale', 'a finite number', scale)
    this.scale = scale
    this.parallel = parallel
    this.#shard = new VocabShard(group, vocabSize, hiddenSize, parallel)
  }

  protected override parameters(): Parameter[] {
    return [this.#shard.weight()]
  }

  /** The table, for a head that shares it. */
  get weight(): Tensor {
    return this.tensor('weight')
  }

  /** `g.tokens()` → `[tokens, hiddenSize]`. With a table of positions: `g.positions()`. */
  forward(ids: Value): Value {
    return this.parallel ? this.partial(ids).allReduce() : this.partial(ids)
  }

  /**
   * Each rank's part of the sum that `forward` gives: several embeddings may be added before one all-reduce.
   * Without `parallel` it is the whole already.
   */
  partial(ids: Value): Value {
    return this.taken(ids).embed(this.weight, this.vocabSize, this.#shard.firstRows(), this.scale)
  }

  /** Token ids → `[ids, hiddenSize]`. Throws `invalid_argument` for an id outside the vocabulary. */
  override run(ids: ArrayLike<number> | HostTensor): Promise<HostTensor> {
    return this.group.evaluate((g) => this.forward(g.tokens((ids as HostTensor | undefined)?.data ?? (ids as ArrayLike<number>))))
  }
}

export interface LMHeadOptions extends ParallelOptions {
  bias?: boolean
  /** share the table of this embedding, and its shard: nothing but a bias is loaded then */
  tiedTo?: VocabParallelEmbedding
}

/**
 * Hidden states to logits over the vocabulary. `load`: `weight` [vocabSize, hiddenSize], unless tied, and with `bias` `bias` [vocabSize].
 */
export class ParallelLMHead extends Layer {
  readonly hasBias: boolean
  readonly #shard: VocabShard
  readonly #tiedTo: VocabParallelEmbedding | undefined

  constructor(
    group: Group,
    readonly hiddenSize: number,
    readonly vocabSize: number,
    options: LMHeadOptions = {}
  ) {
    super(group)
    checkPositive('ParallelLMHead', { hiddenSize, vocabSize })
    checkOptions('ParallelLMHead', options, ['bias', 'tiedTo', 'parallel', 'strict'])
    const { bias = false, tiedTo, parallel = tiedTo?.parallel ?? true, strict } = options
    checkFlags('ParallelLMHead', { bias, parallel, strict })
    if (tiedTo && tiedTo.parallel !== parallel) throw invalidArgument('ParallelLMHead: parallel', 'that of the embedding it is tied to', parallel)
    if (tiedTo && (tiedTo.vocabSize !== vocabSize || tiedTo.hiddenSize !== hiddenSize || tiedTo.group !== group)) {
      throw new HeddleError(
        'invalid_argument',
        `ParallelLMHead: tiedTo expected an embedding of this group with [${vocabSize}, ${hiddenSize}], ` +
          `got [${tiedTo.vocabSize}, ${tiedTo.hiddenSize}]`
      )
    }
    this.hasBias = bias
    this.#tiedTo = tiedTo
    this.#shard = new VocabShard(group, vocabSize, hiddenSize, parallel)
  }

  protected override parameters(): Parameter[] {
    return [...(this.#tiedTo ? [] : [this.#shard.weight()]), ...(this.hasBias ? [this.#shard.bias()] : [])]
  }

  /** `[rows, hiddenSize]` → `[rows, vocabSize]`, whole on every rank. */
  forward(x: Value): Value {
    return this.localLogits(x).allGather().slice(0, this.vocabSize)
  }

  /** The logits of each rank's part of the vocabulary, padding included. */
  localLogits(x: Value): Value {
    const y = this.taken(x).linear(this.#tiedTo?.weight ?? this.tensor('weight'))
    return this.hasBias ? y.addBias(this.tensor('bias')) : y
  }

  /** Draws a token per sequence from `[sequences, hiddenSize]`, without gathering the logits. */
  sample(x: Value): void {
    this.#shard.sample(this.localLogits(x))
  }
}
