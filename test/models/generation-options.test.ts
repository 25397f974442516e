// The options that change or tell what is sampled, each against a plain loop over forward() that is written from the formulas. Every
// expected answer differs from the one without the option, so none can be ignored.
import { writeFile } from 'node:fs/promises'
import { AutoModelForCausalLM } from '../../lib/causal-lm'
import type { CausalLM } from '../../lib/causal-lm'
import type { GenerateOptions } from '../../lib/generation/options'
import expectedOfConfigs from '../golden/generation-config.json'
import { editJson, golden, tinyModel, withCopy, withModel } from '../support/models'

const ids = [5, 17, 300, 42, 17, 9, 1200, 5]
const length = 24
const eos = 2047

let model: CausalLM
beforeAll(async () => {
  model = await AutoModelForCausalLM.fromPretrained(tinyModel, { tpSize: 2, dtype: 'float32' })
})
afterEach(() => expect(model.info().cacheTokensUsed).toBe(0))
afterAll(() => model.close())

interface Plain {
  repetition?: number
  presence?: number
  frequency?: number
  bias?: Record<number, number>
  /** ids that cannot come while the answer is shorter */
  banned?: number[]
  minimum?: number
}

function edited(logits: Float32Array, prompt: readonly number[], answer: readonly number[], plain: Plain): number[] {
  const { repetition = 1, presence = 0, frequency = 0, bias = {}, banned = [], minimum = 0 } = plain
  return Array.from(logits, (logit, id) => {
    if (answer.length < minimum && banned.includes(id)) return -Infinity
    let x = logit + (bias[id] ?? 0)
    const count = answer.filter((token) => token === id).length
    if (count > 0 || prompt.includes(id)) x = x > 0 ? x / repetition : x * repetition
    return count > 0 ? x - presence - frequency * count : x
  })
}

async function plainly(plain: Plain, count = length): Promise<number[]> {
  const answer: number[] = []
  while (answer.length < count) {
    const { logits } = await model.forward([[...ids, ...answer]], { lastOnly: true })
    const row = edited(logits, ids, answer, plain)
    answer.push(row.indexOf(row.reduce((a, b) => Math.max(a, b))))
  }
  return answer
}

const generated = async (options: GenerateOptions): Promise<number[]> =>
  (await model.generate(ids, { maxNewTokens: length, ignoreEos: true, ...options })).tokenIds

const cases: [string, GenerateOptions, Plain][] = [
  ['repetitionPenalty', { repetitionPenalty: 1.5 }, { repetition: 1.5 }],
  ['repetitionPenalty below 1', { repetitionPenalty: 0.5 }, { repetition: 0.5 }],
  ['presencePenalty', { presencePenalty: 1.5 }, { presence: 1.5 }],
  ['frequencyPenalty', { frequencyPenalty: 0.7 }, { frequency: 0.7 }],
  ['logitBias', { logitBias: { 77: 9, 12: 8 } }, { bias: { 77: 9, 12: 8 } }],
  ['logitBias that rules out', { logitBias: new Map([[940, -Infinity], [507, -100]]) }, { bias: { 940: -Infinity, 507: -100 } }],
  [
    'all of them',
    { repetitionPenalty: 1.2, presencePenalty: 0.4, frequencyPenalty: 0.3, logitBias: { 77: 6, 42: -2 } },
    { repetition: 1.2, presence: 0.4, frequency: 0.3, bias: { 77: 6, 42: -2 } }
  ]
]

describe('against plain formulas', () => {
  test.each(cases)('%s', async (_, options, plain) => {
    const expected = await plainly(plain)
    expect(await generated(options)).toEqual(expected)
    expect(expected).not.toEqual(await generated({}))
  })

  test('minNewTokens keeps end tokens away, and only so long', async () => {
    const towardsEnd = { logitBias: { [eos]: 30 } }
    expect(await generated({ ...towardsEnd, ignoreEos: false })).toEqual([eos])
    const answer = await generated({ ...towardsEnd, ignoreEos: false, minNewTokens: 6 })
    expect(answer).toEqual([...(await plainly({ banned: [eos], minimum: 6 }, 6)), eos])
    expect(await generated({ ...towardsEnd, minNewTokens: 3, stopTokenIds: [eos] })).toHaveLength(4)
  })

  test('minNewTokens keeps stop texts from ending the answer, too', async () => {
    const { text, tokenIds } = await model.generate('Once', { maxNewTokens: 20, ignoreEos: true })
    const stop = text.slice(0, 1)
    const short = await model.generate('Once', { maxNewTokens: 20, ignoreEos: true, stop })
    expect(short).toMatchObject({ text: '', finishReason: 'stop' })
    const longer = await model.generate('Once', { maxNewTokens: 20, ignoreEos: true, stop, minNewTokens: 5 })
    expect(longer.tokenIds.length).toBeGreaterThan(5)
    expect(longer.tokenIds).toEqual(tokenIds.slice(0, longer.tokenIds.length))
    expect(text.startsWith(longer.text) && longer.text.length > 0).toBe(true)
  })
})

