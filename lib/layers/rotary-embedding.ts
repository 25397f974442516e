// Rotary position embedding (Su et al. 2021): element i of a head turns with element i + dim / 2 by position * inverseFrequencies[i].
import { HeddleError } from '../errors'
import type { Group } from '../group'
import { everything, piece } from '../shard'
import { Tensor } from '../tensor'

export interface RotaryOptions {
  /** base of the frequencies; default 10000 */
  theta?: number
  /** leading elements of a head that turn; default all of `headDim` */
  dim?: number
  /** given outright, they take the place of theta: `dim / 2` of them, as a scaled variant (linear, llama3) computes them */
  inverseFrequencies?: Float32Array
  /** factor on cosine and sine; default 1 */
  scale?: number
}

/** One table of frequencies on every rank, shared by the layers that are given it. */
export class RotaryEmbedding {
  readonly dim: number
  readonly scale: number
  readonly tensor: Tensor

  constructor(group: Group, headDim: number, options: RotaryOptions = {}) {
    const { theta = 10000, dim = headDim, scale = 1 } = options
    const frequencies = options.inverseFrequencies ?? inverseFrequencies(theta, dim)
    if (!Number.isInteger(dim) || dim < 2 || dim % 2 !== 0 || dim > headDim || frequencies.length !== dim / 2) {
      throw new HeddleError(
        'invalid_argument',
        `RotaryEmbedding: expected an even dim up to headDim ${headDim} and dim / 2 frequencies, got ${dim} and ${frequencies.length}`
      )
    }
    if (!(theta > 0) || !Number.isFinite(scale) || frequencies.some((frequency) => !Number.isFinite(frequency))) {
      throw new HeddleError('invalid_argument', 'RotaryEmbedding: expected a positive theta, a finite scale and finite frequencies')
    }
    this.dim = dim
    this.scale = scale
    const weight = { dtype: 'float32' as const, shape: [dim / 2], source: { data: frequencies }, offset: 0 }
    const whole = piece(weight, everything(dim / 2), everything(1), 0, 1)
    this.tensor = new Tensor(
      group,
      Array.from({ length: group.size }, () => ({
        dtype: 'float32' as const,
        shape: [dim / 2],
        role: 'weight' as const,
        pieces: [whole]
      }))
    )
  }
}

/** `1 / theta^(2i / dim)` in float32 arithmetic, as `transformers` computes its default frequencies. */
export function inverseFrequencies(theta: number, dim: number): Float32Array {
  return Float32Array.from({ length: dim / 2 }, (_, i) => 1 / Math.fround(theta ** Math.fround((2 * i) / dim)))
}
