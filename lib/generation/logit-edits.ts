// What changes the logits of one sequence before a token is chosen, as a short list of ids for the ranks, which do the arithmetic
// (LogitEdit in native/core/message.h). Rule: the list counts every token but the last one of a step: that one may be known to the ranks
// alone, and they count it themselves. So a sequence with penalties runs ahead like any other; one whose edits depend on its last token does not.
import type { StepEdits } from '../program'
import type { SequenceEdits } from './sequence-edits'

/** Parallel lists: how often an id is in the answer (0: in the prompt alone, -1: not counted), and what is added to its logit. */
export interface EditList {
  ids: number[]
  counts: number[]
  biases: number[]
}

export interface LogitEditOptions {
  promptLength: number
  /** added to the logit of an id */
  bias: ReadonlyMap<number, number>
  bans: readonly Ban[]
  /** the token at this position of the sequence, if it comes so far, is one of these */
  forced?: { position: number; ids: readonly number[] }
  /** depends on the last token, too */
  sequence?: SequenceEdits
  /** whether tokens that came are counted */
  counts: boolean
}

/** These ids cannot come among the first `count` tokens of the answer. */
export interface Ban {
  ids: readonly number[]
  count: number
}

/** Above any logit and any other bias. */
const forcingBias = 1e9

export class LogitEdits {
  readonly #list: EditList = { ids: [], counts: [], biases: [] }
  readonly #places = new Map<number, number>()
  #counted = 0

  /** Whether every token must be known when a step is planned. */
  get needsLastToken(): boolean {
    return this.options.sequence !== undefined
  }

  constructor(private readonly options: LogitEditOptions) {
    for (const [id, bias] of options.bias) this.#list.biases[this.#placeOf(id)] = bias
  }

  /** The list for a step that ends with position `last` of these tokens, which are known up to there, or up to the one before. */
  at(tokens: readonly number[], last: number): EditList {
    const { promptLength, bans, forced, sequence, counts } = this.options
    const known = last >= promptLength ? last : last + 1
    if (counts) for (; this.#counted < known; this.#counted++) this.#count(tokens[this.#counted]!, this.#counted)
    if (forced?.position === last + 1) return this.#changed(new Map(forced.ids.map((id) => [id, forcingBias])))
    const banned = bans.filter(({ count }) => last + 1 < promptLength + count).flatMap(({ ids }) => ids)
    return this.#changed(new Map([...this.#added(sequence?.at(tokens)), ...banned.map((id) => [id, -Infinity] as const)]))
  }

  /** Beside the bias that an id has anyway. */
  #added(changes: ReadonlyMap<number, number> = new Map()): [id: number, bias: number][] {
    return [...changes].map(([id, change]) => [id, change + (this.options.bias.get(id) ?? 0)])
  }

  #count(id: number, position: number): void {
    const place = this.#placeOf(id)
    const count = Math.max(this.#list.counts[place]!, 0)
    this.#list.counts[place] = position >= this.options.promptLength ? count + 1 : count
  }

  /** The list with another bias for some ids. */
  #changed(changes: ReadonlyMap<number, number>): EditList {
    if (changes.size === 0) return this.#list
    const list = { ids: [...this.#list.ids], counts: [...this.#list.counts], biases: [...this.#list.biases] }
    for (const [id, bias] of changes) {
      const place = this.#places.get(id)
      if (place !== undefined) list.biases[place] = bias
      else push(list, id, bias)
    }
    return list
  }

  #placeOf(id: number): number {
    const existing = this.#places.get(id)
    if (existing !== undefined) return existing
    push(this.#list, id, 0)
    this.#places.set(id, this.#list.ids.length - 1)
    return this.#list.ids.length - 1
  }
}

function push(list: EditList, id: number, bias: number): void {
  list.ids.push(id)
  list.counts.push(-1)
  list.biases.push(bias)
}

/** The lists of a step's sequences, one behind the other, as the ranks take them; nothing where all are empty. */
export function joinedEdits(lists: readonly (EditList | undefined)[]): StepEdits | undefined {
  const starts = [0]
  for (const list of lists) starts.push(starts.at(-1)! + (list?.ids.length ?? 0))
  if (starts.at(-1) === 0) return undefined
  return {
    starts: Int32Array.from(starts),
    ids: Int32Array.from(lists.flatMap((list) => list?.ids ?? [])),
    counts: Int32Array.from(lists.flatMap((list) => list?.counts ?? [])),
    biases: Float32Array.from(lists.flatMap((list) => list?.biases ?? []))
  }
}