describe('at every size, streamed, and in company', () => {
  const all: GenerateOptions = { repetitionPenalty: 1.3, presencePenalty: 0.5, frequencyPenalty: 0.2, logitBias: { 77: 5 }, logprobs: 3, minNewTokens: 4 }
  const sampled: GenerateOptions = { ...all, temperature: 1.1, topP: 0.95, seed: 11, maxNewTokens: length }
  const greedy: GenerateOptions = { ...all, maxNewTokens: length }

  test.each([1, 4])('size %i', async (tpSize) => {
    await withModel(tinyModel, { tpSize, dtype: 'float32' }, async (other) => {
      for (const options of [sampled, greedy]) {
        const [mine, others] = [await model.generate(ids, options), await other.generate(ids, options)]
        expect(others.tokenIds).toEqual(mine.tokenIds)
        others.logprobs!.forEach(({ id, logprob, top }, index) => {
          expect({ id, top: top.map((token) => token.id) }).toEqual({ id: mine.logprobs![index]!.id, top: mine.logprobs![index]!.top.map((token) => token.id) })
          expect(Math.abs(logprob - mine.logprobs![index]!.logprob)).toBeLessThan(1e-4)
        })
      }
    })
  })

  test('stream and batch mates', async () => {
    for (const options of [sampled, greedy]) {
      const alone = await model.generate(ids, options)
      const tokenIds: number[] = []
      const logprobs: number[] = []
      for await (const piece of model.stream(ids, options)) {
        tokenIds.push(...piece.tokenIds)
        logprobs.push(...piece.logprobs!.map(({ id }) => id))
      }
      expect(tokenIds).toEqual(alone.tokenIds)
      expect(logprobs).toEqual(alone.tokenIds)
      const together = await Promise.all([
        model.generate(ids, options),
        model.generate([1, 2, 3], { maxNewTokens: 30, ignoreEos: true }),
        model.generate(ids, { ...options, repetitionPenalty: 2 }),
        model.generate(ids, options)
      ])
      expect([together[0]!.tokenIds, together[3]!.tokenIds]).toEqual([alone.tokenIds, alone.tokenIds])
    }
  })

  test('a cache so small that sequences start over', async () => {
    await withModel(tinyModel, { tpSize: 2, dtype: 'float32', maxTokens: 96 }, async (small) => {
      const expected = await model.generate(ids, { ...sampled, maxNewTokens: 60, ignoreEos: true })
      const answers = await Promise.all(Array.from({ length: 4 }, () => small.generate(ids, { ...sampled, maxNewTokens: 60, ignoreEos: true })))
      for (const { tokenIds } of answers) expect(tokenIds).toEqual(expected.tokenIds)
    })
  })
})

