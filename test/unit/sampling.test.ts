// Options of a generation: what is drawn how, what ends the answer, and which values are refused by name.
import { answerLimits, checkGenerateOptions } from '../../lib/generation/options'
import type { GenerateOptions } from '../../lib/generation/options'
import { biasOf, isGreedy, samplingSpec, seedOf, suggestedBias } from '../../lib/generation/sampling'
import type { SamplingOptions } from '../../lib/generation/sampling'
import type { GenerationConfig } from '../../lib/models/generation-config'

const plain: GenerationConfig = { eosTokenIds: [], doSample: false }
const suggested: GenerationConfig = { eosTokenIds: [], doSample: true, temperature: 0.6, topK: 20, topP: 0.95 }
const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0 }

test('greedy without options and suggestions, with doSample false, and at temperature 0', () => {
  expect(samplingSpec({}, plain)).toEqual(greedy)
  expect(samplingSpec({ seed: 5 }, plain)).toEqual(greedy)
  expect(samplingSpec({ doSample: false, temperature: 2 }, suggested)).toEqual(greedy)
  expect(samplingSpec({ temperature: 0 }, suggested)).toEqual(greedy)
  expect(samplingSpec({ temperature: 1e-9 }, plain)).toEqual(greedy)
})

test('the model suggests, the caller decides', () => {
  expect(samplingSpec({ seed: 1 }, suggested)).toEqual({ temperature: 0.6, topK: 20, topP: 0.95, minP: 0, seed: 1 })
  expect(samplingSpec({ seed: 1, topK: 0, topP: 1, temperature: 2, minP: 0.1 }, suggested)).toEqual({
    temperature: 2,
    topK: 0,
    topP: 1,
    minP: 0.1,
    seed: 1
  })
})

test.each<SamplingOptions>([{ temperature: 0.7 }, { topK: 5 }, { topP: 0.5 }, { minP: 0.2 }, { doSample: true }])(
  '%j asks to sample',
  (options) => {
    expect(samplingSpec(options, plain).temperature).toBe(options.temperature ?? 1)
  }
)

test('a seed is drawn when there is none', () => {
  const seeds = new Set(Array.from({ length: 20 }, () => samplingSpec({ temperature: 1 }, plain).seed))
  expect(seeds.size).toBe(20)
  for (const seed of seeds) expect(Number.isSafeInteger(seed) && seed >= 0).toBe(true)
})

test.each<[string, unknown[]]>([
  ['temperature', [NaN, -1, Infinity, 1001, '1', null]],
  ['topK', [-1, 1.5, NaN, 2 ** 31, '5']],
  ['topP', [0, -0.1, 1.1, NaN, '0.5']],
  ['minP', [-0.1, 1.1, NaN]],
  ['repetitionPenalty', [0, -1, NaN, 101, '1']],
  ['presencePenalty', [-2.1, 2.1, NaN, '1', null]],
  ['frequencyPenalty', [-2.1, 2.1, NaN, '1', null]],
  ['logitBias', [5, 'x', null, [1], { x: 1 }, { '-1': 1 }, { 1.5: 1 }, { 5: NaN }, { 5: Infinity }, { 5: '1' }, { 5: undefined }, new Map([['a', 1]])]],
  ['seed', [-1, 1.5, NaN, 2 ** 53, '1']],
  ['doSample', [1, 'yes', null]]
])('%s is refused where it makes no sense', (name, values) => {
  for (const value of values) {
    expect(() => samplingSpec({ [name]: value }, plain)).toThrow(
      expect.objectContaining({ code: 'invalid_argument', message: expect.stringContaining(`generate: ${name}`) })
    )
  }
})

test.each<[string, unknown[]]>([
  ['maxNewTokens', [0, -1, 1.5, NaN, '5', null]],
  ['stop', ['', [''], [1], 5]],
  ['stopTokenIds', [5, ['x'], [1.5]]],
  ['minNewTokens', [-1, 1.5, NaN, '5', null]],
  ['n', [0, -1, 1.5, 1025, '2', null]],
  ['logprobs', [-1, 21, 1.5, true, null]],
  ['echo', [1, 'yes', null]],
  ['ignoreEos', [1, null]],
  ['signal', [{}, 'x', null, new AbortController()]]
])('%s is refused where it makes no sense', (name, values) => {
  for (const value of values) {
    expect(() => checkGenerateOptions({ [name]: value })).toThrow(
      expect.objectContaining({ code: 'invalid_argument', message: expect.stringContaining(name) })
    )
  }
})

test('a misspelled option is refused', () => {
  expect(() => checkGenerateOptions({ max_new_tokens: 5 } as object)).toThrow(
    expect.objectContaining({ code: 'invalid_argument', message: expect.stringContaining('max_new_tokens') })
  )
})

const context = (contextLength: number, ...eosTokenIds: number[]) => ({ contextLength, eosTokenIds, defaults: plain })

const nothing = { minNewTokens: 0, stopTexts: [], beginBannedIds: [], forcedIds: [] }

