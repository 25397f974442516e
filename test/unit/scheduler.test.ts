// The engine over a model made of arithmetic: the next token depends on every token before it and on nothing else. Whatever is batched,
// chunked, preempted or aborted, each sequence must come out as if it ran alone, and blocks and slots must come back.
import { HeddleError } from '../../lib/errors'
import { Engine } from '../../lib/generation/engine'
import { BlockPool } from '../../lib/generation/kv-blocks'
import { Scheduler } from '../../lib/generation/scheduler'
import type { FinishReason, Sequence } from '../../lib/generation/sequence'
import type { StepResult, StepSpec } from '../../lib/native'
import { Random } from '../support/random'

const vocabSize = 997
const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0 }

const next = (tokens: readonly number[]): number => tokens.reduce((hash, token) => (hash * 31 + token + 7) % vocabSize, 1)

function alone(prompt: readonly number[], count: number): number[] {
  const tokens = [...prompt]
  while (tokens.length < prompt.length + count) tokens.push(next(tokens))
  return tokens.slice(prompt.length)
}

/** What ranks do with a step, over a cache of tokens in place of keys and values. It checks the step as a rank would. */
class FakeRanks {
  readonly steps: StepSpec[] = []
  inFlight = 0
  mostInFlight = 0
  failAt = Infinity
  readonly #cache = new Map<string, number>()
  readonly #lastOfSlot = new Map<number, number>()
  #previous: Promise<unknown> = Promise.resolve()

  constructor(
    private readonly blockSize: number,
    private readonly limits: { maxBatchTokens: number; maxSequences: number }
  ) {}

  run = async (step: StepSpec): Promise<StepResult> => {
    this.steps.push(step)
    const number = this.steps.length
    this.mostInFlight = Math.max(this.mostInFlight, ++this.inFlight)
    const tokens = this.#compute(step) // in the order of submission, as the ranks' queue keeps it
    const turn = this.#previous.then(() => new Promise((resolve) => setImmediate(resolve)))
    this.#previous = turn
    await turn
    this.inFlight--
    if (number >= this.failAt) throw new HeddleError('device_failed', 'planted')
    return { tokens, outputs: {} }
  }

