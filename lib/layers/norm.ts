// Normalisation layers: every rank holds the whole weights and normalises the whole hidden state.
import { checkEps, checkFlags, checkOptions, checkPositive } from '../checks'
import type { Group } from '../group'
import type { Value } from '../value'
import { Layer, replicated } from './layer'
import type { LayerOptions, Parameter } from './layer'

export interface RMSNormOptions extends LayerOptions {
  /** default 1e-6 */
  eps?: number
  /** the weights that `load` takes are less by one than those that multiply, as in Gemma */
  unitOffset?: boolean
}

export interface LayerNormOptions extends LayerOptions {
  /** default 1e-5 */
  eps?: number
  /** default true */
  bias?: boolean
}

/** `x / sqrt(mean(x²) + eps) * weight`, or `* (1 + weight)` (Zhang and Sennrich 2019). `load`: `weight` [size]. */
export class RMSNorm extends Layer {
  readonly eps: number
  readonly unitOffset: boolean

  constructor(
    group: Group,
    readonly size: number,
    options: RMSNormOptions = {}
  ) {
    super(group)
    checkPositive('RMSNorm', { size })
    checkOptions('RMSNorm', options, ['eps', 'unitOffset', 'strict'])
    const { eps = 1e-6, unitOffset = false, strict } = options
    checkFlags('RMSNorm', { unitOffset, strict })
    checkEps('RMSNorm', eps)
    this.eps = eps
    this.unitOffset = unitOffset
  }

  protected override parameters(): Parameter[] {
    return [replicated('weight', this.size, this.group, this.unitOffset ? 1 : 0)]
  }

  /** `[tokens, size]` → the same. */
  forward(x: Value): Value {
    return this.taken(x).rmsNorm(this.tensor('weight'), this.eps)
  }
}

/** `(x - mean) / sqrt(variance + eps) * weight + bias` (Ba et al. 2016). `load`: `weight` [size], and `bias` [size] unless it is false. */
export class LayerNorm extends Layer {
  readonly eps: number
  readonly hasBias: boolean

  constructor(
    group: Group,
    readonly size: number,
    options: LayerNormOptions = {}
  ) {
    super(group)
    checkPositive('LayerNorm', { size })
    checkOptions('LayerNorm', options, ['eps', 'bias', 'strict'])
    const { eps = 1e-5, bias = true, strict } = options
    checkFlags('LayerNorm', { bias, strict })
    checkEps('LayerNorm', eps)
    this.eps = eps
    this.hasBias = bias
  }

  protected override parameters(): Parameter[] {
    const names = this.hasBias ? ['weight', 'bias'] : ['weight']
    return names.map((name) => replicated(name, this.size, this.group))
  }

  /** `[tokens, size]` → the same. */
  forward(x: Value): Value {
    return this.taken(x).layerNorm(this.tensor('weight'), this.hasBias ? this.tensor('bias') : undefined, this.eps)
  }
}