test('limits: the context, maxNewTokens, end tokens', () => {
  expect(answerLimits({}, 10, context(512, 2))).toEqual({ ...nothing, maxLength: 512, stopIds: new Set([2]) })
  expect(answerLimits({ maxNewTokens: 5, stopTokenIds: [7], stop: 'x' }, 10, context(512, 2))).toEqual({
    ...nothing,
    maxLength: 15,
    stopIds: new Set([2, 7]),
    stopTexts: ['x']
  })
  expect(answerLimits({ maxNewTokens: 50, ignoreEos: true, stop: ['x', 'y'] }, 500, context(512, 2))).toEqual({
    ...nothing,
    maxLength: 512,
    stopIds: new Set(),
    stopTexts: ['x', 'y']
  })
  expect(answerLimits({}, 512, context(512)).maxLength).toBe(512)
  expect(() => answerLimits({}, 513, context(512))).toThrow(
    expect.objectContaining({ code: 'invalid_argument', message: expect.stringMatching(/at most 512.*513/) })
  )
})

test('limits that generation_config.json suggests, and options that win', () => {
  const defaults = { ...plain, maxNewTokens: 20, minNewTokens: 4, stopTexts: ['a', 'b'] }
  const suggestion = { contextLength: 512, eosTokenIds: [2], defaults }
  expect(answerLimits({}, 10, suggestion)).toMatchObject({ maxLength: 30, minNewTokens: 4, stopTexts: ['a', 'b'] })
  expect(answerLimits({ maxNewTokens: 50, minNewTokens: 0, stop: 'c' }, 10, suggestion)).toMatchObject({
    maxLength: 60,
    minNewTokens: 0,
    stopTexts: ['c']
  })
  expect(answerLimits({ minNewTokens: 25 }, 10, suggestion).maxLength).toBe(35)
  expect(() => checkGenerateOptions({ minNewTokens: 6, maxNewTokens: 5 })).toThrow(/minNewTokens: expected an integer from 0 to 5, got 6/)
})

test('lengths of prompt and answer together that generation_config.json suggests', () => {
  const limits = (options: GenerateOptions, promptLength: number, more: Partial<GenerationConfig>) =>
    answerLimits(options, promptLength, { contextLength: 512, eosTokenIds: [2], defaults: { ...plain, ...more } })
  expect(limits({}, 10, { maxLength: 40, minLength: 14 })).toMatchObject({ maxLength: 40, minNewTokens: 4 })
  expect(limits({}, 10, { maxLength: 40, maxNewTokens: 50, minLength: 14, minNewTokens: 3 })).toMatchObject({ maxLength: 60, minNewTokens: 3 })
  expect(limits({ maxNewTokens: 50, minNewTokens: 2 }, 10, { maxLength: 40, minLength: 14 })).toMatchObject({ maxLength: 60, minNewTokens: 2 })
  expect(limits({}, 39, { maxLength: 40, minLength: 14 })).toMatchObject({ maxLength: 40, minNewTokens: 0 })
  expect(limits({}, 10, { maxLength: 4000 })).toMatchObject({ maxLength: 512 })
  expect(limits({ maxNewTokens: 3 }, 40, { maxLength: 40 })).toMatchObject({ maxLength: 43 })
  expect(() => limits({}, 40, { maxLength: 40 })).toThrow(
    expect.objectContaining({ code: 'invalid_argument', message: expect.stringMatching(/less than 40 tokens, max_length .* or maxNewTokens, got a prompt of 40/) }))
})

test('penalties apply to greedy choices, too, and only those that are on are told', () => {
  expect(samplingSpec({ repetitionPenalty: 1.2, presencePenalty: 0, frequencyPenalty: 1 }, plain)).toEqual({
    ...greedy,
    repetitionPenalty: 1.2,
    frequencyPenalty: 1
  })
  expect(samplingSpec({}, { ...plain, repetitionPenalty: 1.1 })).toEqual({ ...greedy, repetitionPenalty: 1.1 })
  expect(samplingSpec({ repetitionPenalty: 1 }, { ...plain, repetitionPenalty: 1.1 })).toEqual(greedy)
  expect(isGreedy(greedy)).toBe(true)
  for (const other of [{ temperature: 1 }, { presencePenalty: 1 }, { logprobs: 0 }]) expect(isGreedy({ ...greedy, ...other })).toBe(false)
})

test('biases are for ids of the vocabulary, and the caller decides over each id that is named', () => {
  const none = new Map<number, number>()
  expect(biasOf({ 5: 1, 7: -Infinity }, 10, none)).toEqual(new Map([[5, 1], [7, -Infinity]]))
  expect(biasOf(new Map([[9, 2]]), 10, none)).toEqual(new Map([[9, 2]]))
  expect(biasOf({ 9: 0 }, 10, new Map([[9, -Infinity], [3, 1]]))).toEqual(new Map([[9, 0], [3, 1]]))
  expect(() => biasOf({ 10: 1 }, 10, none)).toThrow(expect.objectContaining({ code: 'invalid_argument' }))
})

test('suggested biases: what is suppressed stays so, a bad word may end the answer', () => {
  const config = { ...plain, tokenBias: new Map([[5, 2], [6, 1]]), suppressedIds: [6, 7], badIds: [8, 2] }
  expect(suggestedBias(config, [2])).toEqual(new Map([[5, 2], [6, -Infinity], [7, -Infinity], [8, -Infinity]]))
})

test('seeds of several answers: the first is the seed itself, all differ and are safe integers', () => {
  const seeds = Array.from({ length: 1000 }, (_, index) => seedOf(5, index))
  expect(seeds[0]).toBe(5)
  expect(new Set(seeds).size).toBe(1000)
  expect(seeds.every((seed) => Number.isSafeInteger(seed) && seed >= 0)).toBe(true)
  expect(seedOf(0, 1)).toBe(Number(0xe220a8397b1dcdafn >> 11n)) // splitmix64's first output from state 0
})
