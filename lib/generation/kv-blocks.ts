// The blocks of the paged KV cache, handed out as numbers; the memory behind them belongs to the ranks. Rule: a block has one owner. Ranks
// run their steps in order, so a block can be given on as soon as no further step of its old owner is submitted.
import { HeddleError } from '../errors'

interface Waiter {
  count: number
  resolve: (blocks: number[]) => void
  reject: (error: HeddleError) => void
}

export class BlockPool {
  readonly #free: number[]
  readonly #waiters: Waiter[] = []
  #closed: HeddleError | undefined

  /** Called after blocks came back. */
  onRelease: () => void = () => {}

  constructor(
    readonly blockCount: number,
    readonly blockSize: number
  ) {
    this.#free = Array.from({ length: blockCount }, (_, index) => blockCount - 1 - index)
  }

  get freeCount(): number {
    return this.#free.length
  }

  get usedCount(): number {
    return this.blockCount - this.#free.length
  }

  /** Whether someone waits in `acquire`; new work should let it go first. */
  get hasWaiters(): boolean {
    return this.#waiters.length > 0
  }

  blocksFor(tokenCount: number): number {
    return Math.ceil(tokenCount / this.blockSize)
  }

  /** All of the blocks, or nothing. */
  take(count: number): number[] | undefined {
    return count <= this.#free.length ? this.#free.splice(this.#free.length - count, count) : undefined
  }

  /** Waits, first come first served, until that many blocks are free. Rejects when the pool closes. */
  async acquire(count: number): Promise<number[]> {
    if (this.#closed) throw this.#closed
    if (count > this.blockCount) {
      throw new HeddleError(
        'invalid_argument',
        `KV cache: expected at most ${this.blockCount * this.blockSize} tokens, got ${count * this.blockSize}; maxTokens sets it`
      )
    }
    const blocks = this.hasWaiters ? undefined : this.take(count)
    return blocks ?? new Promise((resolve, reject) => this.#waiters.push({ count, resolve, reject }))
  }

  give(blocks: number[]): void {
    if (blocks.length === 0) return
    this.#free.push(...blocks)
    while (this.#waiters.length > 0 && this.#waiters[0]!.count <= this.#free.length) {
      const waiter = this.#waiters.shift()!
      waiter.resolve(this.take(waiter.count)!)
    }
    this.onRelease()
  }

  close(error: HeddleError): void {
    this.#closed = error
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error)
  }
}

/** The blocks of one sequence, in the order of its positions. */
export class BlockTable {
  readonly blocks: number[] = []

  constructor(private readonly pool: BlockPool) {}

  /** Makes room for the first `tokenCount` positions; false, and nothing taken, where the pool has too few blocks. */
  reserve(tokenCount: number): boolean {
    const missing = this.pool.blocksFor(tokenCount) - this.blocks.length
    if (missing <= 0) return true
    const taken = this.pool.take(missing)
    if (taken) this.blocks.push(...taken)
    return taken !== undefined
  }

  release(): void {
    this.pool.give(this.blocks.splice(0))
  }
}
