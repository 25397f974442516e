// A seed gives the same answer whatever carries it: any size, alone or among others, streamed or not, with or without what the cache kept.
import type { CausalLM } from '../../lib/causal-lm'
import type { BatchOptions } from '../../lib/generation/options'
import { goldenCases as cases, headCountOf } from '../support/golden-cases'
import { golden, withModel } from '../support/models'
import { Random } from '../support/random'

const options: BatchOptions[] = [
  { temperature: 1, seed: 1 },
  { temperature: 0.8, topK: 12, seed: 2 },
  { temperature: 1.3, topP: 0.9, minP: 0.01, seed: 3 },
  { temperature: 1, repetitionPenalty: 1.2, presencePenalty: 0.3, frequencyPenalty: 0.2, logitBias: { 7: 2 }, seed: 4 }
].map((one) => ({ ...one, maxNewTokens: 12, ignoreEos: true }))

/** Two that begin alike for more than a block of the cache, and a short one. */
function prompts(vocabSize: number): number[][] {
  const random = new Random(5)
  const ids = (count: number): number[] => Array.from({ length: count }, () => random.integer(vocabSize))
  const beginning = ids(20)
  return [[...beginning, ...ids(4)], [...beginning, ...ids(9)], ids(3)]
}

type Answers = number[][]

async function oneByOne(model: CausalLM, rows: number[][]): Promise<Answers> {
  const answers: Answers = []
  for (const each of options) for (const row of rows) answers.push((await model.generate(row, each)).tokenIds)
  return answers
}

async function inBatches(model: CausalLM, rows: number[][]): Promise<Answers> {
  const answers = await Promise.all(options.map((each) => model.generate(rows, each)))
  return answers.flatMap((batch) => batch.map(({ tokenIds }) => tokenIds))
}

async function streamed(model: CausalLM, rows: number[][]): Promise<Answers> {
  return Promise.all(options.flatMap((each) => rows.map(async (row) => {
    const tokens: number[] = []
    for await (const { tokenIds } of model.stream(row, each)) tokens.push(...tokenIds)
    return tokens
  })))
}

test.each(cases)('%s', async (name) => {
  const expected = await withModel(golden(name), { tpSize: 1, dtype: 'float32', prefixReuse: false }, (model) =>
    oneByOne(model, prompts(model.config.vocabSize)))
  expect(new Set(expected.map(String)).size).toBe(expected.length) // seeds and prompts differ
  for (let tpSize = 1; tpSize <= Math.min(8, headCountOf(name)); tpSize++) {
    await withModel(golden(name), { tpSize, dtype: 'float32', prefixReuse: tpSize % 2 === 1 }, async (model) => {
      const rows = prompts(model.config.vocabSize)
      expect([tpSize, await inBatches(model, rows)]).toEqual([tpSize, expected])
      expect([tpSize, await streamed(model, rows)]).toEqual([tpSize, expected])
    })
  }
})

test('two answers to a prompt: the first has the seed itself, and both are the same at another size and among others', async () => {
  const ask = (model: CausalLM) => model.generate([5, 9, 30], { ...options[0]!, n: 2 })
  const [expected, single] = await withModel(golden('llama'), { tpSize: 1, dtype: 'float32' }, async (model) =>
    [await ask(model), await model.generate([5, 9, 30], options[0])] as const)
  expect(expected[0]!.tokenIds).toEqual(single.tokenIds)
  expect(expected[1]!.tokenIds).not.toEqual(single.tokenIds)
  await withModel(golden('llama'), { tpSize: 3, dtype: 'float32' }, async (model) => {
    const all = await Promise.all([ask(model), model.generate([1, 2], options[1]), ask(model)])
    for (const index of [0, 2]) expect((all[index] as typeof expected).map(({ tokenIds }) => tokenIds)).toEqual(expected.map(({ tokenIds }) => tokenIds))
  })
})
