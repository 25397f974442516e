// The paged key and value caches of the attention layers of one model, or of one evaluation: one tensor per layer.
import { checkGroup, checkPositive } from './checks'
import type { Group } from './group'
import { Tensor } from './tensor'
import type { DType } from './tensor'

export const defaultBlockSize = 16

/** bfloat16 where the group computes in it, else float32. */
export const cacheDType = (group: Group): DType => (group.dtype === 'bfloat16' ? 'bfloat16' : 'float32')

/** What an attention layer asks for while it is recorded; `layer` is the identity under which its cache is found again. */
export class CacheRequest {
  constructor(
    readonly layer: object,
    readonly kvHeadCounts: readonly number[],
    readonly headDim: number
  ) {}
}

export class KVCaches {
  readonly #tensors = new Map<object, Tensor>()

  /** Throws `invalid_argument` for counts below 1. `blockCount` blocks of `blockSize` tokens in every layer; memory is taken when a program that uses the layer is compiled. */
  constructor(
    readonly group: Group,
    readonly blockCount: number,
    readonly blockSize: number = defaultBlockSize
  ) {
    checkGroup('KVCaches', group)
    checkPositive('KVCaches', { blockCount, blockSize })
  }

  /** `[2 (keys, values), blockCount, kvHeadCount, blockSize, headDim]` on each rank. */
  tensorFor({ layer, kvHeadCounts, headDim }: CacheRequest): Tensor {
    const existing = this.#tensors.get(layer)
    if (existing) return existing
    const dtype = cacheDType(this.group)
    const tensor = new Tensor(
      this.group,
      kvHeadCounts.map((kvHeadCount) => ({
        dtype,
        shape: [2, this.blockCount, kvHeadCount, this.blockSize, headDim],
        role: 'cache',
        pieces: []
      }))
    )
    this.#tensors.set(layer, tensor)
    return tensor
  }

  async ready(): Promise<void> {
    await Promise.all([...this.#tensors.values()].map((tensor) => tensor.ready))
  }

  dispose(): void {
    for (const tensor of this.#tensors.values()) tensor.dispose()
    this.#tensors.clear()
  }
}
