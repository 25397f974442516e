// Drives the generation program: plans a step, submits it, hands out its tokens. All sequences share the steps.
// Rule: at most two steps are in flight, so that the ranks start the next one before JavaScript has seen the tokens of the last.
import { HeddleError } from '../errors'
import type { StepResult, StepSpec } from '../program'
import type { BlockPool } from './kv-blocks'
import { Scheduler } from './scheduler'
import type { PlannedStep } from './scheduler'
import type { Sequence, SequenceRequest } from './sequence'

const maxStepsInFlight = 2

export interface EngineOptions {
  /** runs one step on the ranks; steps run in the order of the calls */
  run: (step: StepSpec) => Promise<StepResult>
  pool: BlockPool
  maxBatchTokens: number
  maxSequences: number
}

interface StepInFlight {
  step: PlannedStep
  result: Promise<StepResult>
}

export class Engine {
  readonly #run: EngineOptions['run']
  readonly #scheduler: Scheduler
  readonly #pool: BlockPool
  #looping = false
  #closed: HeddleError | undefined

  constructor(options: EngineOptions) {
    this.#run = options.run
    this.#scheduler = new Scheduler(options)
    this.#pool = options.pool
    options.pool.onRelease = () => this.#wake()
  }

  /** Sequences that run or wait. */
  get sequenceCount(): number {
    return this.#scheduler.sequenceCount
  }

  start(request: SequenceRequest): Sequence {
    if (this.#closed) throw this.#closed
    const sequence = this.#scheduler.add(request)
    this.#wake()
    return sequence
  }

  /** Ends a sequence now: blocks and slot are free when this returns. */
  abort(sequence: Sequence): void {
    this.#scheduler.finish(sequence, 'aborted')
  }

  close(error: HeddleError): void {
    this.#closed = error
    this.#scheduler.finishAll(error)
  }

  #wake(): void {
    if (this.#looping || this.#scheduler.sequenceCount === 0) return
    this.#looping = true
    void this.#loop()
  }

  async #loop(): Promise<void> {
    const inFlight: StepInFlight[] = []
    try {
      await Promise.resolve() // calls made in the same turn share the first step
      for (;;) {
        this.#fill(inFlight)
        const oldest = inFlight.shift()
        if (!oldest) break
        this.#scheduler.complete(oldest.step, await oldest.result)
      }
      this.#looping = false
    } catch (thrown) {
      await Promise.allSettled(inFlight.map(({ result }) => result))
      this.#pool.forget()
      this.#looping = false // first: a caller that hears of its failure may start again at once
      this.#scheduler.finishAll(
        thrown instanceof HeddleError ? thrown : new HeddleError('device_failed', 'generation: a step failed', { cause: thrown })
      )
    }
  }

  #fill(inFlight: StepInFlight[]): void {
    while (inFlight.length < maxStepsInFlight) {
      const step = this.#scheduler.next()
      if (!step) return
      const result = this.#run(step.spec)
      result.catch(() => {}) // awaited later, perhaps after another one failed
      inFlight.push({ step, result })
    }
  }
}
