// `reproducible`: the same bits at 1, 2, 4 and 8 ranks, for every reference case, in prompts, decode steps and batches.
import { AutoModelForCausalLM } from '../../lib/causal-lm'
import { loadModel } from '../../lib/generation/load-model'
import type { PretrainedOptions } from '../../lib/generation/load-model'
import { KVCaches } from '../../lib/kv-caches'
import { HeddleError } from '../../lib/errors'
import { Program } from '../../lib/program'
import type { StepSpec } from '../../lib/program'
import { goldenCases, goldenTolerance, headCountOf, largestDifference, positionsOf, readExpected } from '../support/golden-cases'
import { golden, tinyModel, withModel } from '../support/models'

const sizesOf = (name: string): number[] => [1, 2, 4, 8].filter((size) => size <= headCountOf(name))
const mixtures = goldenCases.filter((name) => /mixtral|moe/.test(name))

/** The next `counts[i]` tokens of sequence i, which has `done[i]` already; each has as many blocks of the cache as it may need. */
function step(rows: readonly (readonly number[])[], done: readonly number[], counts: readonly number[], blocks: number): StepSpec {
  const present = counts.flatMap((count, i) => (count > 0 ? [i] : []))
  const tokens = present.flatMap((i) => rows[i]!.slice(done[i]!, done[i]! + counts[i]!))
  const positions = present.flatMap((i) => Array.from({ length: counts[i]! }, (_, t) => done[i]! + t))
  const starts = present.reduce((sums, i) => [...sums, sums.at(-1)! + counts[i]!], [0])
  const table = present.flatMap((i) => Array.from({ length: blocks }, (_, block) => i * blocks + block))
  return {
    tokens: Int32Array.from(tokens),
    positions: Int32Array.from(positions),
    sequenceStarts: Int32Array.from(starts),
    slots: Int32Array.from(present),
    blockTable: Int32Array.from(table)
  }
}

/** Logits of every token: prompts of two lengths together, steps of one token, one sequence alone, and a piece of a prompt beside a token. */
async function logitsOf(name: string, options: PretrainedOptions): Promise<Buffer> {
  const { ids, greedy } = await readExpected(name)
  const rows = ids.map((row, i) => [...row, ...greedy[i]!])
  const prompt = ids[0]!.length
  const model = await loadModel(golden(name), { device: 'cpu', maxTokens: 64, ...options })
  const { group, runtime } = model
  try {
    const blocks = Math.ceil(rows[0]!.length / 16)
    const caches = new KVCaches(group, 2 * blocks)
    const { decoder } = runtime
    const program = await Program.create(group, { maxTokens: 2 * prompt, maxSequences: 2, caches }, (g) =>
      g.output('logits', decoder.logits(decoder.hidden(g))))
    const done = [0, 0]
    const parts: Buffer[] = []
    for (const counts of [[prompt, prompt - 5], [1, 1], [1, 1], [0, 1], [5, 1], [1, 0]]) {
      const { outputs } = await program.run(step(rows, done, counts, blocks))
      parts.push(Buffer.from(Float32Array.from(outputs['logits']!.data).buffer))
      counts.forEach((count, i) => (done[i]! += count))
    }
    return Buffer.concat(parts)
  } finally {
    runtime.close(new HeddleError('closed', 'done'))
    await group.close()
  }
}

/** Sizes whose logits are not, bit for bit, those of size 1. */
async function sizesThatDiffer(name: string, options: PretrainedOptions): Promise<number[]> {
  const one = await logitsOf(name, options)
  const differing: number[] = []
  for (const tpSize of sizesOf(name).slice(1)) {
    if (!one.equals(await logitsOf(name, { ...options, tpSize }))) differing.push(tpSize)
  }
  return differing
}

const dtypes = ['float32', 'bfloat16'] as const
const runs = goldenCases.flatMap((name) => dtypes.map((dtype) => ({ name, dtype, expertParallel: false })))
const expertRuns = mixtures.flatMap((name) => dtypes.map((dtype) => ({ name, dtype, expertParallel: true })))
const halves = ['qwen3', 'llama-linear-tied', 'qwen3-moe-probabilities'].map((name) => ({ name, dtype: 'float16' as const, expertParallel: false }))

test.each([...runs, ...expertRuns, ...halves])('$name in $dtype, expertParallel $expertParallel: the same logits at every size', async ({ name, ...options }) => {
  expect(await sizesThatDiffer(name, { ...options, reproducible: true })).toEqual([])
})

test('without it they differ', async () => {
  expect(await sizesThatDiffer('qwen3', { dtype: 'float32' })).not.toEqual([])
  expect(await sizesThatDiffer('mixtral', { dtype: 'float32' })).not.toEqual([])
})

test('a part that every rank holds whole changes nothing', async () => {
  const tpPlan = {
    'model.layers.*.self_attn.q_proj': 'colwise',
    'model.layers.*.self_attn.k_proj': 'colwise',
    'model.layers.*.self_attn.v_proj': 'colwise',
    'model.layers.*.self_attn.o_proj': 'rowwise',
    'model.layers.*.mlp': 'replicate',
    'model.embed_tokens': 'embedding_rowwise',
    lm_head: 'colwise_gather_output'
  }
  expect(await sizesThatDiffer('qwen3', { dtype: 'float32', tpPlan, reproducible: true })).toEqual([])
})

describe.each(goldenCases.flatMap((name) => sizesOf(name).map((size) => ({ name, size }))))('$name at size $size', ({ name, size }) => {
  test('logits and greedy tokens are those of transformers', async () => {
    const { ids, logits: expected, greedy, positions } = await readExpected(name)
    await withModel(golden(name), { tpSize: size, dtype: 'float32', reproducible: true }, async (model) => {
      const { logits, shape } = await model.forward(ids)
      expect(largestDifference(positionsOf(logits, shape, positions), expected)).toBeLessThanOrEqual(goldenTolerance)
      for (const [row, tokenIds] of greedy.entries()) {
        expect(await model.generate(ids[row]!, { maxNewTokens: tokenIds.length, ignoreEos: true })).toMatchObject({ tokenIds })
      }
    })
  })
})

test('greedy text and text with a seed are the same at every size', async () => {
  const textsAt = (tpSize: number) =>
    withModel(tinyModel, { tpSize, reproducible: true }, async (model) => {
      const prompts = ['The ', 'Once upon a time', 'a']
      const greedy = await model.generate(prompts, { maxNewTokens: 24, ignoreEos: true, temperature: 0 })
      const drawn = await model.generate(prompts, { maxNewTokens: 24, ignoreEos: true, temperature: 1.3, topP: 0.95, seed: 11 })
      return [...greedy, ...drawn].map(({ tokenIds }) => tokenIds)
    })
  const one = await textsAt(1)
  for (const size of [2, 4]) expect(await textsAt(size)).toEqual(one)
})

test('other sizes are refused with those that there are', async () => {
  await expect(AutoModelForCausalLM.fromPretrained(golden('qwen3'), { tpSize: 3, reproducible: true })).rejects.toMatchObject({
    code: 'invalid_argument',
    message: 'AutoModelForCausalLM.fromPretrained: expected a size of 1, 2, 4, 8 with reproducible, got 3'
  })
  await expect(AutoModelForCausalLM.fromPretrained(golden('llama'), { tpSize: 8, reproducible: true })).rejects.toMatchObject({
    code: 'invalid_argument',
    message: 'AutoModelForCausalLM: headCount 4 is less than tpSize 8; valid sizes: 1, 2, 4'
  })
})
