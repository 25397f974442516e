// Decides which sequences go into the next step: one token of every running one, and with the rest of the budget prefills in chunks.
// Rule: pure bookkeeping over sequences, slots and blocks. It knows no ranks and no promises; every way out of it frees blocks and slot.
import type { HeddleError } from '../errors'
import type { SamplingSpec, StepResult, StepSpec } from '../program'
import type { BlockPool } from './kv-blocks'
import { joinedEdits } from './logit-edits'
import { tokenLogprobs } from './logprobs'
import { greedy, isGreedy } from './sampling'
import { Sequence } from './sequence'
import type { FinishReason, SequenceRequest } from './sequence'

export interface SchedulerOptions {
  pool: BlockPool
  maxBatchTokens: number
  maxSequences: number
}

/** A sequence's part of a step. `isLast`: its sampled token is the next token, not one from the middle of a prompt. */
interface Part {
  sequence: Sequence
  start: number
  count: number
  isLast: boolean
}

export interface PlannedStep {
  spec: StepSpec
  parts: Part[]
}

export class Scheduler {
  readonly #options: SchedulerOptions
  readonly #freeSlots: number[]
  /** oldest first */
  readonly #running: Sequence[] = []
  readonly #waiting: Sequence[] = []

  constructor(options: SchedulerOptions) {
    this.#options = options
    this.#freeSlots = Array.from({ length: options.maxSequences }, (_, index) => options.maxSequences - 1 - index)
  }

  get sequenceCount(): number {
    return this.#running.length + this.#waiting.length
  }

