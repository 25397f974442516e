// Generation as a caller sees it: streaming, stopping, sampling, aborting, sharing the ranks with others.
import { getEventListeners } from 'node:events'
import { AutoModelForCausalLM } from '../../lib/causal-lm'
import type { CausalLM, Prompt } from '../../lib/causal-lm'
import type { Generation } from '../../lib/generation/generation'
import type { GenerateOptions } from '../../lib/generation/options'
import { golden, tinyChats, tinyModel, withModel } from '../support/models'
import type { Chat } from '../support/models'

const ask = (content: string) => [{ role: 'user', content }]
const story = ask('Tell me a story about a fox.')

let model: CausalLM
let chats: Chat[]
beforeAll(async () => {
  model = await AutoModelForCausalLM.fromPretrained(tinyModel, { tpSize: 2, dtype: 'float32' })
  chats = await tinyChats()
})
afterEach(() => expect(model.info().cacheTokensUsed).toBe(0))
afterAll(() => model.close())

/** What was said; how much of the prompt the cache held depends on what ran before. */
const said = ({ text, tokenIds, finishReason }: Generation) => ({ text, tokenIds, finishReason })

async function collect(prompt: Prompt, options?: GenerateOptions) {
  const pieces = []
  for await (const piece of model.stream(prompt, options)) pieces.push(piece)
  return { text: pieces.map(({ text }) => text).join(''), tokenIds: pieces.flatMap(({ tokenIds }) => tokenIds), count: pieces.length }
}