describe('logprobs', () => {
  /** log-softmax of forward()'s logits in double precision, per position */
  async function expectedLogprobs(tokens: readonly number[]): Promise<number[][]> {
    const { logits, shape: [, rows, vocab] } = await model.forward([[...tokens]])
    return Array.from({ length: rows }, (_, row) => {
      const values = Array.from(logits.subarray(row * vocab, (row + 1) * vocab))
      const total = Math.log(values.reduce((sum, x) => sum + Math.exp(x), 0))
      return values.map((x) => x - total)
    })
  }

  test.each<[string, GenerateOptions]>([
    ['greedy', {}],
    ['sampled, with penalties that do not show', { temperature: 1.5, seed: 3, presencePenalty: 2, logitBias: { 9: 3 } }]
  ])('are those of a softmax of the raw logits: %s', async (_, options) => {
    const { tokenIds, logprobs } = await model.generate(ids, { ...options, maxNewTokens: length, ignoreEos: true, logprobs: 5 })
    const rows = await expectedLogprobs([...ids, ...tokenIds])
    expect(logprobs).toHaveLength(length)
    logprobs!.forEach(({ id, logprob, top }, index) => {
      const row = rows[ids.length - 1 + index]!
      expect(id).toBe(tokenIds[index])
      expect(Math.abs(logprob - row[id]!)).toBeLessThan(1e-4)
      const best = [...row.keys()].sort((a, b) => row[b]! - row[a]!).slice(0, 5)
      expect(top.map((token) => token.id)).toEqual(best)
      for (const token of top) expect(Math.abs(token.logprob - row[token.id]!)).toBeLessThan(1e-4)
    })
  })

  test('none unless asked for, and 0 tells the chosen ones alone', async () => {
    expect(await model.generate(ids, { maxNewTokens: 2 })).not.toHaveProperty('logprobs')
    const { logprobs } = await model.generate(ids, { maxNewTokens: 3, ignoreEos: true, logprobs: 0 })
    expect(logprobs!.map(({ top }) => top)).toEqual([[], [], []])
  })

  test('a vocabulary smaller than the list', async () => {
    await withModel(golden('qwen3'), { tpSize: 2 }, async (small) => {
      const { logprobs } = await small.generate([1, 2, 3], { maxNewTokens: 2, ignoreEos: true, logprobs: 20 })
      for (const { top } of logprobs!) expect(new Set(top.map(({ id }) => id)).size).toBe(20)
    })
  })

  test('echo begins with the prompt and tells its tokens, too', async () => {
    const plain = await model.generate(ids, { maxNewTokens: 5, ignoreEos: true })
    const echoed = await model.generate(ids, { maxNewTokens: 5, ignoreEos: true, echo: true, logprobs: 2 })
    expect(echoed.tokenIds).toEqual([...ids, ...plain.tokenIds])
    expect(echoed.text).toBe(model.tokenizer!.decode(ids) + plain.text)
    expect(echoed.usage.completionTokens).toBe(5)
    expect(echoed.logprobs).toHaveLength(5)
    const rows = await expectedLogprobs(ids)
    expect(echoed.promptLogprobs!.map(({ id }) => id)).toEqual(ids.slice(1))
    echoed.promptLogprobs!.forEach(({ id, logprob, top }, index) => {
      expect(Math.abs(logprob - rows[index]![id]!)).toBeLessThan(1e-4)
      expect(top[0]!.logprob).toBeGreaterThanOrEqual(logprob)
      expect(top).toHaveLength(2)
    })
  })

  test('echo of a text is that text, also in a stream', async () => {
    const { text } = await model.generate('Once upon', { maxNewTokens: 4 })
    expect((await model.generate('Once upon', { maxNewTokens: 4, echo: true })).text).toBe(`Once upon${text}`)
    const pieces = []
    for await (const piece of model.stream('Once upon', { maxNewTokens: 4, echo: true })) pieces.push(piece.text)
    expect(pieces[0]!.startsWith('Once upon')).toBe(true)
    expect(pieces.join('')).toBe(`Once upon${text}`)
    const aborted = await model.generate('Once upon', { echo: true, signal: AbortSignal.abort() })
    expect(aborted).toMatchObject({ text: 'Once upon', finishReason: 'aborted', usage: { completionTokens: 0 } })
  })
})

test.each([1, 2, 3])('noRepeatNgramSize %i: no run comes twice, alone or among others that start over for want of room', async (size) => {
  const options = { maxNewTokens: 60, ignoreEos: true, noRepeatNgramSize: size, temperature: 0.7, seed: 5 }
  const alone = await model.generate(ids, options)
  const all = [...ids, ...alone.tokenIds]
  const runs = (list: number[]) => list.slice(size - 1).map((_, index) => list.slice(index, index + size).join())
  const fresh = runs(all).slice(ids.length - size + 1)
  expect(new Set(fresh).size).toBe(fresh.length)
  expect(fresh.filter((run) => runs(ids).includes(run))).toEqual([])
  expect((await model.generate(ids, { ...options, noRepeatNgramSize: 0 })).tokenIds).not.toEqual(alone.tokenIds)
  await withModel(tinyModel, { tpSize: 2, dtype: 'float32', maxTokens: 128 }, async (small) => {
    const others = Array.from({ length: 5 }, () => small.generate(ids, { maxNewTokens: 100, ignoreEos: true }))
    const crowded = await Promise.all([small.generate(ids, options), small.generate(ids, options)])
    expect(crowded.map(({ tokenIds }) => tokenIds)).toEqual([alone.tokenIds, alone.tokenIds])
    await Promise.all(others)
  })
})

