// Linear layers split over the ranks: by output features (columns of the product) or by input features (rows).
// Weights are [outFeatures, inFeatures]; communication stands in plain sight in forward.
import { checkFlags, checkOptions, checkPositive } from '../checks'
import { HeddleError } from '../errors'
import type { Group } from '../group'
import { everything, heldLength, lengthOf, onEveryRank, splitContraction } from '../shard'
import type { Range, Split } from '../shard'
import type { HostTensor, Tensor } from '../tensor'
import type { Value } from '../value'
import { Layer } from './layer'
import type { ParallelOptions, Parameter } from './layer'

export interface ColumnParallelOptions extends ParallelOptions {
  bias?: boolean
  /** hand out the whole result on every rank; else it stays sharded */
  gatherOutput?: boolean
  /** leave the bias to the caller, who adds `layer.bias` */
  skipBiasAdd?: boolean
}

export interface RowParallelOptions extends ParallelOptions {
  bias?: boolean
  /** the input is already sharded over the ranks; else each rank takes its part of the whole */
  inputIsParallel?: boolean
  /** sum over the ranks; else `forward` gives the partial sum */
  reduceResults?: boolean
  skipBiasAdd?: boolean
}

const columnOptions = ['bias', 'gatherOutput', 'skipBiasAdd', 'parallel', 'strict']
const rowOptions = ['bias', 'inputIsParallel', 'reduceResults', 'skipBiasAdd', 'parallel', 'strict']

/** Several products of one input in one matrix: each part is split over the ranks on its own (query, key and value; gate and up). */
export class MergedColumnParallelLinear extends Layer {
  constructor(
    group: Group,
    readonly inFeatures: number,
    readonly parts: { prefix: string; outFeatures: number; ranges: readonly Range[] }[],
    readonly hasBias: boolean,
    readonly biasReplicated = false,
    readonly parallel = true,
    /** the layer that users know */
    readonly owner = 'ColumnParallelLinear'
  ) {
    super(group)
  }

  protected override get title(): string {
    return this.owner
  }

  protected override parameters(): Parameter[] {
    const whole = (length: number): Range[] => Array.from({ length: this.group.size }, () => everything(length))
    const weight: Parameter = {
      key: 'weight',
      kind: 'matrix',
      sharding: this.parallel ? 'rows' : 'replicated',
      parts: this.parts.map(({ prefix, outFeatures, ranges }) => ({
        name: `${prefix}weight`,
        shape: [outFeatures, this.inFeatures],
        rows: ranges,
        columns: whole(this.inFeatures)
      }))
    }
    const bias: Parameter = {
      key: 'bias',
      kind: 'vector',
      sharding: this.biasReplicated || !this.parallel ? 'replicated' : 'rows',
      parts: this.parts.map(({ prefix, outFeatures, ranges }) => ({
        name: `${prefix}bias`,
        shape: [outFeatures],
        rows: this.biasReplicated ? whole(outFeatures) : ranges,
        columns: whole(1)
      }))
    }
    return this.hasBias ? [weight, bias] : [weight]
  }

  get bias(): Tensor | undefined {
    return this.hasBias ? this.tensor('bias') : undefined
  }

  /** `[tokens, inFeatures]` → each rank's rows of every part, side by side. */
  forward(x: Value): Value {
    const y = this.product(x)
    return this.hasBias ? y.addBias(this.tensor('bias')) : y
  }

  product(x: Value): Value {
    return this.taken(x).linear(this.tensor('weight'))
  }
}

/**
 * `y = x · weightᵀ + bias`, split by output features: a rank holds about `outFeatures / size` rows of the weight and of the bias.
 * `load`: `weight` [outFeatures, inFeatures], `bias` [outFeatures]. Features that do not divide are split unevenly, and a rank without any
 * holds one of zeros, which a gathered result does not show; with `strict` they throw `invalid_argument`.
 */
export class ColumnParallelLinear extends Layer {
  readonly gatherOutput: boolean
  readonly skipBiasAdd: boolean
  /** of the rank that holds most */
  readonly localOutFeatures: number
  readonly #linear: MergedColumnParallelLinear

