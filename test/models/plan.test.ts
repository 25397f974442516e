// What a model takes, known before a weight is read: compared with what loading then takes, and with arithmetic by hand.
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { planTensorParallel } from '../../lib/planning/plan'
import type { SizePlan } from '../../lib/planning/plan'
import { golden, repository, tinyModel, withModel } from '../support/models'

const cases = readdirSync(golden('.'), { withFileTypes: true }).filter((entry) => entry.isDirectory()).map(({ name }) => name)
const folders = [...cases.map((name) => [name, golden(name)] as const), ['heddle-tiny', tinyModel] as const]

const modes = folders.flatMap(([name, folder]) => [false, true].map((reproducible) => ({ name, folder, reproducible })))

test.each(modes)('$name, reproducible $reproducible: bytes of every rank as loading takes them', async ({ folder, reproducible }) => {
  const { sizes, validSizes } = await planTensorParallel(folder, { reproducible })
  expect(sizes.map(({ tpSize }) => tpSize)).toEqual(validSizes.filter((size) => size <= 8))
  if (reproducible) expect(validSizes).toEqual([1, 2, 4, 8].slice(0, validSizes.length))
  for (const { tpSize, ranks } of sizes) {
    await withModel(folder, { tpSize, maxTokens: 160, reproducible }, async (model) => {
      for (const [rank, { weightBytes, cacheBytes }] of model.info().ranks.entries()) {
        expect(ranks[rank]!.weightBytes / weightBytes).toBeCloseTo(1, 2)
        expect((ranks[rank]!.cacheBytesPer1kTokens * 0.16) / cacheBytes).toBeCloseTo(1, 2)
      }
    })
  }
})

// Qwen3-8B as published: 36 layers of 32 query and 8 KV heads of 128, hidden 4096, MLP 12288, vocabulary 151936, untied
const qwen3 = {
  architectures: ['Qwen3ForCausalLM'], model_type: 'qwen3', hidden_size: 4096, num_hidden_layers: 36, num_attention_heads: 32, num_key_value_heads: 8,
  head_dim: 128, intermediate_size: 12288, vocab_size: 151936, max_position_embeddings: 40960, rms_norm_eps: 1e-6, rope_theta: 1e6,
  tie_word_embeddings: false, torch_dtype: 'bfloat16', hidden_act: 'silu'
}

test('a published shape, by hand', async () => {
  const { dtype, validSizes, sizes } = await planTensorParallel(qwen3, { gpu: 'h200' })
  expect(dtype).toBe('bfloat16')
  expect(validSizes).toEqual(Array.from({ length: 32 }, (_, i) => i + 1))
  expect((await planTensorParallel(qwen3, { strict: true })).validSizes).toEqual([1, 2, 4, 8, 16, 32])
  const linear = 36 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 12288) + 4096 * 151936
  const [one, two] = sizes
  expect(one!.ranks[0]!.weightBytes / (2 * (linear + 4096 * 151936))).toBeCloseTo(1, 3)
  expect(one!.ranks[0]!.cacheBytesPer1kTokens).toBe(147_456_000)
  expect(one!.collectives).toEqual({ allReduces: 0, others: 0, bytesPerToken: 0 })
  expect(two!.collectives).toMatchObject({ allReduces: 73, bytesPerToken: 73 * 8192 }) // two a layer, and the embedding's
  // 15.14 GB at 4.42 TB/s: 292 tokens a second
  expect(one!.predicted!.decodeTokensPerSecond).toBeCloseTo(4.42e12 / (2 * linear), -1)
  expect(two!.predicted!.decodeTokensPerSecond).toBeLessThan(2 * one!.predicted!.decodeTokensPerSecond)
  expect(one!.predicted!.prefillTokensPerSecond / 48_000).toBeCloseTo(1, 1)
  expect(one!.predicted!.modelled).toBe(true)
})

test('an odd size: ranks that differ, and all of a matrix among them once', async () => {
  const [{ ranks }] = (await planTensorParallel(qwen3, { tpSize: 3 })).sizes as [SizePlan]
  expect(ranks.map(({ cacheBytesPer1kTokens }) => cacheBytesPer1kTokens / 18_432_000)).toEqual([2, 3, 3]) // of 8 KV heads
  const [one] = (await planTensorParallel(qwen3, { tpSize: 1 })).sizes as [SizePlan]
  const sum = ranks.reduce((bytes, { weightBytes }) => bytes + weightBytes, 0)
  expect(sum / one.ranks[0]!.weightBytes).toBeCloseTo(1, 3)
})

test('a reproducible group: 1, 2, 4 and 8, whole pieces on each rank, and partial sums in float32', async () => {
  const { validSizes, sizes } = await planTensorParallel({ ...qwen3, num_attention_heads: 12, num_key_value_heads: 3 }, { reproducible: true })
  expect(validSizes).toEqual([1, 2, 4, 8])
  const cache = sizes.map(({ ranks }) => ranks.map(({ cacheBytesPer1kTokens }) => cacheBytesPer1kTokens / 18_432_000))
  expect(cache.slice(0, 2)).toEqual([[3], [2, 2]]) // of 3 KV heads the middle one is on both ranks, as its queries are
  expect(sizes[1]!.collectives).toMatchObject({ allReduces: 73, bytesPerToken: 73 * 4096 * 4 })
  const refused = await planTensorParallel(qwen3, { tpSize: 3, reproducible: true })
  expect(refused).toMatchObject({ sizes: [], refused: { why: expect.stringContaining('1, 2, 4, 8'), nearest: [2, 4] } })
})

