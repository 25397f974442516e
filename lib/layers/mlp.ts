// The feed-forward block: its inner width is split over the ranks, one all-reduce at the end.
import { checkFlags, checkOptions, checkPositive } from '../checks'
import { HeddleError } from '../errors'
import type { Group } from '../group'
import { onEveryRank, splitContraction } from '../shard'
import type { Split } from '../shard'
import type { ActivationKind, Value } from '../value'
import { Layer } from './layer'
import type { ParallelOptions } from './layer'
import { MergedColumnParallelLinear, RowParallelLinear } from './linear'

const activationKinds: readonly ActivationKind[] = ['gelu', 'gelu_tanh', 'relu', 'silu']
const knownOptions = ['hiddenSize', 'intermediateSize', 'activation', 'gated', 'bias', 'parallel', 'strict']

export interface MLPOptions extends ParallelOptions {
  hiddenSize: number
  intermediateSize: number
  /** default `silu` */
  activation?: ActivationKind
  /** `down(activation(gate(x)) * up(x))`, the default; else `fc2(activation(fc1(x)))` */
  gated?: boolean
  bias?: boolean
}

export function checkActivation(where: string, activation: ActivationKind): void {
  if (activationKinds.includes(activation)) return
  throw new HeddleError('invalid_argument', `${where}: expected activation ${activationKinds.join(' | ')}, got ${String(activation)}`)
}

/**
 * `load`: `gate_proj.weight`, `up_proj.weight` [intermediateSize, hiddenSize] and `down_proj.weight` [hiddenSize, intermediateSize], or
 * not gated `fc1.weight` and `fc2.weight`; with `bias` also `….bias`. Throws `invalid_argument` with `strict` where intermediateSize does not
 * divide.
 */
export class TPMLP extends Layer {
  readonly gated: boolean
  readonly activation: ActivationKind
  readonly #up: MergedColumnParallelLinear
  readonly #down: RowParallelLinear

  constructor(group: Group, options: MLPOptions) {
    super(group)
    checkOptions('TPMLP', options, knownOptions)
    const { hiddenSize, intermediateSize, activation = 'silu', gated = true, bias = false, parallel = true, strict } = options
    checkFlags('TPMLP', { gated, bias, parallel, strict })
    checkPositive('TPMLP', { hiddenSize, intermediateSize })
    checkActivation('TPMLP', activation)
    this.gated = gated
    this.activation = activation
    const split: Split = parallel
      ? splitContraction('TPMLP', 'intermediateSize', intermediateSize, group, strict)
      : { ranges: onEveryRank(intermediateSize, group.size) }
    const { ranges } = split
    const prefixes = gated ? ['gate_proj.', 'up_proj.'] : ['fc1.']
    this.#up = new MergedColumnParallelLinear(
      group,
      hiddenSize,
      prefixes.map((prefix) => ({ prefix, outFeatures: intermediateSize, ranges })),
      bias,
      false,
      parallel,
      'TPMLP'
    )
    this.#down = new RowParallelLinear(group, intermediateSize, hiddenSize, { bias, parallel }, split)
  }

  protected override children(): [string, Layer][] {
    return [
      ['', this.#up],
      [this.gated ? 'down_proj.' : 'fc2.', this.#down]
    ]
  }

  /** `[tokens, hiddenSize]` → the same. */
  forward(x: Value): Value {
    const y = this.#up.forward(x)
    return this.#down.forward(this.gated ? y.gated(this.activation) : y.activation(this.activation))
  }
}