  constructor(
    group: Group,
    readonly inFeatures: number,
    readonly outFeatures: number,
    options: ColumnParallelOptions = {}
  ) {
    super(group)
    checkPositive('ColumnParallelLinear', { inFeatures, outFeatures })
    checkOptions('ColumnParallelLinear', options, columnOptions)
    checkFlags('ColumnParallelLinear', { ...options })
    const { bias = true, gatherOutput = false, skipBiasAdd = false, parallel = true, strict } = options
    this.gatherOutput = gatherOutput
    this.skipBiasAdd = skipBiasAdd
    // as what takes it in will sum over it
    const split = (): readonly Range[] => splitContraction('ColumnParallelLinear', 'outFeatures', outFeatures, group, strict).ranges
    const ranges = parallel ? split() : onEveryRank(outFeatures, group.size)
    this.localOutFeatures = Math.max(...ranges.map(lengthOf))
    this.#linear = new MergedColumnParallelLinear(
      group,
      inFeatures,
      [{ prefix: '', outFeatures, ranges }],
      bias,
      gatherOutput && skipBiasAdd,
      parallel
    )
  }

  protected override children(): [string, Layer][] {
    return [['', this.#linear]]
  }

  /** The bias as `forward`'s result is laid out: sharded, or whole where `gatherOutput` and `skipBiasAdd` are both set. */
  get bias(): Tensor | undefined {
    return this.#linear.bias
  }

  /** `[tokens, inFeatures]` → `[tokens, outFeatures]`, sharded unless `gatherOutput`. */
  forward(x: Value): Value {
    const y = this.skipBiasAdd ? this.#linear.product(x) : this.#linear.forward(x)
    return this.gatherOutput ? this.#gathered(y) : y
  }

  override run(x: HostTensor): Promise<HostTensor> {
    return this.group.evaluate((g) => this.#gathered(this.forward(g.input(x))))
  }

  /** The padding of ranks without features stands last. */
  #gathered(y: Value): Value {
    return y.allGather().slice(0, this.outFeatures)
  }
}

/**
 * `y = x · weightᵀ + bias`, split by input features: a rank holds `inFeatures / size` columns of the weight; the ranks' products are
 * summed by one all-reduce and the bias, which every rank holds whole, is added once after it. Features that do not divide are split as
 * those of ColumnParallelLinear are.
 * `load`: `weight` [outFeatures, inFeatures], `bias` [outFeatures]. Throws `invalid_argument` with `strict` where inFeatures does not divide,
 * and for `reduceResults: false` with a bias that is not skipped: it would be added once per rank.
 */
export class RowParallelLinear extends Layer {
  readonly hasBias: boolean
  readonly inputIsParallel: boolean
  readonly reduceResults: boolean
  readonly skipBiasAdd: boolean
  readonly parallel: boolean
  readonly #ranges: readonly Range[]
  readonly #chunks: readonly number[][] | undefined

  /** `split` parts the input features otherwise than evenly: attention gives the features of whole heads. */
  constructor(
    group: Group,
    readonly inFeatures: number,
    readonly outFeatures: number,
    options: RowParallelOptions = {},
    split?: Split
  ) {
    super(group)
    checkPositive('RowParallelLinear', { inFeatures, outFeatures })
    checkOptions('RowParallelLinear', options, rowOptions)
    checkFlags('RowParallelLinear', { ...options })
    const { bias = true, inputIsParallel = true, reduceResults = true, skipBiasAdd = false, parallel = true, strict } = options
    if (!reduceResults && bias && !skipBiasAdd) {
      throw new HeddleError(
        'invalid_argument',
        'RowParallelLinear: reduceResults false expected bias false or skipBiasAdd true, got a bias to add: every rank would add it'
      )
    }
    this.hasBias = bias
    this.inputIsParallel = inputIsParallel
    this.reduceResults = reduceResults
    this.skipBiasAdd = skipBiasAdd
    this.parallel = parallel
    const parted = (): Split => split ?? splitContraction('RowParallelLinear', 'inFeatures', inFeatures, group, strict)
    const { ranges, chunks } = parallel ? parted() : { ranges: onEveryRank(inFeatures, group.size) }
    this.#ranges = ranges
    this.#chunks = chunks
  }

  protected override parameters(): Parameter[] {
    const whole = (length: number): Range[] => this.#ranges.map(() => everything(length))
    const weight: Parameter = {
      key: 'weight',
      kind: 'matrix',
      sharding: this.parallel ? 'columns' : 'replicated',
      parts: [{ name: 'weight', shape: [this.outFeatures, this.inFeatures], rows: whole(this.outFeatures), columns: this.#ranges }]
    }
    const bias: Parameter = {
      key: 'bias',
      kind: 'vector',
      sharding: 'replicated',
      parts: [{ name: 'bias', shape: [this.outFeatures], rows: whole(this.outFeatures), columns: whole(1) }]
    }
    return this.hasBias ? [weight, bias] : [weight]
  }

  /** Of the rank that holds most. */
  get localInFeatures(): number {
    return Math.max(...this.#ranges.map(lengthOf))
  }

  get bias(): Tensor | undefined {
    return this.hasBias ? this.tensor('bias') : undefined
  }

  /** `[tokens, inFeatures]`, sharded if `inputIsParallel`, → `[tokens, outFeatures]` on every rank, or partial without `reduceResults`. */
  forward(x: Value): Value {
    this.taken(x)
    const sum = (this.inputIsParallel || !this.parallel ? x : this.#sharded(x)).linear(this.tensor('weight'), this.#chunks)
    if (!this.reduceResults) return sum
    const y = this.parallel ? sum.allReduce() : sum
    return this.hasBias && !this.skipBiasAdd ? y.addBias(this.tensor('bias')) : y
  }

  override run(x: HostTensor): Promise<HostTensor> {
    if (!this.reduceResults) {
      return Promise.reject(
        new HeddleError('invalid_argument', 'RowParallelLinear.run: expected reduceResults true, got false: a partial sum is no result')
      )
    }
    return this.group.evaluate((g) => this.forward(this.inputIsParallel && this.parallel ? this.#sharded(g.input(x)) : g.input(x)))
  }

  /** A rank without features takes the last one of the whole: its weights are zeros. */
  #sharded(x: Value): Value {
    const columns = this.#ranges.map((range) => {
      const start = Math.min(range.start, this.inFeatures - heldLength(range))
      return { start, end: start + heldLength(range) }
    })
    return x.shard(columns)
  }
}