describe('stream', () => {
  test('its pieces joined are what generate gives, and come one by one', async () => {
    const whole = await model.generate(story)
    const { text, tokenIds, count } = await collect(story)
    expect({ text, tokenIds }).toEqual({ text: whole.text, tokenIds: whole.tokenIds })
    expect(whole.tokenIds.length).toBeGreaterThan(20)
    expect(count).toBeGreaterThan(whole.tokenIds.length / 4)
  })

  test('the whole is its return value', async () => {
    const pieces = model.stream(ask('What is 1 + 2?'))
    let next = await pieces.next()
    while (!next.done) next = await pieces.next()
    expect(said(next.value)).toEqual(said(await model.generate(ask('What is 1 + 2?'))))
  })

  test('leaving early frees the blocks', async () => {
    for await (const piece of model.stream(story)) {
      expect(piece.tokenIds.length).toBeGreaterThan(0)
      expect(model.info().cacheTokensUsed).toBeGreaterThan(0)
      break
    }
    expect(model.info().cacheTokensUsed).toBe(0)
  })

  test('a slow reader gets everything, joined', async () => {
    let text = ''
    for await (const piece of model.stream(story)) {
      text += piece.text
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    expect(text).toBe((await model.generate(story)).text)
  })
})

describe('what ends an answer', () => {
  test('the end token, which is in tokenIds and not in the text', async () => {
    const { text, tokenIds, finishReason } = await model.generate(ask('What is 387 + 456?'))
    expect({ text, last: tokenIds.at(-1), finishReason }).toEqual({ text: '387 + 456 = 843', last: 2047, finishReason: 'stop' })
  })

  test('maxNewTokens', async () => {
    const { tokenIds, finishReason, usage } = await model.generate(story, { maxNewTokens: 5 })
    expect(finishReason).toBe('length')
    expect(tokenIds).toEqual((await model.generate(story)).tokenIds.slice(0, 5))
    expect(usage.completionTokens).toBe(5)
  })

  test('the end of the context', async () => {
    const ids = new Array<number>(1000).fill(7)
    const { tokenIds, finishReason } = await model.generate(ids, { ignoreEos: true })
    expect({ count: tokenIds.length, finishReason }).toEqual({ count: 24, finishReason: 'length' })
    expect(await model.generate(new Array<number>(1024).fill(7))).toMatchObject({ tokenIds: [], text: '', finishReason: 'length' })
  })

  test('ignoreEos goes on after the end token', async () => {
    const { tokenIds, finishReason } = await model.generate(ask('What is 387 + 456?'), { ignoreEos: true, maxNewTokens: 30 })
    expect({ count: tokenIds.length, finishReason, end: tokenIds.indexOf(2047) }).toEqual({ count: 30, finishReason: 'length', end: 13 })
  })

  test('a stop text, wherever the tokens cut it; it is not part of the text', async () => {
    const whole = (await model.generate(ask('What is 387 + 456?'))).text
    const { text, finishReason, tokenIds } = await model.generate(ask('What is 387 + 456?'), { stop: ['nothing', '56 ='] })
    expect({ text, finishReason }).toEqual({ text: whole.slice(0, whole.indexOf('56 =')), finishReason: 'stop' })
    expect(tokenIds.length).toBeLessThan(13)
    expect(await collect(ask('What is 387 + 456?'), { stop: '56 =' })).toMatchObject({ text, tokenIds })
  })

  test('a stop token', async () => {
    const { tokenIds } = await model.generate(ask('What is 387 + 456?'))
    expect((await model.generate(ask('What is 387 + 456?'), { stopTokenIds: [tokenIds[4]!] })).tokenIds).toEqual(tokenIds.slice(0, 5))
  })
})

describe('prompts', () => {
  test('messages, their ids and the rendered text are the same prompt', async () => {
    const { messages, input_ids: ids, output_ids: expected } = chats[0]!
    const rendered = await model.tokenizer!.applyChatTemplate(messages)
    for (const prompt of [messages, ids, rendered]) expect((await model.generate(prompt)).tokenIds).toEqual(expected)
  })

  test('a long prompt, prefilled in chunks, equals the same tokens of forward', async () => {
    const ids = Array.from({ length: 700 }, (_, index) => (index * 37) % 2000)
    const { logits } = await model.forward([ids], { lastOnly: true })
    const best = logits.indexOf(Math.max(...logits))
    expect((await model.generate(ids, { maxNewTokens: 1 })).tokenIds).toEqual([best])
  })
})

describe('sampling', () => {
  const options = (seed: number): GenerateOptions => ({
    temperature: 1.2,
    topK: 40,
    topP: 0.95,
    minP: 0.02,
    seed,
    maxNewTokens: 24,
    ignoreEos: true
  })

  test('a seed gives the same answer again, another seed another one', async () => {
    const answers = await Promise.all([1, 1, 2, 3].map((seed) => model.generate(story, options(seed))))
    expect(said(answers[0]!)).toEqual(said(answers[1]!))
    expect(new Set(answers.map(({ text }) => text)).size).toBeGreaterThan(1)
  })

  test.each([1, 4, 8])('and the same answers at size %i', async (tpSize) => {
    const plain: GenerateOptions = { temperature: 0.9, maxNewTokens: 24, ignoreEos: true }
    const all = [options(5), { ...plain, seed: 6 }, { ...plain, topP: 0.8, seed: 7 }]
    const expected: object[] = []
    for (const each of all) expected.push(said(await model.generate(story, each)))
    await withModel(tinyModel, { tpSize, dtype: 'float32' }, async (other) => {
      for (const [index, each] of all.entries()) expect(said(await other.generate(story, each))).toEqual(expected[index])
    })
  })

  test('doSample draws, by itself at temperature 1, or not, whatever else is asked', async () => {
    const [greedy, drawn, one] = await Promise.all([
      model.generate(story, { maxNewTokens: 24 }),
      model.generate(story, { maxNewTokens: 24, doSample: true, seed: 3 }),
      model.generate(story, { maxNewTokens: 24, temperature: 1, seed: 3 })
    ])
    expect(drawn.tokenIds).not.toEqual(greedy.tokenIds)
    expect(drawn.tokenIds).toEqual(one.tokenIds)
    expect((await model.generate(story, { maxNewTokens: 24, doSample: false, temperature: 2, seed: 3 })).tokenIds).toEqual(greedy.tokenIds)
  })

  test('topK 1 is greedy at any temperature', async () => {
    expect((await model.generate(story, { temperature: 5, topK: 1 })).tokenIds).toEqual((await model.generate(story)).tokenIds)
  })

  test('without a seed answers differ', async () => {
    const answers = await Promise.all(Array.from({ length: 4 }, () => model.generate(story, { temperature: 2, maxNewTokens: 20 })))
    expect(new Set(answers.map(({ tokenIds }) => tokenIds.join())).size).toBeGreaterThan(1)
  })
})

describe('abort', () => {
  test('one signal for many answers has one listener, and none when they have ended', async () => {
    const warned = jest.spyOn(process, 'emitWarning').mockImplementation()
    try {
      const controller = new AbortController()
      const { signal } = controller
      const batch = model.generate(Array.from({ length: 12 }, () => story), { signal, ignoreEos: true })
      const others = Array.from({ length: 12 }, () => model.generate(story, { signal, maxNewTokens: 2 }))
      await Promise.all(others)
      expect(getEventListeners(signal, 'abort')).toHaveLength(1)
      controller.abort()
      expect((await batch).map(({ finishReason }) => finishReason)).toEqual(Array(12).fill('aborted'))
      expect(getEventListeners(signal, 'abort')).toHaveLength(0)
      expect(warned.mock.calls).toEqual([])
    } finally {
      warned.mockRestore()
    }
  })

  test('in the middle: resolves at once with what was made so far', async () => {
    const controller = new AbortController()
    const made: number[] = []
    const pieces = model.stream(story, { signal: controller.signal, ignoreEos: true })
    for await (const { tokenIds } of pieces) {
      made.push(...tokenIds)
      if (made.length >= 10) {
        controller.abort()
        expect(model.info().cacheTokensUsed).toBe(0) // at once, not when the steps in flight are back
      }
    }
    expect(made.length).toBeLessThan(20)
    expect(made).toEqual((await model.generate(story, { ignoreEos: true, maxNewTokens: 30 })).tokenIds.slice(0, made.length))
  })

  test('before it begins', async () => {
    expect(await model.generate(story, { signal: AbortSignal.abort() })).toMatchObject({ text: '', tokenIds: [], finishReason: 'aborted' })
    expect(await collect(story, { signal: AbortSignal.abort() })).toEqual({ text: '', tokenIds: [], count: 0 })
  })

  test('by a time limit', async () => {
    const { finishReason, tokenIds } = await model.generate(story, { signal: AbortSignal.timeout(20), ignoreEos: true })
    expect(finishReason).toBe('aborted')
    expect(tokenIds.length).toBeLessThan(1000)
  })

  test('of one leaves the others alone', async () => {
    const controller = new AbortController()
    const aborted = model.generate(story, { signal: controller.signal, ignoreEos: true })
    const others = Promise.all(chats.slice(0, 5).map(({ messages }) => model.generate(messages)))
    setTimeout(() => controller.abort(), 5)
    expect((await aborted).finishReason).toBe('aborted')
    expect((await others).map(({ tokenIds }) => tokenIds)).toEqual(chats.slice(0, 5).map(({ output_ids: ids }) => ids))
  })
})

describe('together', () => {
  test('40 chats at once, some sampled, give what they give one after the other', async () => {
    const options = (index: number): GenerateOptions => (index % 3 === 0 ? { temperature: 1, seed: index } : {})
    const together = await Promise.all(chats.map(({ messages }, index) => model.generate(messages, options(index))))
    for (const [index, { messages, output_ids: expected }] of chats.entries()) {
      expect(said(together[index]!)).toEqual(said(await model.generate(messages, options(index))))
      if (index % 3 !== 0) expect(together[index]!.tokenIds).toEqual(expected)
    }
  })

  test('a cache too small for all of them: some wait, some start over, all are right', async () => {
    await withModel(tinyModel, { tpSize: 2, dtype: 'float32', maxTokens: 160 }, async (small) => {
      expect(small.info()).toMatchObject({ cacheTokens: 160, contextLength: 160 })
      const fitting = chats.filter(({ input_ids: input, output_ids: output }) => input.length + output.length < 160)
      expect(fitting.length).toBeGreaterThan(20)
      const answers = await Promise.all(fitting.map(({ messages }) => small.generate(messages)))
      expect(answers.map(({ tokenIds }) => tokenIds)).toEqual(fitting.map(({ output_ids: ids }) => ids))
      expect(small.info().cacheTokensUsed).toBe(0)
    })
  })

  test('forward amid generations', async () => {
    const alone = await model.forward([chats[3]!.input_ids])
    const answers = Promise.all(chats.slice(0, 8).map(({ messages }) => model.generate(messages)))
    const amid = await model.forward([chats[3]!.input_ids])
    const differences = amid.logits.map((value, index) => Math.abs(value - alone.logits[index]!))
    expect(Math.max(...differences)).toBeLessThan(1e-4)
    expect((await answers).map(({ tokenIds }) => tokenIds)).toEqual(chats.slice(0, 8).map(({ output_ids: ids }) => ids))
  })

  test('two models in one process, of different families and sizes', async () => {
    await withModel(golden('llama'), { tpSize: 4 }, async (llama) => {
      const prompt = [1, 5, 9]
      const expected = await llama.generate(prompt, { maxNewTokens: 40, ignoreEos: true })
      const [answers, ids] = await Promise.all([
        Promise.all(chats.slice(0, 6).map(({ messages }) => model.generate(messages))),
        llama.generate(prompt, { maxNewTokens: 40, ignoreEos: true })
      ])
      expect(answers.map(({ tokenIds }) => tokenIds)).toEqual(chats.slice(0, 6).map(({ output_ids: ids }) => ids))
      expect(said(ids)).toEqual(said(expected))
    })
  })

  test('the event loop goes on while the ranks work', async () => {
    let turns = 0
    let working = true
    const turn = (): void => {
      turns++
      if (working) setImmediate(turn)
    }
    setImmediate(turn)
    await model.generate(new Array<number>(1000).fill(7), { maxNewTokens: 1, ignoreEos: true })
    working = false
    expect(turns).toBeGreaterThan(100) // thousands; a loop that waits for the ranks sees a few for each of the two steps
  })
})

test('float16 weights answer, too', async () => {
  await withModel(tinyModel, { tpSize: 2, dtype: 'float16' }, async (half) => {
    expect(half.info().dtype).toBe('float16')
    expect((await half.generate(ask('What is 387 + 456?'))).text).toBe('387 + 456 = 843')
  })
})

test('close in the middle of a generation ends it with closed', async () => {
  const other = await AutoModelForCausalLM.fromPretrained(golden('qwen3'), { tpSize: 2 })
  const answer = other.generate([1, 2, 3], { ignoreEos: true })
  const forward = other.forward([new Array<number>(500).fill(1)])
  const outcomes = Promise.allSettled([answer, forward])
  await new Promise((resolve) => setTimeout(resolve, 5))
  await other.close()
  for (const outcome of await outcomes) if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'closed' })
  expect((await outcomes)[0]).toMatchObject({ status: 'rejected' })
})

test('await using closes', async () => {
  let escaped: CausalLM
  {
    await using scoped = await AutoModelForCausalLM.fromPretrained(golden('qwen3'))
    escaped = scoped
    expect((await scoped.generate([1], { maxNewTokens: 2, ignoreEos: true })).tokenIds).toHaveLength(2)
  }
  await expect(escaped.generate([1])).rejects.toMatchObject({ code: 'closed' })
})