  #compute(step: StepSpec): Int32Array {
    const sequenceCount = step.slots.length
    const width = step.blockTable.length / sequenceCount
    expect(sequenceCount).toBeLessThanOrEqual(this.limits.maxSequences)
    expect(step.tokens.length).toBeLessThanOrEqual(this.limits.maxBatchTokens)
    expect(new Set(step.slots).size).toBe(sequenceCount)
    expect(step.sequenceStarts[sequenceCount]).toBe(step.tokens.length)
    return Int32Array.from({ length: sequenceCount }, (_, sequence) => {
      const blocks = step.blockTable.subarray(sequence * width, (sequence + 1) * width)
      const cell = (position: number): string => {
        const block = blocks[Math.floor(position / this.blockSize)]!
        if (!(block >= 0)) throw new Error(`position ${position} has no block`)
        return `${block}:${position % this.blockSize}`
      }
      const [start, end] = [step.sequenceStarts[sequence]!, step.sequenceStarts[sequence + 1]!]
      expect(end).toBeGreaterThan(start)
      for (let i = start; i < end; i++) {
        const token = step.tokens[i]!
        this.#cache.set(cell(step.positions[i]!), token >= 0 ? token : this.#lastOfSlot.get(-1 - token)!)
      }
      const length = step.positions[end - 1]! + 1
      const sampled = next(Array.from({ length }, (_, position) => this.#cache.get(cell(position))!))
      this.#lastOfSlot.set(step.slots[sequence]!, sampled)
      return sampled
    })
  }
}

interface Setup {
  prefixReuse?: boolean
  blockCount?: number
  blockSize?: number
  maxBatchTokens?: number
  maxSequences?: number
}

function setup({ blockCount = 64, blockSize = 4, maxBatchTokens = 16, maxSequences = 4, prefixReuse = true }: Setup = {}) {
  const pool = new BlockPool(blockCount, blockSize, prefixReuse)
  const ranks = new FakeRanks(blockSize, { maxBatchTokens, maxSequences })
  const engine = new Engine({ run: ranks.run, pool, maxBatchTokens, maxSequences })
  return { pool, ranks, engine }
}

interface Answer {
  tokens: number[]
  outcome: FinishReason | HeddleError
}

function generate(engine: Engine, promptIds: number[], count: number, onToken: (id: number, made: number) => boolean = () => false) {
  const tokens: number[] = []
  let finish!: (answer: Answer) => void
  const done = new Promise<Answer>((resolve) => {
    finish = resolve
  })
  const sequence = engine.start({
    promptIds,
    sampling: greedy,
    maxLength: promptIds.length + count,
    onToken: (id) => {
      tokens.push(id)
      return onToken(id, tokens.length)
    },
    onFinish: (outcome) => finish({ tokens, outcome })
  })
  return { sequence, done }
}

const prompt = (random: Random, length: number): number[] => Array.from({ length }, () => random.integer(vocabSize))

test('one sequence: prefill in chunks, then tokens of the step before that never came to JavaScript', async () => {
  const { pool, ranks, engine } = setup()
  const ids = prompt(new Random(1), 37)
  expect(await generate(engine, ids, 20).done).toEqual({ tokens: alone(ids, 20), outcome: 'length' })
  expect(ranks.steps.slice(0, 4).map(({ tokens }) => tokens.length)).toEqual([16, 16, 5, 1])
  expect(ranks.steps).toHaveLength(3 + 19) // not one step more than needed
  expect(ranks.mostInFlight).toBe(2)
  expect(ranks.steps.slice(3).every(({ tokens, slots }) => tokens[0] === -1 - slots[0]!)).toBe(true)
  expect(pool.usedCount).toBe(0)
  expect(engine.sequenceCount).toBe(0)
})

/** Until a condition holds; what the fake ranks do takes turns of the event loop, not time. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve))
}

async function turns(count: number): Promise<void> {
  await until(() => count-- === 0)
}

test('a stop ends the sequence with that token; the surplus step in flight is dropped', async () => {
  const { pool, ranks, engine } = setup()
  const ids = prompt(new Random(2), 5)
  const { tokens, outcome } = await generate(engine, ids, 50, (_, made) => made === 7).done
  expect({ tokens, outcome }).toEqual({ tokens: alone(ids, 7), outcome: 'stop' })
  expect(pool.usedCount).toBe(0)
  await turns(100)
  expect(ranks.steps.length).toBeLessThanOrEqual(8)
})

test('calls of one turn share the steps', async () => {
  const { ranks, engine } = setup()
  const random = new Random(3)
  const prompts = Array.from({ length: 4 }, () => prompt(random, 4))
  const answers = await Promise.all(prompts.map((ids) => generate(engine, ids, 10).done))
  expect(answers.map(({ tokens }) => tokens)).toEqual(prompts.map((ids) => alone(ids, 10)))
  expect(ranks.steps).toHaveLength(10)
})

test('nothing to make: finished at once', async () => {
  const { ranks, engine } = setup()
  expect(await generate(engine, [1, 2, 3], 0).done).toEqual({ tokens: [], outcome: 'length' })
  expect(ranks.steps).toHaveLength(0)
})

test.each([
  ['plenty of room', {}],
  ['more sequences than slots', { maxSequences: 2 }],
  ['a cache so small that sequences start over', { blockCount: 20, maxBatchTokens: 8 }],
  ['one token a step', { maxBatchTokens: 1, maxSequences: 1 }],
  ['blocks of one token', { blockSize: 1, blockCount: 80 }]
] as [string, Setup][])('40 sequences that come, stop and are aborted at random, with %s, each as if alone', async (_, options) => {
  const { pool, ranks, engine } = setup(options)
  const random = new Random(4)
  const checks = Array.from({ length: 40 }, async (__, index) => {
    const ids = prompt(random, 1 + random.integer(40))
    const count = 1 + random.integer(38)
    const abortAt = index % 5 === 0 ? 1 + random.integer(count) : Infinity
    const stopAt = index % 3 === 0 ? 1 + random.integer(count) : Infinity
    await turns(random.integer(100))
    let abort = (): void => {}
    const { sequence, done } = generate(engine, ids, count, (___, made) => {
      if (made === abortAt) abort()
      return made === stopAt
    })
    abort = () => engine.abort(sequence)
    const { tokens, outcome } = await done
    const length = Math.min(count, abortAt, stopAt)
    expect(tokens).toEqual(alone(ids, length))
    expect(outcome).toBe(abortAt === length ? 'aborted' : stopAt === length ? 'stop' : 'length')
  })
  await Promise.all(checks)
  expect(pool.usedCount).toBe(0)
  expect(engine.sequenceCount).toBe(0)
  expect(ranks.mostInFlight).toBeLessThanOrEqual(2)
})

test('sequences that outgrow the cache start over, the oldest goes through', async () => {
  const { pool, ranks, engine } = setup({ blockCount: 12, blockSize: 4, maxSequences: 3 }) // 48 tokens for three sequences of up to 40
  const random = new Random(5)
  const prompts = Array.from({ length: 3 }, () => prompt(random, 10))
  const answers = await Promise.all(prompts.map((ids) => generate(engine, ids, 30).done))
  expect(answers.map(({ tokens }) => tokens)).toEqual(prompts.map((ids) => alone(ids, 30)))
  const computed = ranks.steps.reduce((sum, { tokens }) => sum + tokens.length, 0)
  expect(computed).toBeGreaterThan(3 * 39) // something was computed again
  expect(pool.usedCount).toBe(0)
})

test('work that waits for blocks goes on when they come back', async () => {
  const { pool, engine } = setup({ blockCount: 8, blockSize: 4 })
  const held = await pool.acquire(7)
  const ids = prompt(new Random(6), 10)
  const answer = generate(engine, ids, 5).done
  await turns(10)
  const waiting = pool.acquire(8)
  pool.give(held)
  pool.give(await waiting)
  expect((await answer).tokens).toEqual(alone(ids, 5))
})

test('abort takes effect at once, in flight or waiting', async () => {
  const { pool, engine } = setup({ maxSequences: 1 })
  let made = 0
  const running = generate(engine, [1, 2, 3], 100, (_, count) => {
    made = count
    return false
  })
  const waiting = generate(engine, [4, 5, 6], 100)
  await until(() => made > 5)
  engine.abort(waiting.sequence)
  expect(await waiting.done).toEqual({ tokens: [], outcome: 'aborted' })
  engine.abort(running.sequence)
  engine.abort(running.sequence)
  expect(pool.usedCount).toBe(0)
  expect((await running.done).outcome).toBe('aborted')
})

test('a step that fails ends every sequence with its error; later ones run', async () => {
  const { pool, ranks, engine } = setup()
  ranks.failAt = 4
  const outcomes = await Promise.all([generate(engine, [1], 30).done, generate(engine, [2], 30).done])
  expect(outcomes.map(({ outcome }) => outcome)).toEqual([
    expect.objectContaining({ code: 'device_failed' }),
    expect.objectContaining({ code: 'device_failed' })
  ])
  expect(pool.usedCount).toBe(0)
  ranks.failAt = Infinity
  expect((await generate(engine, [3], 5).done).tokens).toEqual(alone([3], 5))
})

test('close ends what runs, and nothing starts after it', async () => {
  const { pool, engine } = setup()
  const { done } = generate(engine, [1], 1000)
  engine.close(new HeddleError('closed', 'over'))
  expect((await done).outcome).toMatchObject({ code: 'closed' })
  expect(() => generate(engine, [1], 1)).toThrow(expect.objectContaining({ code: 'closed' }))
  expect(pool.usedCount).toBe(0)
})

describe('texts that begin alike', () => {
  const computed = (ranks: FakeRanks): number => ranks.steps.reduce((sum, { tokens }) => sum + tokens.length, 0)

  test('one after the other: what the first left is not computed again, but for the last token', async () => {
    const { ranks, engine } = setup()
    const ids = prompt(new Random(7), 12)
    expect((await generate(engine, ids, 1).done).tokens).toEqual(alone(ids, 1))
    expect(computed(ranks)).toBe(12)
    const second = generate(engine, ids, 1)
    expect((await second.done).tokens).toEqual(alone(ids, 1))
    expect(second.sequence.cachedCount).toBe(8)
    expect(computed(ranks)).toBe(12 + 4)
  })

  test('at once: the others wait a step for the one that computes it', async () => {
    const { ranks, engine } = setup({ maxBatchTokens: 64 })
    const ids = prompt(new Random(8), 13)
    const answers = await Promise.all([1, 2, 3].map(() => generate(engine, ids, 3).done))
    for (const { tokens } of answers) expect(tokens).toEqual(alone(ids, 3))
    expect(ranks.steps.slice(0, 2).map(({ tokens }) => tokens.length)).toEqual([13, 3]) // 1 of the first, 1 of each other
  })

  test('those that share little do not wait', async () => {
    const { ranks, engine } = setup({ maxBatchTokens: 64 })
    const random = new Random(9)
    const common = prompt(random, 4)
    const prompts = [0, 1, 2].map(() => [...common, ...prompt(random, 12)])
    const answers = await Promise.all(prompts.map((ids) => generate(engine, ids, 3).done))
    expect(answers.map(({ tokens }) => tokens)).toEqual(prompts.map((ids) => alone(ids, 3)))
    expect(ranks.steps[0]!.tokens).toHaveLength(48)
  })

  test('nobody waits for what was computed before and is not known any more', () => {
    const pool = new BlockPool(32, 4)
    const scheduler = new Scheduler({ pool, maxBatchTokens: 64, maxSequences: 4 })
    const random = new Random(13)
    const common = prompt(random, 4)
    const add = (promptIds: number[], count: number): Sequence =>
      scheduler.add({ promptIds, sampling: greedy, maxLength: promptIds.length + count, onToken: () => false, onFinish: () => {} })
    const [short, long] = [add([...common, ...prompt(random, 12)], 1), add([...common, ...prompt(random, 12)], 50)]
    const first = scheduler.next()!
    expect(first.parts).toHaveLength(2)
    scheduler.complete(first, { tokens: Int32Array.of(1, 2), outputs: {} })
    expect([short.finished, long.finished]).toEqual([true, false])
    pool.give(pool.take(pool.freeCount)!) // gives up what the short one left, among it the block that stood for the common beginning
    const later = add([...common, 5], 1)
    expect(scheduler.next()!.parts.map(({ sequence }) => sequence)).toEqual([long, later])
  })

  test('switched off nothing is reused', async () => {
    const { ranks, engine } = setup({ prefixReuse: false, maxBatchTokens: 64 })
    const ids = prompt(new Random(10), 12)
    await Promise.all([generate(engine, ids, 1).done, generate(engine, ids, 1).done])
    await generate(engine, ids, 1).done
    expect(computed(ranks)).toBe(36)
  })

  test('after a step that failed nothing is reused', async () => {
    const { ranks, engine } = setup()
    const ids = prompt(new Random(11), 12)
    ranks.failAt = 1
    await generate(engine, ids, 3).done
    ranks.failAt = Infinity
    const again = generate(engine, ids, 3)
    expect((await again.done).tokens).toEqual(alone(ids, 3))
    expect(again.sequence.cachedCount).toBe(0)
  })

  test.each([
    ['plenty of room', {}],
    ['a cache so small that blocks are given up', { blockCount: 14 }],
    ['one sequence at a time', { maxSequences: 1 }],
    ['blocks of one token', { blockSize: 1, blockCount: 70 }]
  ] as [string, Setup][])('60 sequences over few beginnings, stopped and aborted at random, with %s, each as if alone', async (_, options) => {
    const { pool, engine } = setup(options)
    const random = new Random(12)
    const stems = Array.from({ length: 4 }, () => prompt(random, 24))
    const checks = Array.from({ length: 60 }, async (__, index) => {
      const ids = [...stems[random.integer(4)]!.slice(0, 1 + random.integer(24)), ...prompt(random, random.integer(3))]
      const count = 1 + random.integer(20)
      const abortAt = index % 5 === 0 ? 1 + random.integer(count) : Infinity
      const stopAt = index % 3 === 0 ? 1 + random.integer(count) : Infinity
      await turns(random.integer(150))
      let abort = (): void => {}
      const { sequence, done } = generate(engine, ids, count, (___, made) => {
        if (made === abortAt) abort()
        return made === stopAt
      })
      abort = () => engine.abort(sequence)
      expect((await done).tokens).toEqual(alone(ids, Math.min(count, abortAt, stopAt)))
    })
    await Promise.all(checks)
    expect(pool.usedCount).toBe(0)
  })
})
