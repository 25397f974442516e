// Attention split by heads: a rank projects, caches and attends with its own heads; one all-reduce after the output projection.
import { checkEps, checkFlags, checkOptions, checkPositive } from '../checks'
import { HeddleError } from '../errors'
import type { Group } from '../group'
import type { HostTensor } from '../tensor'
import { lengthOf, scaled, splitHeads } from '../shard'
import type { HeadShard, Split } from '../shard'
import type { Value } from '../value'
import { Layer, replicated } from './layer'
import type { ParallelOptions, Parameter } from './layer'
import { MergedColumnParallelLinear, RowParallelLinear } from './linear'
import { RotaryEmbedding } from './rotary-embedding'
import type { RotaryOptions } from './rotary-embedding'

export interface AttentionOptions extends ParallelOptions {
  hiddenSize: number
  headCount: number
  /** default `headCount`; each KV head serves `headCount / kvHeadCount` query heads */
  kvHeadCount?: number
  /** default `hiddenSize / headCount` */
  headDim?: number
  /** of the query, key and value projections */
  bias?: boolean
  /** of the output projection; default as `bias` */
  outputBias?: boolean
  causal?: boolean
  /** a token sees this many positions, its own included; default all */
  slidingWindow?: number
  /** rotary embedding: its options, or one shared by several layers; default none */
  rope?: RotaryOptions | RotaryEmbedding
  /** RMS norm of every query and key head before the rotation */
  queryKeyNorm?: boolean | { eps?: number; unitOffset?: boolean }
  /** factor on the scores; default 1 / sqrt(headDim) */
  scale?: number
  /** most tokens that `run` takes */
  maxTokens?: number
}

const knownOptions = [
  'hiddenSize',
  'headCount',
  'kvHeadCount',
  'headDim',
  'bias',
  'outputBias',
  'causal',
  'slidingWindow',
  'rope',
  'queryKeyNorm',
  'scale',
  'maxTokens',
  'parallel',
  'strict'
]

/**
 * `load`: `q_proj.weight` [headCount · headDim, hiddenSize], `k_proj.weight` and `v_proj.weight` [kvHeadCount · headDim, hiddenSize],
 * `o_proj.weight` [hiddenSize, headCount · headDim], with biases `….bias`, with norms `q_norm.weight` and `k_norm.weight` [headDim].
 * Heads go to ranks as evenly as can be (in a reproducible group: in whole eighths of them, or quarters, or halves); where a KV head's queries
 * are on several ranks, it is replicated. Throws `invalid_argument` where there are
 * fewer heads than ranks, or with `strict` where headCount does not divide.
 */
export class TPAttention extends Layer {
  readonly headDim: number
  readonly kvHeadCount: number
  readonly shards: readonly HeadShard[]
  readonly #options: AttentionOptions
  readonly #normEps: number | undefined
  readonly #normIncrement: number
  readonly #rope: RotaryEmbedding | undefined
  readonly #qkv: MergedColumnParallelLinear
  readonly #out: RowParallelLinear

