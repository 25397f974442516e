// Rank memory that outlives a step: a weight shard or a KV cache, one part on every rank under one id.
import type { Group } from './group'
import type { DType, HostTensor, TensorSpec } from './native'

/** What layers and models say of a tensor as data; only this file and its neighbours know native.ts. */
export type { DType, HostTensor, PieceSpec } from './native'

/** How the parts relate to the whole: the same everywhere, split by rows (dimension 0), or split by columns (dimension 1). */
export type Sharding = 'replicated' | 'rows' | 'columns'

export class Tensor {
  readonly id: number
  readonly dtype: DType
  /** local shape on each rank */
  readonly shapes: readonly number[][]
  /** Settles when every rank has made and filled its part; rejects with what went wrong first. */
  readonly ready: Promise<void>
  #disposed = false

  /** Starts creation at once: messages are handled in order, so a program recorded after this may already use it. */
  constructor(
    readonly group: Group,
    specs: TensorSpec[],
    readonly sharding: Sharding = 'replicated'
  ) {
    this.id = group.nextId()
    this.dtype = specs[0]!.dtype
    this.shapes = specs.map((spec) => spec.shape)
    this.ready = group.native.createTensor(this.id, specs)
    this.ready.catch(() => {}) // whoever awaits it learns of it; a tensor nobody waits for must not end the process
  }

  /** Elements of one row of the part on `rank`. */
  width(rank: number): number {
    return this.shapes[rank]!.slice(1).reduce((product, length) => product * length, 1)
  }

  rows(rank: number): number {
    return this.shapes[rank]![0]!
  }

  bytes(rank: number): number {
    return this.rows(rank) * this.width(rank) * (this.dtype === 'float32' ? 4 : 2)
  }

  /** A copy of the part on `rank`, as float32. */
  read(rank: number): Promise<HostTensor> {
    return this.group.native.readTensor(this.id, rank)
  }

  /** Frees the memory on every rank once the work submitted before is done. Idempotent. */
  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    this.group.native.dispose([this.id])
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
