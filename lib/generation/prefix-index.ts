// Which cache blocks hold which beginnings of texts: a chain of full blocks, each known by the one before it and its own tokens.
// Rule: a match is exact. Keys are the tokens themselves, so no two texts can be taken for one another; an entry's number is never used
// again, so an entry whose beginning was given up can never be found.

export interface PrefixEntry {
  readonly number: number
  readonly key: string
  readonly block: number
}

/** What the first block of a text follows. */
export const textStart = 0

export class PrefixIndex {
  readonly #entries = new Map<string, PrefixEntry>()
  readonly #ofBlock = new Map<number, PrefixEntry>()
  #lastNumber = textStart

  /** The block with these tokens behind what entry `previous` holds. */
  find(previous: number, tokens: readonly number[]): PrefixEntry | undefined {
    return this.#entries.get(keyOf(previous, tokens))
  }

  /** Enters a block; where another one holds the same, that one stays. */
  add(previous: number, tokens: readonly number[], block: number): PrefixEntry {
    const key = keyOf(previous, tokens)
    const existing = this.#entries.get(key)
    if (existing) return existing
    const entry = { number: ++this.#lastNumber, key, block }
    this.#entries.set(key, entry)
    this.#ofBlock.set(block, entry)
    return entry
  }

  has(block: number): boolean {
    return this.#ofBlock.has(block)
  }

  /** The block is about to hold something else. */
  remove(block: number): void {
    const entry = this.#ofBlock.get(block)
    if (!entry) return
    this.#ofBlock.delete(block)
    this.#entries.delete(entry.key)
  }

  clear(): void {
    this.#entries.clear()
    this.#ofBlock.clear()
  }
}

const keyOf = (previous: number, tokens: readonly number[]): string => `${previous}:${tokens.join()}`