  constructor(group: Group, options: AttentionOptions) {
    super(group)
    checkOptions('TPAttention', options, knownOptions)
    const { hiddenSize, headCount, kvHeadCount = headCount, headDim = hiddenSize / headCount, bias = false, outputBias = bias, strict } = options
    checkPositive('TPAttention', { hiddenSize, headCount, kvHeadCount, headDim })
    checkValues(options, headCount, kvHeadCount)
    this.#options = options
    this.headDim = headDim
    this.kvHeadCount = kvHeadCount
    const { parallel = true } = options
    const whole = (): HeadShard => splitHeads('TPAttention', headCount, kvHeadCount, { size: 1 })[0]!
    this.shards = parallel ? splitHeads('TPAttention', headCount, kvHeadCount, group, strict) : Array.from({ length: group.size }, whole)
    this.#normEps = options.queryKeyNorm ? ((options.queryKeyNorm === true ? undefined : options.queryKeyNorm.eps) ?? 1e-6) : undefined
    this.#normIncrement = typeof options.queryKeyNorm === 'object' && options.queryKeyNorm.unitOffset ? 1 : 0
    this.#rope =
      options.rope && (options.rope instanceof RotaryEmbedding ? options.rope : new RotaryEmbedding(group, headDim, options.rope))
    const queries = this.shards.map((shard) => scaled(shard.queries, headDim))
    const keyValues = this.shards.map((shard) => scaled(shard.keyValues, headDim))
    this.#qkv = new MergedColumnParallelLinear(
      group,
      hiddenSize,
      [
        { prefix: 'q_proj.', outFeatures: headCount * headDim, ranges: queries },
        { prefix: 'k_proj.', outFeatures: kvHeadCount * headDim, ranges: keyValues },
        { prefix: 'v_proj.', outFeatures: kvHeadCount * headDim, ranges: keyValues }
      ],
      bias,
      false,
      parallel,
      'TPAttention'
    )
    this.#out = new RowParallelLinear(group, headCount * headDim, hiddenSize, { bias: outputBias, parallel }, { ranges: queries, ...this.#outputChunks() })
  }

  /** The output projection sums over the heads of each piece by themselves. */
  #outputChunks(): Pick<Split, 'chunks'> {
    const chunks = this.shards.map((shard) => shard.chunks?.map((heads) => heads * this.headDim) ?? [])
    return this.shards[0]!.chunks ? { chunks } : {}
  }

  protected override parameters(): Parameter[] {
    if (this.#normEps === undefined) return []
    return ['q_norm.weight', 'k_norm.weight'].map((name) => replicated(name, this.headDim, this.group, this.#normIncrement))
  }

  protected override children(): [string, Layer][] {
    return [
      ['', this.#qkv],
      ['o_proj.', this.#out]
    ]
  }

  /** `[tokens, hiddenSize]` → the same. */
  forward(x: Value): Value {
    const { causal = true, slidingWindow = 0, scale = 1 / Math.sqrt(this.headDim) } = this.#options
    const heads = this.#qkv.forward(x).attention({
      layer: this,
      headCounts: this.shards.map((shard) => lengthOf(shard.queries)),
      kvHeadCounts: this.shards.map((shard) => lengthOf(shard.keyValues)),
      kvHeadOfQuery: this.shards.map((shard) => shard.kvHeadOfQuery),
      headDim: this.headDim,
      scale,
      causal,
      slidingWindow,
      ...(this.#rope && { rope: { inverseFrequencies: this.#rope.tensor, dim: this.#rope.dim, scale: this.#rope.scale } }),
      ...(this.#normEps !== undefined && { queryNorm: this.tensor('q_norm.weight'), keyNorm: this.tensor('k_norm.weight') }),
      normEps: this.#normEps ?? 0
    })
    return this.#out.forward(heads)
  }

  /** One sequence at positions 0…: `[tokens, hiddenSize]` → the same. */
  override run(x: HostTensor): Promise<HostTensor> {
    const { maxTokens = Infinity } = this.#options
    return this.group.evaluate((g) => {
      const input = g.input(x)
      if (g.rowCount <= maxTokens) return this.forward(input)
      throw new HeddleError('invalid_argument', `TPAttention.run: expected at most maxTokens ${maxTokens} tokens, got ${g.rowCount}`)
    })
  }

  override dispose(): void {
    super.dispose()
    if (this.#rope && this.#rope !== this.#options.rope) this.#rope.tensor.dispose() // a shared one belongs to who made it
  }
}

function checkValues(options: AttentionOptions, headCount: number, kvHeadCount: number): void {
  const { slidingWindow, scale, maxTokens, bias, outputBias, causal, parallel, strict, queryKeyNorm } = options
  checkFlags('TPAttention', { bias, outputBias, causal, parallel, strict })
  if (typeof queryKeyNorm === 'object') checkQueryKeyNorm(queryKeyNorm)
  else checkFlags('TPAttention', { queryKeyNorm })
  if (headCount % kvHeadCount !== 0) {
    throw new HeddleError(
      'invalid_argument',
      `TPAttention: expected headCount to be a multiple of kvHeadCount, got ${headCount} and ${kvHeadCount}`
    )
  }
  if (slidingWindow !== undefined) checkPositive('TPAttention', { slidingWindow })
  if (maxTokens !== undefined) checkPositive('TPAttention', { maxTokens })
  if (scale !== undefined && !Number.isFinite(scale))
    throw new HeddleError('invalid_argument', `TPAttention: expected a finite scale, got ${scale}`)
}

function checkQueryKeyNorm(norm: { eps?: number; unitOffset?: boolean } | null): void {
  checkOptions('TPAttention: queryKeyNorm', norm, ['eps', 'unitOffset'])
  checkFlags('TPAttention: queryKeyNorm', { unitOffset: norm?.unitOffset })
  if (norm?.eps !== undefined) checkEps('TPAttention: queryKeyNorm', norm.eps)
}