test.each([-1, 1.5, '2', NaN])('a noRepeatNgramSize of %p is refused', async (noRepeatNgramSize) => {
  await expect(model.generate(ids, { noRepeatNgramSize } as object)).rejects.toMatchObject({ code: 'invalid_argument', message: expect.stringContaining('noRepeatNgramSize') })
})

test('generation_config.json gives the defaults, and an option wins', async () => {
  const suggest = (copy: string) =>
    editJson(`${copy}/generation_config.json`, (json) =>
      Object.assign(json, { repetition_penalty: 1.5, max_new_tokens: 7, min_new_tokens: 2, stop_strings: ['zq', 'qz'] }))
  await withCopy(tinyModel, suggest, (copy) =>
    withModel(copy, { tpSize: 2, dtype: 'float32' }, async (other) => {
      const options = { ignoreEos: true }
      const suggested = await other.generate(ids, options)
      expect(suggested.tokenIds).toEqual((await plainly({ repetition: 1.5 })).slice(0, 7))
      const decided = await other.generate(ids, { ...options, repetitionPenalty: 1, maxNewTokens: 9 })
      expect(decided.tokenIds).toEqual((await generated({})).slice(0, 9))
      expect((await other.generate(ids, { stopTokenIds: [suggested.tokenIds[0]!] })).tokenIds.length).toBeGreaterThan(2)
      const letter = (await other.generate('Once', { ...options, minNewTokens: 0 })).text.slice(0, 1)
      expect(await other.generate('Once', { ...options, minNewTokens: 0, stop: letter })).toMatchObject({ text: '', finishReason: 'stop' })
    })
  )
})

describe('generation_config.json, against transformers', () => {
  const { prompt, limit, plain: unchanged, cases } = expectedOfConfigs
  const asked = async (fields: object, options: GenerateOptions = {}, tpSize = 2) => {
    const write = (copy: string) => writeFile(`${copy}/generation_config.json`, JSON.stringify({ eos_token_id: 2, ...fields }))
    const isLimited = 'max_length' in fields || 'max_new_tokens' in fields
    return withCopy(golden('qwen3'), write, (copy) =>
      withModel(copy, { tpSize, dtype: 'float32' }, async (other) =>
        (await other.generate(prompt, { ...(!isLimited && { maxNewTokens: limit }), ...options })).tokenIds))
  }

  test('without a word', async () => expect(await asked({})).toEqual(unchanged))

  test.each(cases.map(({ name, fields, tokens }) => [name, fields, tokens] as const))('%s', async (_, fields, tokens) => {
    expect(await asked(fields)).toEqual(tokens)
  })

  test('the caller decides over a token that is suppressed, and over the end', async () => {
    const first = unchanged[0]!
    const suppressed = { suppress_tokens: [first] }
    expect((await asked(suppressed, { maxNewTokens: 1 }))[0]).not.toBe(first)
    expect(await asked(suppressed, { maxNewTokens: 1, logitBias: { [first]: 0 } })).toEqual([first])
    expect(await asked({ forced_eos_token_id: 2 }, { maxNewTokens: 5, ignoreEos: true })).toEqual(unchanged.slice(0, 5))
  })

  test('what is not honoured is a warning by name, once for a model', async () => {
    const warned = jest.spyOn(process, 'emitWarning').mockImplementation()
    try {
      expect(await asked({ num_beams: 4, typical_p: 0.9, top_k: 5 })).toEqual(unchanged)
      expect(warned.mock.calls).toEqual([
        [expect.stringMatching(/generation_config\.json asks for .* may change the text: num_beams, typical_p$/), { type: 'HeddleWarning', code: 'HEDDLE_GENERATION_CONFIG' }]
      ])
    } finally {
      warned.mockRestore()
    }
  })
})