test('a plan by module: what is whole on every rank is not summed, and takes its bytes there', async () => {
  const attention = Object.fromEntries(['q', 'k', 'v'].map((name) => [`layers.*.self_attn.${name}_proj`, 'colwise']))
  const tpPlan = { ...attention, 'layers.*.self_attn.o_proj': 'rowwise', 'layers.*.mlp': 'replicate', lm_head: 'colwise_rep' }
  const { sizes, warnings } = await planTensorParallel(qwen3, { tpSize: 2, tpPlan, explain: true })
  expect(warnings).toEqual([expect.stringMatching(/no rule for "embed_tokens"/)])
  const [{ ranks, collectives, parameters }] = sizes as [(typeof sizes)[0]]
  expect(collectives.allReduces).toBe(36) // attention's
  const weights = 36 * (3 * 4096 * 12288 + (4096 * 6144 + 4096 * 4096) / 2) + 4096 * 151936 * 1.5
  const norms = 73 * 4096 + 72 * 128 // in float32
  expect(parameters!.rankBytes).toEqual([2 * weights + 4 * norms, 2 * weights + 4 * norms])
  expect(ranks[0]!.weightBytes / parameters!.rankBytes[0]!).toBeCloseTo(1, 6)
  await expect(planTensorParallel(qwen3, { tpPlan: { norm: 'sequence_parallel' } })).rejects.toMatchObject({ code: 'unavailable' })
})

test('a size that does not divide what is split is valid where that is whole', async () => {
  const tpPlan = { 'layers.*': 'replicate', embed_tokens: 'embedding_rowwise', lm_head: 'colwise_rep' }
  const { validSizes, sizes } = await planTensorParallel(qwen3, { tpSize: 3, tpPlan, strict: true })
  expect(validSizes).toContain(3)
  expect(sizes[0]!.collectives.allReduces).toBe(1) // the embedding's
})

test('room for tokens: what 90 % of the memory leaves, or none', async () => {
  const room = async (gpu: string) => (await planTensorParallel(qwen3, { tpSize: 1, gpu })).sizes[0]!.predicted!.cacheTokens
  expect(await room('RTX-4090')).toBeGreaterThan(0)
  expect(await room('H200')).toBeGreaterThan(4 * (await room('A100-40GB')))
  const { sizes } = await planTensorParallel({ ...qwen3, num_hidden_layers: 80 }, { tpSize: 1, gpu: 'RTX-4090' })
  expect(sizes[0]!.predicted!.cacheTokens).toBe(0)
})

test('of a mixture of experts a token reads the chosen ones', async () => {
  const config = JSON.parse(await readFile(path.join(golden('mixtral'), 'config.json'), 'utf8')) as object
  const rate = async (more: object) => (await planTensorParallel({ ...config, intermediate_size: 8192, ...more }, { tpSize: 1, gpu: 'H100' })).sizes[0]!.predicted!.decodeTokensPerSecond
  expect((await rate({ num_experts_per_tok: 1 })) / (await rate({ num_experts_per_tok: 2 }))).toBeGreaterThan(1.7)
  expect((await rate({ num_local_experts: 4 })) / (await rate({ num_local_experts: 8 }))).toBeCloseTo(1, 1)
})

test('a size that exceeds the heads, or with `strict` does not divide: why, and the nearest that are valid', async () => {
  const exceeds = { tpSize: 33, why: expect.stringContaining('headCount 32 is less than tpSize 33'), nearest: [32] }
  expect(await planTensorParallel(qwen3, { tpSize: 33 })).toMatchObject({ sizes: [], refused: exceeds })
  expect(await planTensorParallel(qwen3, { tpSize: 6, strict: true })).toMatchObject({ sizes: [], refused: { tpSize: 6, why: expect.stringContaining('32'), nearest: [4, 8] } })
})

test.each([
  [qwen3, { gpu: 'TPU' }, /H200/], [qwen3, { tpSize: 0 }, /tpSize/], [qwen3, { dtype: 'int8' }, /dtype/], [qwen3, { size: 2 }, /tpSize/], [7, {}, /model folder/],
  ['/nowhere', {}, /model folder/]
])('%j %j is refused', async (model, options, message) => {
  await expect(planTensorParallel(model as object, options as object)).rejects.toMatchObject({ code: 'invalid_argument', message: expect.stringMatching(message) })
})

test('the command, with a configuration alone: a table, JSON, exit code 1 for a size that is not valid', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'heddle-plan-'))
  await writeFile(path.join(folder, 'config.json'), JSON.stringify(qwen3))
  const heddle = (...args: string[]) => spawnSync(process.execPath, ['dist/cli/main.js', 'plan', '--model', folder, ...args], { cwd: repository, encoding: 'utf8' })
  const shown = heddle('--gpu', 'H200')
  expect(shown).toMatchObject({ status: 0, stderr: '' })
  expect(shown.stdout).toMatch(/valid sizes: 1, 2, 3, [^]*, 31, 32\n[^]*16\.38 GB[^]*modelled for H200/)
  expect(JSON.parse(heddle('--tp', '2', '--json').stdout)).toMatchObject({ modelType: 'qwen3', sizes: [{ tpSize: 2 }] })
  expect(heddle('--tp', '33')).toMatchObject({ status: 1, stdout: expect.stringContaining('nearest: 32') })
  expect(heddle('--tp', '2', '--explain').stdout).toMatch(
    /size 2:\n[^]*model\.layers\.\*\.mlp\.down_proj\.weight +rowwise +\[4096, 12288\] +\[4096, 6144\] +50331648 +36\n/
  )
  expect(heddle('--gpu', 'TPU').status).toBe(2)
  await rm(folder, { recursive: true })
})
