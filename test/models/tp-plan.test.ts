// Plans by module, run: whatever is split or whole, the logits and tokens are those of `auto`; what a plan comes to is told in bytes.
import path from 'node:path'
import { AutoModelForCausalLM } from '../../lib/causal-lm'
import type { CausalLM } from '../../lib/causal-lm'
import { golden, withModel } from '../support/models'
import { idRows, readSafetensors } from '../support/safetensors-file'

const attention = (style: [string, string], root = 'layers.*.self_attn') => ({
  ...Object.fromEntries(['q', 'k', 'v'].map((name) => [`${root}.${name}_proj`, style[0]])),
  [`${root}.o_proj`]: style[1]
})
const mlp = (style: [string, string]) => ({
  'layers.*.mlp.gate_proj': style[0],
  'layers.*.mlp.up_proj': style[0],
  'layers.*.mlp.down_proj': style[1]
})
const split: [string, string] = ['colwise', 'rowwise']
const ends = { embed_tokens: 'embedding_rowwise', lm_head: 'colwise_gather_output' }
const experts = { 'layers.*.mlp.experts.gate_up_proj': 'packed_colwise', 'layers.*.mlp.experts.down_proj': 'rowwise' }
const everything = { 'layers.*': 'replicate', embed_tokens: 'replicate', lm_head: 'replicate' }
const gpt2 = { 'h.*.attn.c_attn': 'colwise', 'h.*.attn.c_proj': 'rowwise', 'h.*.mlp': 'replicate' }

const cases: [string, string, Record<string, string>, number][] = [
  ['qwen3', 'the plan of auto, spelled out', { ...attention(split), ...mlp(split), ...ends }, 2],
  ['qwen3', 'whole MLPs', { ...attention(split), 'layers.*.mlp': 'replicate', ...ends }, 4],
  ['qwen3', 'whole attention', { 'layers.*.self_attn': 'replicate', ...mlp(split), ...ends }, 2],
  ['qwen3', 'one layer whole', { ...attention(split), ...mlp(split), ...ends, ...attention(['replicate', 'replicate'], 'layers.1.self_attn') }, 2],
  ['qwen3', 'all whole', everything, 3],
  ['llama-yarn-odd-vocab', 'all whole, a vocabulary that does not divide', everything, 4],
  ['qwen3-tied-sharded', 'a whole embedding and the head tied to it', { ...attention(split), ...mlp(split), embed_tokens: 'replicate' }, 2],
  ['mixtral', 'whole mixtures', { ...attention(split), 'layers.*.mlp': 'replicate', ...ends }, 2],
  ['qwen3-moe-mixed', 'split experts', { ...attention(split), ...mlp(split), ...experts, ...ends }, 2],
  [
    'qwen3-moe',
    'whole experts on each rank',
    { ...attention(split), 'layers.*.mlp.experts.gate_up_proj': 'grouped_gemm', 'layers.*.mlp.experts.down_proj': 'grouped_gemm', ...ends },
    2
  ],
  [
    'phi3',
    'the names of fused weights',
    { 'layers.*.self_attn.qkv_proj': 'colwise_rep', 'layers.*.self_attn.o_proj': 'rowwise_rep', 'layers.*.mlp.gate_up_proj': 'colwise', 'layers.*.mlp.down_proj': 'rowwise', ...ends },
    2
  ],
  ['gpt2', 'whole positions, a split table', { ...gpt2, wte: 'embedding_rowwise', wpe: 'replicate' }, 2],
  ['gpt2', 'whole tables', { ...gpt2, wte: 'replicate', wpe: 'replicate' }, 2]
]

async function promptsOf(name: string): Promise<number[][]> {
  return idRows((await readSafetensors(path.join(golden(name), 'expected.safetensors'))).get('input_ids')!)
}

async function results(model: CausalLM, ids: number[][]) {
  const { logits } = await model.forward(ids)
  const greedy = await model.generate(ids[0]!, { maxNewTokens: 6, ignoreEos: true })
  const drawn = await model.generate(ids[0]!, { maxNewTokens: 6, ignoreEos: true, temperature: 1, topK: 20, topP: 0.9, seed: 7 })
  return { logits, tokens: [greedy.tokenIds, drawn.tokenIds] }
}

