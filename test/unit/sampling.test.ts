// Options of a generation: what is drawn how, what ends the answer, and which values are refused by name.
import { answerLimits, checkGenerateOptions } from '../../lib/generation/options'
import { samplingSpec } from '../../lib/generation/sampling'
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

test('limits: the context, maxNewTokens, end tokens', () => {
  expect(answerLimits({}, 10, context(512, 2))).toEqual({ maxLength: 512, minNewTokens: 0, stopIds: new Set([2]), stopTexts: [] })
  expect(answerLimits({ maxNewTokens: 5, stopTokenIds: [7], stop: 'x' }, 10, context(512, 2))).toEqual({
    maxLength: 15,
    minNewTokens: 0,
    stopIds: new Set([2, 7]),
    stopTexts: ['x']
  })
  expect(answerLimits({ maxNewTokens: 50, ignoreEos: true, stop: ['x', 'y'] }, 500, context(512, 2))).toEqual({
    maxLength: 512,
    minNewTokens: 0,
    stopIds: new Set(),
    stopTexts: ['x', 'y']
  })
  expect(answerLimits({}, 512, context(512)).maxLength).toBe(512)
  expect(() => answerLimits({}, 513, context(512))).toThrow(
    expect.objectContaining({ code: 'invalid_argument', message: expect.stringMatching(/at most 512.*513/) })
  )
})
