// The reference cases: logits and greedy tokens of `transformers`, at every size from 1 to 8 that the head count allows.
import path from 'node:path'
import { AutoModelForCausalLM } from '../../lib/causal-lm'
import type { CausalLM } from '../../lib/causal-lm'
import { goldenCases as cases, goldenTolerance as tolerance, headCountOf, largestDifference, positionsOf, readExpected } from '../support/golden-cases'
import { editJson, golden, withCopy, withModel } from '../support/models'
import { readSafetensors, writeSafetensors } from '../support/safetensors-file'

const sizesOf = (name: string): number[] => [1, 2, 3, 4, 5, 6, 7, 8].filter((size) => size <= headCountOf(name))
const runs = cases.flatMap((name) => sizesOf(name).map((size) => ({ name, size, expertParallel: false })))
/** Whole experts on each rank: more of them on some than on others at sizes that do not divide, none on some where ranks are more. */
const expertRuns = [
  { name: 'mixtral', size: 3 },
  { name: 'mixtral', size: 4 },
  { name: 'mixtral', size: 7 },
  { name: 'mixtral-fused', size: 2 },
  { name: 'qwen3-moe', size: 5 },
  { name: 'qwen3-moe', size: 8 },
  { name: 'qwen3-moe-mixed', size: 2 },
  { name: 'qwen3-moe-probabilities', size: 4 }
].map((run) => ({ ...run, expertParallel: true }))

describe.each([...runs, ...expertRuns])('$name at size $size, expertParallel $expertParallel', ({ name, size, expertParallel }) => {
  test('logits, of all rows and of the last, and greedy tokens', async () => {
    const { ids, logits: expected, greedy, positions } = await readExpected(name)
    await withModel(golden(name), { tpSize: size, dtype: 'float32', expertParallel }, async (model) => {
      const { logits, shape } = await model.forward(ids)
      expect(shape).toEqual([ids.length, ids[0]!.length, model.config.vocabSize])
      expect(largestDifference(positionsOf(logits, shape, positions), expected)).toBeLessThanOrEqual(tolerance)

      const last = await model.forward(ids, { lastOnly: true })
      expect(last.shape).toEqual([ids.length, 1, model.config.vocabSize])
      expect(largestDifference(last.logits, positionsOf(logits, shape, [shape[1] - 1, shape[1]]))).toBeLessThanOrEqual(1e-5)

      for (const [row, tokens] of greedy.entries()) {
        const answer = await model.generate(ids[row]!, { maxNewTokens: tokens.length, ignoreEos: true })
        expect(answer).toMatchObject({
          text: '',
          tokenIds: tokens,
          finishReason: 'length',
          usage: { promptTokens: ids[row]!.length, completionTokens: tokens.length }
        })
      }
    })
  })
})

/** In double precision. */
function logSoftmax(logits: Float32Array): number[] {
  const most = logits.reduce((a, b) => Math.max(a, b))
  const total = most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0))
  return Array.from(logits, (logit) => logit - total)
}

test.each(cases)('%s: log-probabilities, of the prompt too, are those of the logits of transformers', async (name) => {
  const { ids, logits: expected, positions: [from, to] } = await readExpected(name)
  await withModel(golden(name), { tpSize: 3, dtype: 'float32' }, async (model) => {
    const { vocabSize } = model.config
    for (const [row, prompt] of ids.entries()) {
      const rows = Array.from({ length: to - from }, (_, i) => (row * (to - from) + i) * vocabSize)
      const wanted = rows.map((start) => logSoftmax(expected.subarray(start, start + vocabSize)))
      const { logprobs, promptLogprobs } = await model.generate(prompt, { maxNewTokens: 1, ignoreEos: true, logprobs: 20, echo: true })
      const told = [...promptLogprobs!.slice(from), logprobs![0]!] // token i is foretold at position i - 1
      expect(told).toHaveLength(wanted.length)
      for (const [index, { id, logprob, top }] of told.entries()) {
        expect(Math.abs(logprob - wanted[index]![id]!)).toBeLessThan(1e-4)
        expect(top).toHaveLength(20)
        for (const token of top) expect(Math.abs(token.logprob - wanted[index]![token.id]!)).toBeLessThan(1e-4)
        const least = [...wanted[index]!].sort((a, b) => b - a)[19]!
        expect(top.every((token) => token.logprob > least - 1e-4)).toBe(true)
      }
    }
  })
})

test.each(cases)('%s: one rank more than heads is refused with the valid sizes', async (name) => {
  const headCount = headCountOf(name)
  const validSizes = Array.from({ length: headCount }, (_, i) => i + 1)
  const loading = AutoModelForCausalLM.fromPretrained(golden(name), { tpSize: headCount + 1, device: 'cpu' })
  await expect(loading).rejects.toMatchObject({
    code: 'invalid_argument',
    message: `AutoModelForCausalLM: headCount ${headCount} is less than tpSize ${headCount + 1}; valid sizes: ${validSizes.join(', ')}`,
    details: { dim: 'headCount', value: headCount, tpSize: headCount + 1, validSizes }
  })
})

describe('a head that config.json ties to the embedding', () => {
  const tie = (copy: string) => editJson(path.join(copy, 'config.json'), (json) => Object.assign(json, { tie_word_embeddings: true }))

  test('is the one of the weights where they have another, as in transformers', async () => {
    const { ids, logits: expected, positions } = await readExpected('llama')
    await withCopy(golden('llama'), tie, (copy) =>
      withModel(copy, { tpSize: 2, dtype: 'float32' }, async (model) => {
        const { logits, shape } = await model.forward(ids)
        expect(largestDifference(positionsOf(logits, shape, positions), expected)).toBeLessThan(tolerance)
        expect(String(model.explainPlan())).toContain('lm_head')
      })
    )
  })

  test('is the embedding where the weights have it twice', async () => {
    const twice = async (copy: string) => {
      const file = path.join(copy, 'model.safetensors')
      const tensors = await readSafetensors(file)
      await writeSafetensors(file, { ...Object.fromEntries(tensors), 'lm_head.weight': tensors.get('model.embed_tokens.weight')! })
    }
    const rows = (model: CausalLM) => model.explainPlan().rows.map(({ parameter }) => parameter)
    const once = await withModel(golden('llama-linear-tied'), { tpSize: 2 }, async (model) => rows(model))
    await withCopy(golden('llama-linear-tied'), twice, (copy) =>
      withModel(copy, { tpSize: 2 }, async (model) => expect(rows(model)).toEqual(once)))
  })
})