test.each(cases)('%s with %s', async (name, _, tpPlan, tpSize) => {
  const ids = await promptsOf(name)
  const expected = await withModel(golden(name), { tpSize: 1, dtype: 'float32' }, (model) => results(model, ids))
  await withModel(golden(name), { tpSize, dtype: 'float32', tpPlan }, async (model) => {
    const found = await results(model, ids)
    const difference = found.logits.reduce((most, value, i) => Math.max(most, Math.abs(value - expected.logits[i]!)), 0)
    expect(difference).toBeLessThanOrEqual(2e-5)
    expect(found.tokens).toEqual(expected.tokens)
  })
})

describe('explainPlan', () => {
  test('of auto: shapes and bytes of every rank', () =>
    withModel(golden('qwen3'), { tpSize: 2, dtype: 'float32' }, async (model) => {
      const plan = model.explainPlan()
      const { hiddenSize, headCount, headDim, vocabSize } = model.config
      const row = (parameter: string) => plan.rows.find((one) => one.parameter === parameter)
      const queries = headCount * headDim
      expect(row('model.layers.0.self_attn.q_proj.weight')).toMatchObject({
        style: 'colwise',
        shape: [queries, hiddenSize],
        localShapes: [[queries / 2, hiddenSize], [queries / 2, hiddenSize]]
      })
      expect(row('model.layers.0.self_attn.o_proj.weight')).toMatchObject({ style: 'rowwise', localShapes: Array(2).fill([hiddenSize, queries / 2]) })
      expect(row('model.layers.0.self_attn.q_norm.weight')).toMatchObject({ style: 'replicate', rankBytes: Array(2).fill(headDim * 4) })
      expect(row('model.embed_tokens.weight')).toMatchObject({ style: 'embedding_rowwise', localShapes: Array(2).fill([vocabSize / 2, hiddenSize]) })
      expect(plan.rows).toHaveLength(new Set(plan.rows.map(({ parameter }) => parameter)).size)
    }))

  test('of a map: the rule that gave a style, and a table with a line for what layers have alike', () =>
    withModel(golden('qwen3'), { tpSize: 2, tpPlan: { ...attention(split), 'layers.*.mlp': 'replicate', ...ends } }, async (model) => {
      const plan = model.explainPlan()
      const up = plan.rows.find(({ parameter }) => parameter === 'model.layers.1.mlp.up_proj.weight')!
      expect(up).toMatchObject({ style: 'replicate', pattern: 'layers.*.mlp', localShapes: [up.shape, up.shape] })
      const lines = String(plan).split('\n')
      expect(lines[0]).toMatch(/^parameter +style +shape +on a rank +bytes of a rank +count$/)
      const own = lines.filter((line) => line.startsWith('model.layers.*.mlp.up_proj.weight'))
      expect(own).toHaveLength(1)
      expect(own[0]!.split(/\s{2,}/).at(-1)).toBe(String(model.config.layerCount))
      expect(lines.at(-2)).toBe(`all weights of a rank: ${plan.rankBytes[0]} bytes`)
    }))

  test.each([['qwen3-tied-sharded'], ['mixtral'], ['gpt2'], ['gemma3'], ['phi3'], ['llama-yarn-odd-vocab']])('%s: as many bytes as the ranks hold', (name) =>
    withModel(golden(name), { tpSize: 4, dtype: 'float32' }, async (model) => {
      const { rankBytes, rows } = model.explainPlan()
      expect(rows.every(({ style }) => typeof style === 'string')).toBe(true)
      const held = model.info().ranks.map(({ weightBytes }) => weightBytes)
      const ropes = held.map((bytes, rank) => bytes - rankBytes[rank]!)
      const { config } = model
      const tables = new Set(config.layers.flatMap(({ rope }) => rope ?? [])).size
      expect(ropes).toEqual(held.map(() => tables * (config.headDim / 2) * 4))
    })
  )
})

test('rules that name nothing, and modules without a rule, are warnings with a code', async () => {
  const seen: { code?: string; message: string }[] = []
  const warned = jest.spyOn(process, 'emitWarning').mockImplementation(((message: string, { code }: { code: string }) => seen.push({ message, code })) as never)
  try {
    const { lm_head: _, ...others } = { ...attention(split), ...mlp(split), ...ends, 'layers.*.mlp.middle': 'colwise' }
    await (await AutoModelForCausalLM.fromPretrained(golden('llama'), { device: 'cpu', tpSize: 2, tpPlan: others })).close()
  } finally {
    warned.mockRestore()
  }
  expect(seen).toEqual([
    { code: 'HEDDLE_TP_PLAN', message: expect.stringMatching(/"layers\.\*\.mlp\.middle" \(colwise\) matches nothing/) },
    { code: 'HEDDLE_TP_PLAN', message: expect.stringMatching(/no rule for "lm_head"/) }
  ])
})
