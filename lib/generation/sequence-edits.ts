// What depends on how a sequence ends: biases on the last id of a run of ids, and n-grams that may not come twice. Rule: pure; who uses it
// knows every token when a step is planned, so such a sequence does not run ahead.
// Source: SequenceBiasLogitsProcessor and NoRepeatNGramLogitsProcessor of `transformers`.

/** Added to the logit of the last of these ids where the others are what a sequence ends with. */
export interface RunBias {
  /** two or more */
  ids: readonly number[]
  bias: number
}

export interface SequenceEditOptions {
  runs: readonly RunBias[]
  /** runs of so many ids come once, those of the prompt included; 0 is off */
  noRepeatNgramSize: number
}

export class SequenceEdits {
  /** the n - 1 ids before, joined → the ids that followed them */
  readonly #followers = new Map<string, Set<number>>()
  #indexed = 0

  constructor(private readonly options: SequenceEditOptions) {}

  /** What to add to logits of ids for the token after these. The tokens of a later call begin with those of an earlier one. */
  at(tokens: readonly number[]): ReadonlyMap<number, number> {
    const changes = new Map<number, number>()
    for (const { ids, bias } of this.options.runs) {
      const last = ids.at(-1)!
      if (endsWith(tokens, ids)) changes.set(last, (changes.get(last) ?? 0) + bias)
    }
    if (this.options.noRepeatNgramSize > 0) for (const id of this.#repeats(tokens)) changes.set(id, -Infinity)
    return changes
  }

  #repeats(tokens: readonly number[]): Iterable<number> {
    const before = this.options.noRepeatNgramSize - 1
    for (; this.#indexed < tokens.length; this.#indexed++) {
      if (this.#indexed < before) continue
      const key = tokens.slice(this.#indexed - before, this.#indexed).join()
      const followers = this.#followers.get(key) ?? new Set()
      this.#followers.set(key, followers.add(tokens[this.#indexed]!))
    }
    return tokens.length < before ? [] : (this.#followers.get(tokens.slice(tokens.length - before).join()) ?? [])
  }
}

/** Whether all of these ids but the last are what the tokens end with. */
function endsWith(tokens: readonly number[], ids: readonly number[]): boolean {
  const offset = tokens.length - (ids.length - 1)
  return offset >= 0 && ids.every((id, index) => index === ids.length - 1 || tokens[offset + index] === id)
}
