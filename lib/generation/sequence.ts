// One sequence of tokens on its way through the engine: what is known, what is submitted, and who wants to hear of it.
import type { HeddleError } from '../errors'
import type { SamplingSpec } from '../program'
import type { TokenLogprob } from './logprobs'
import type { LogitEdits } from './logit-edits'
import { BlockTable } from './kv-blocks'
import type { BlockPool } from './kv-blocks'

export type FinishReason = 'stop' | 'length' | 'aborted'

export interface SequenceRequest {
  promptIds: readonly number[]
  sampling: SamplingSpec
  edits?: LogitEdits
  /** tokens of prompt and answer together, at most */
  maxLength: number
  /** Takes a new token; true ends the sequence with 'stop'. */
  onToken: (id: number, logprob?: TokenLogprob) => boolean
  /** Called once, when blocks and slot are free again. */
  onFinish: (outcome: FinishReason | HeddleError) => void
}

export class Sequence {
  /** prompt and answer, as far as they are known here */
  readonly tokens: number[]
  readonly table: BlockTable
  /** tokens that are in the cache, or will be by the steps submitted so far */
  submitted = 0
  /** length once every step submitted so far has come back */
  plannedLength: number
  /** steps submitted and not yet back */
  stepsInFlight = 0
  slot = -1
  /** tokens of the prompt that the cache held when the sequence began; undefined before */
  cachedCount: number | undefined
  finished = false

  constructor(
    readonly request: SequenceRequest,
    pool: BlockPool
  ) {
    this.tokens = [...request.promptIds]
    this.plannedLength = this.tokens.length
    this.table = new BlockTable(pool)
  }

  /** Tokens that a step could take: one in decode, more in prefill, none when the length is reached. */
  get pending(): number {
    if (this.request.edits?.needsLastToken && this.tokens.length < this.plannedLength) return 0 // its token is on the way
    return this.plannedLength < this.request.maxLength ? this.plannedLength - this.submitted : 0
  }

  /** Token `index` as a step takes it: its id, or where the ranks find it when it has not come back yet. */
  stepToken(index: number): number {
    return this.tokens[index] ?? -1 - this.slot
  }

  /** Begins with what the cache holds of the known tokens. */
  reuse(): void {
    this.submitted = this.table.reuse(this.tokens)
  }

  /** Lets others reuse what is known and submitted. */
  publish(): void {
    this.table.publish(this.tokens, Math.min(this.submitted, this.tokens.length))
  }

  /** Back to the start, to be computed again from the tokens that are known. Only with no step in flight. */
  rewind(): void {
    this.submitted = 0
    this.slot = -1
    this.table.release()
  }
}
