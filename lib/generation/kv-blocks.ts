// The blocks of the paged KV cache, handed out as numbers; the memory behind them belongs to the ranks. Rule: a block that is written has
// one owner; full ones are only read, and may be held by several sequences that begin alike. Ranks run their steps in order, so a block
// can be given on as soon as no further step of its old owner is submitted, and read as soon as the step that fills it is submitted.
import { HeddleError } from '../errors'
import { PrefixIndex, textStart } from './prefix-index'

interface Waiter {
  count: number
  resolve: (blocks: number[]) => void
  reject: (error: HeddleError) => void
}

export class BlockPool {
  readonly #free: number[]
  /** sequences that hold each block */
  readonly #holders: Int32Array
  /** blocks that nobody holds and whose text may come again, the longest unused first */
  readonly #idle = new Set<number>()
  readonly #prefixes = new PrefixIndex()
  readonly #waiters: Waiter[] = []
  #closed: HeddleError | undefined

  /** Called after blocks came back. */
  onRelease: () => void = () => {}

  /** `prefixReuse`: full blocks are kept for texts that begin alike, until their room is needed. */
  constructor(
    readonly blockCount: number,
    readonly blockSize: number,
    readonly prefixReuse = true
  ) {
    this.#free = Array.from({ length: blockCount }, (_, index) => blockCount - 1 - index)
    this.#holders = new Int32Array(blockCount)
  }

  /** Blocks that nobody holds. */
  get freeCount(): number {
    return this.#free.length + this.#idle.size
  }

  get usedCount(): number {
    return this.blockCount - this.freeCount
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
    if (count > this.freeCount) return undefined
    this.#evict(count - this.#free.length)
    const blocks = this.#free.splice(this.#free.length - count, count)
    for (const block of blocks) this.#holders[block] = 1
    return blocks
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

  /** Blocks of one holder, in the order of their text: the end of a text is given up before its beginning. */
  give(blocks: number[]): void {
    if (blocks.length === 0) return
    for (const block of blocks.toReversed()) {
      if (--this.#holders[block]! > 0) continue
      if (this.#prefixes.has(block)) this.#idle.add(block)
      else this.#free.push(block)
    }
    while (this.#waiters.length > 0 && this.#waiters[0]!.count <= this.freeCount) {
      const waiter = this.#waiters.shift()!
      waiter.resolve(this.take(waiter.count)!)
    }
    this.onRelease()
  }

  /** The block that holds these tokens behind what `previous` stands for, held once more, and what stands for it; nothing if there is none. */
  share(previous: number, tokens: readonly number[]): { block: number; number: number } | undefined {
    const entry = this.prefixReuse ? this.#prefixes.find(previous, tokens) : undefined
    if (!entry) return undefined
    this.#idle.delete(entry.block)
    this.#holders[entry.block]!++
    return entry
  }

  /** Makes a full block known; gives what stands for its text, which may be another block's. */
  publish(previous: number, tokens: readonly number[], block: number): number {
    return this.#prefixes.add(previous, tokens, block).number
  }

  /** Nothing that blocks hold is to be reused: a step failed, so they may hold anything. */
  forget(): void {
    this.#prefixes.clear()
    this.#free.push(...this.#idle)
    this.#idle.clear()
  }

  close(error: HeddleError): void {
    this.#closed = error
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error)
  }

  #evict(count: number): void {
    for (const block of this.#idle) {
      if (count-- <= 0) return
      this.#idle.delete(block)
      this.#prefixes.remove(block)
      this.#free.push(block)
    }
  }
}

/** The blocks of one sequence, in the order of its positions. */
export class BlockTable {
  readonly blocks: number[] = []
  /** full blocks at the beginning that are known to the pool, and what stands for the last of them */
  #known = 0
  #chain = textStart

  constructor(private readonly pool: BlockPool) {}

  /** Makes room for the first `tokenCount` positions; false, and nothing taken, where the pool has too few blocks. */
  reserve(tokenCount: number): boolean {
    const missing = this.pool.blocksFor(tokenCount) - this.blocks.length
    if (missing <= 0) return true
    const taken = this.pool.take(missing)
    if (taken) this.blocks.push(...taken)
    return taken !== undefined
  }

  /** Begins an empty table with blocks that hold the beginning of these tokens; gives how many tokens, the last never among them. */
  reuse(tokens: readonly number[]): number {
    const { blockSize } = this.pool
    while ((this.#known + 1) * blockSize < tokens.length) {
      const shared = this.pool.share(this.#chain, this.#tokensOf(tokens, this.#known))
      if (!shared) break
      this.blocks.push(shared.block)
      this.#chain = shared.number
      this.#known++
    }
    return this.#known * blockSize
  }

  /** Makes known the blocks that the first `count` of these tokens fill, by steps that are submitted. */
  publish(tokens: readonly number[], count: number): void {
    if (!this.pool.prefixReuse) return
    while ((this.#known + 1) * this.pool.blockSize <= count) {
      this.#chain = this.pool.publish(this.#chain, this.#tokensOf(tokens, this.#known), this.blocks[this.#known]!)
      this.#known++
    }
  }

  release(): void {
    this.#known = 0
    this.#chain = textStart
    this.pool.give(this.blocks.splice(0))
  }

  #tokensOf(tokens: readonly number[], block: number): readonly number[] {
    return tokens.slice(block * this.pool.blockSize, (block + 1) * this.pool.blockSize)
  }
}