  add(request: SequenceRequest): Sequence {
    const sequence = new Sequence(request, this.#options.pool)
    this.#waiting.push(sequence)
    if (sequence.pending === 0) this.finish(sequence, 'length')
    return sequence
  }

  /** The next step, or nothing when every sequence waits for a result or for blocks. */
  next(): PlannedStep | undefined {
    const parts: Part[] = []
    let budget = this.#options.maxBatchTokens
    const take = (sequence: Sequence, limit: number): void => {
      const count = Math.min(sequence.pending, limit, budget)
      if (count === 0 || !this.#makeRoom(sequence, sequence.submitted + count)) return
      parts.push(submit(sequence, count))
      budget -= count
    }
    for (const sequence of [...this.#running]) if (sequence.pending === 1 && sequence.slot >= 0) take(sequence, 1)
    for (const sequence of [...this.#running]) if (sequence.pending > 1 && sequence.slot >= 0) take(sequence, Infinity)
    while (budget > 0 && this.#admit(parts)) take(this.#running.at(-1)!, Infinity)
    for (const { sequence } of parts) sequence.publish()
    return parts.length > 0 ? { spec: this.#spec(parts), parts } : undefined
  }

  /** Takes the tokens of a step that came back: one per part. */
  complete({ parts }: PlannedStep, { tokens, logprobs }: StepResult): void {
    const told = tokenLogprobs(parts.map(samplingOf), logprobs)
    parts.forEach(({ sequence, isLast }, index) => {
      sequence.stepsInFlight--
      if (!isLast || sequence.finished) return // from the middle of a prompt, or surplus: a stop was found meanwhile
      const token = tokens[index]!
      sequence.tokens.push(token)
      sequence.publish()
      const stops = sequence.request.onToken(token, told[index])
      if (stops) this.finish(sequence, 'stop')
      else if (sequence.tokens.length >= sequence.request.maxLength) this.finish(sequence, 'length')
    })
  }

  /** Ends a sequence; idempotent. Steps of it that are still in flight are harmless: their results are dropped. */
  finish(sequence: Sequence, outcome: FinishReason | HeddleError): void {
    if (sequence.finished) return
    sequence.finished = true
    remove(this.#running, sequence)
    remove(this.#waiting, sequence)
    this.#release(sequence)
    sequence.request.onFinish(outcome)
  }

  finishAll(outcome: FinishReason | HeddleError): void {
    for (const sequence of [...this.#running, ...this.#waiting]) this.finish(sequence, outcome)
  }

  /**
   * Starts the first waiting sequence if a slot is free and all of its known tokens find room. One whose beginning is being computed in
   * this very step waits for the next, which can reuse it.
   */
  #admit(parts: readonly Part[]): boolean {
    const sequence = this.#waiting[0]
    const { pool } = this.#options
    if (!sequence || this.#freeSlots.length === 0 || pool.hasWaiters) return false
    sequence.reuse()
    const gainsByWaiting = pool.prefixReuse && parts.some((part) => sharesMost(sequence, part, pool.blockSize))
    if (gainsByWaiting || !sequence.table.reserve(sequence.plannedLength)) {
      sequence.rewind()
      return false
    }
    this.#waiting.shift()
    sequence.cachedCount ??= sequence.submitted
    sequence.slot = this.#freeSlots.pop()!
    this.#running.push(sequence)
    return true
  }

  /** Room for a sequence, taken from younger ones if need be; they start over later. False: it waits. */
  #makeRoom(sequence: Sequence, tokenCount: number): boolean {
    while (!sequence.table.reserve(tokenCount)) {
      const youngest = this.#running.at(-1)!
      if (youngest.stepsInFlight > 0) return false // its last token is not known yet
      remove(this.#running, youngest)
      this.#waiting.unshift(youngest)
      this.#release(youngest)
      if (youngest === sequence) return false
    }
    return true
  }

  #release(sequence: Sequence): void {
    if (sequence.slot >= 0) this.#freeSlots.push(sequence.slot)
    sequence.rewind()
  }

  #spec(parts: Part[]): StepSpec {
    const blocks = Math.max(...parts.map(({ sequence }) => sequence.table.blocks.length))
    const spec = {
      tokens: [] as number[],
      positions: [] as number[],
      sequenceStarts: [0],
      slots: Int32Array.from(parts, ({ sequence }) => sequence.slot),
      blockTable: new Int32Array(parts.length * blocks).fill(-1)
    }
    parts.forEach(({ sequence, start, count }, index) => {
      for (let position = start; position < start + count; position++) {
        spec.tokens.push(sequence.stepToken(position))
        spec.positions.push(position)
      }
      spec.sequenceStarts.push(spec.tokens.length)
      spec.blockTable.set(sequence.table.blocks, index * blocks)
    })
    const sampling = parts.map(samplingOf)
    const edits = joinedEdits(parts.map(({ sequence, start, count, isLast }) =>
      isLast ? sequence.request.edits?.at(sequence.tokens, start + count - 1) : undefined))
    return {
      ...spec,
      tokens: Int32Array.from(spec.tokens),
      positions: Int32Array.from(spec.positions),
      sequenceStarts: Int32Array.from(spec.sequenceStarts),
      ...(!sampling.every(isGreedy) && { sampling }),
      ...(edits && { edits })
    }
  }
}

/** What is sampled in the middle of a prompt is dropped, so it costs no more than it must. */
const samplingOf = ({ sequence, isLast }: Part): SamplingSpec => (isLast ? sequence.request.sampling : greedy)

/** Whether at least half of what a sequence still has to compute is what this part computes. */
function sharesMost(sequence: Sequence, { sequence: other, start, count }: Part, blockSize: number): boolean {
  const most = Math.min(start + count, other.tokens.length, sequence.tokens.length - 1)
  let shared = 0
  while (shared < most && sequence.tokens[shared] === other.tokens[shared]) shared++
  const gained = shared - (shared % blockSize) - Math.max(sequence.submitted, start)
  return gained > 0 && 2 * gained >= sequence.tokens.length - sequence.submitted
}

function submit(sequence: Sequence, count: number): Part {
  const start = sequence.submitted
  sequence.submitted += count
  const isLast = sequence.submitted === sequence.plannedLength
  if (isLast) sequence.plannedLength++
  sequence.stepsInFlight++
  return { sequence, start, count, isLast }
}

function remove(list: Sequence[], sequence: Sequence): void {
  const index = list.indexOf(sequence)
  if (index >= 0) list.splice(index, 1)
}
