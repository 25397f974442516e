// The two ends of a language model, split over the vocabulary. A vocabulary that does not divide is padded with zero rows on the last
// ranks; padding takes memory but never shows in logits and is never sampled.
import { checkFlags, checkOptions, checkPositive } from '../checks'
import { HeddleError, invalidArgument } from '../errors'
import type { Group } from '../group'
import { everything, splitPadded } from '../shard'
import type { Range } from '../shard'
import type { HostTensor, Tensor } from '../tensor'
import type { Value } from '../value'
import { Layer } from './layer'
import type { LayerOptions, Parameter } from './layer'

/** A rank's rows of a `[vocabSize, hiddenSize]` table. */
class VocabShard {
  readonly ranges: Range[]
  readonly localLength: number

  constructor(
    readonly group: Group,
    readonly vocabSize: number,
    readonly hiddenSize: number
  ) {
    const { ranges, localLength } = splitPadded(vocabSize, group.size)
    this.ranges = ranges
    this.localLength = localLength
  }

  firstIds(): number[] {
    return this.ranges.map((_, rank) => rank * this.localLength)
  }

  weight(): Parameter {
    const columns = this.ranges.map(() => everything(this.hiddenSize))
    return {
      key: 'weight',
      kind: 'matrix',
      sharding: 'rows',
      parts: [{ name: 'weight', shape: [this.vocabSize, this.hiddenSize], rows: this.ranges, columns }]
    }
  }

  bias(): Parameter {
    const columns = this.ranges.map(() => everything(1))
    return {
      key: 'bias',
      kind: 'vector',
      sharding: 'rows',
      parts: [{ name: 'bias', shape: [this.vocabSize], rows: this.ranges, columns }]
    }
  }
}

export interface EmbeddingOptions extends LayerOptions {
  /** factor on every row; a head that shares the table does not see it. Default 1 */
  scale?: number
}

/** Token ids to rows of the table: a rank looks up the ids it holds, an all-reduce joins them. `load`: `weight` [vocabSize, hiddenSize]. */
export class VocabParallelEmbedding extends Layer {
  readonly scale: number
  readonly #shard: VocabShard

  constructor(
    group: Group,
    readonly vocabSize: number,
    readonly hiddenSize: number,
    options: EmbeddingOptions = {}
  ) {
    super(group)
    checkPositive('VocabParallelEmbedding', { vocabSize, hiddenSize })
    checkOptions('VocabParallelEmbedding', options, ['scale', 'strict'])
    const { scale = 1, strict } = options
    checkFlags('VocabParallelEmbedding', { strict })
    if (!Number.isFinite(scale)) throw invalidArgument('VocabParallelEmbedding: scale', 'a finite number', scale)
    this.scale = scale
    this.#shard = new VocabShard(group, vocabSize, hiddenSize)
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
    return this.partial(ids).allReduce()
  }

  /** Each rank's part of the sum that `forward` gives: several embeddings may be added before one all-reduce. */
  partial(ids: Value): Value {
    return ids.embed(this.weight, this.vocabSize, this.#shard.firstIds(), this.scale)
  }

  /** Token ids → `[ids, hiddenSize]`. Throws `invalid_argument` for an id outside the vocabulary. */
  override run(ids: ArrayLike<number> | HostTensor): Promise<HostTensor> {
    return this.group.evaluate((g) => this.forward(g.tokens((ids as HostTensor | undefined)?.data ?? (ids as ArrayLike<number>))))
  }
}

export interface LMHeadOptions extends LayerOptions {
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
    checkOptions('ParallelLMHead', options, ['bias', 'tiedTo', 'strict'])
    const { bias = false, tiedTo, strict } = options
    checkFlags('ParallelLMHead', { bias, strict })
    if (tiedTo && (tiedTo.vocabSize !== vocabSize || tiedTo.hiddenSize !== hiddenSize || tiedTo.group !== group)) {
      throw new HeddleError(
        'invalid_argument',
        `ParallelLMHead: tiedTo expected an embedding of this group with [${vocabSize}, ${hiddenSize}], ` +
          `got [${tiedTo.vocabSize}, ${tiedTo.hiddenSize}]`
      )
    }
    this.hasBias = bias
    this.#tiedTo = tiedTo
    this.#shard = new VocabShard(group, vocabSize, hiddenSize)
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
    const y = x.linear(this.#tiedTo?.weight ?? this.tensor('weight'))
    return this.hasBias ? y.addBias(this.tensor('bias')) : y
  }

  /** Draws a token per sequence from `[sequences, hiddenSize]`, without gathering the logits. */
  sample(x: Value): void {
    this.localLogits(x).sample(this.vocabSize, this.#shard.firstIds())
  }
}
