// Tensor-parallel plans by module: names, matching, what fits together, what is refused, and the plans that `transformers` ships.
import path from 'node:path'
import { readModelConfig } from '../../lib/models/config'
import type { ModelConfig } from '../../lib/models/config'
import { planOf } from '../../lib/models/plan-parts'
import { parsePlan, styleOf, withWildcards } from '../../lib/models/tp-plan'
import { styleNamed, tpStyleNames } from '../../lib/models/tp-styles'
import { attention, experts, head, mlp, norms, publishedExpertPlan, publishedPlans } from '../support/published-plans'

const configOf = (name: string): Promise<ModelConfig> => readModelConfig(path.join(__dirname, '../golden', name))
const failure = (code: string, pattern: RegExp) => expect.objectContaining({ code, message: expect.stringMatching(pattern) })
const table = { embed_tokens: 'embedding_rowwise' }
const whole = { ...attention, ...mlp, ...head, ...table }
const splits = (plan: ReturnType<typeof planOf>) => ({
  embedding: plan.embedding.split,
  head: plan.head?.split,
  attention: plan.attention.map(({ split }) => split),
  mlp: plan.mlp.map(({ split }) => split)
})

describe('names of styles', () => {
  test.each([
    ['colwise_rep', 'colwise_gather_output'],
    ['colwise_allgather', 'colwise_gather_output'],
    ['local_colwise', 'colwise'],
    ['rowwise_rep', 'rowwise_split_input'],
    ['rowwise_allreduce', 'rowwise'],
    ['local_packed_rowwise', 'packed_rowwise'],
    ['vocab_allreduce', 'embedding_rowwise'],
    ['replicated_with_grad_allreduce', 'replicate'],
    ['gather', 'all_reduce'],
    ['activation_seq_dim_2', 'sequence_parallel']
  ])('%s is %s', (alias, style) => expect(styleNamed(alias)).toBe(style))

  test('an unknown one is refused with all that there are', () => {
    const refuse = () => parsePlan('here', { 'layers.*.mlp.up_proj': 'columnwise' })
    expect(refuse).toThrow(failure('invalid_argument', /^here: tpPlan: "layers\.\*\.mlp\.up_proj": expected one of colwise, .*got "columnwise"$/))
    for (const name of tpStyleNames) expect(refuse).toThrow(new RegExp(`\\b${name}\\b`))
  })

  test.each([['rowwise'], [null], [['colwise']], [2], [{ x: 1 }], [{ x: 'toString' }]])('%p is no plan', (plan) =>
    expect(() => parsePlan('here', plan)).toThrow(failure('invalid_argument', /tpPlan/))
  )
})

describe.each(publishedPlans)('the plan that transformers has for %s', (name, plan) => {
  test('splits what auto splits, but for the embedding, which it leaves whole', async () => {
    const config = await configOf(name)
    const found = planOf('here', plan, config)
    expect(splits(found)).toEqual({ ...splits(planOf('here', 'auto', config)), embedding: 'replicate' })
    expect(found.warnings).toEqual([expect.stringMatching(/no rule for "embed_tokens", which every rank holds whole/)])
  })

  test('with a rule for the embedding, and with the root before every name, is auto without a warning', async () => {
    const config = await configOf(name)
    const rooted = Object.fromEntries(Object.entries({ ...plan, ...table }).map(([key, style]) => [key === 'lm_head' ? key : `model.${key}`, style]))
    const found = planOf('here', rooted, config)
    expect(splits(found)).toEqual(splits(planOf('here', 'auto', config)))
    expect(found.warnings).toEqual([])
  })
})

/** Where the style of auto is another, which docs/plans.md explains: by ours, theirs. */
const differences: Record<string, Record<string, string>> = {
  phi3: { colwise: 'colwise_gather_output', rowwise: 'rowwise_split_input' },
  mixtral: { colwise: 'packed_colwise' },
  'qwen3-moe-mixed': { colwise: 'packed_colwise' }
}

test.each(publishedPlans)('of %s, auto names every module as transformers does, but for documented differences', async (name, plan) => {
  const { parts, resolved } = planOf('here', 'auto', await configOf(name))
  const named = new Set<string>()
  for (const [p, { modules }] of parts.entries()) {
    for (const { names, role } of modules) {
      const key = names.map(withWildcards).find((one) => Object.hasOwn(plan, one))
      if (key === undefined) continue
      named.add(key)
      const [ours, theirs] = [styleOf(role, resolved[p]!.split), styleNamed(plan[key])]
      expect(ours === theirs || differences[name]?.[ours] === theirs).toBe(true)
    }
  }
  const containers = Object.keys(plan).filter((key) => plan[key] === 'moe_tp_experts')
  expect([...named, ...containers].sort()).toEqual(Object.keys(plan).sort())
})

test('the expert-parallel plan of transformers is expertParallel', async () => {
  const config = await configOf('qwen3-moe')
  const auto = splits(planOf('here', 'auto', config, true))
  for (const more of [{}, { 'layers.*.mlp.gate': 'ep_router', 'layers.*.mlp.experts': 'moe_tp_experts' }]) {
    const plan = { ...attention, ...publishedExpertPlan, ...head, ...table, ...more }
    expect(splits(planOf('here', plan, config))).toEqual(auto)
  }
  expect(() => planOf('here', { ...attention, ...experts }, config, true)).toThrow(failure('invalid_argument', /expertParallel/))
})

describe('matching', () => {
  test('an exact key beats a wildcard, wherever it stands', async () => {
    const config = await configOf('llama')
    const exact = Object.fromEntries(Object.keys(mlp).map((key) => [key.replace('*', '1'), 'replicate']))
    for (const plan of [{ ...whole, ...exact }, { ...exact, ...whole }])
      expect(planOf('here', plan, config).mlp.map(({ split }) => split)).toEqual(config.layers.map((_, i) => (i === 1 ? 'replicate' : 'split')))
  })

  test('replicate said of a module holds for all in it that have no rule', async () => {
    const config = await configOf('llama')
    const found = planOf('here', { ...attention, ...head, ...table, 'layers.*.mlp': 'replicate' }, config)
    expect(found.mlp.every(({ split }) => split === 'replicate')).toBe(true)
    expect(found.warnings).toEqual([])
  })

  test('a wildcard is a number, not a part of a name', async () => {
    const config = await configOf('llama')
    expect(planOf('here', { ...whole, 'layers.*.*.up_proj': 'replicate', 'layers.1*.mlp': 'replicate' }, config).warnings).toEqual([
      'tpPlan: "layers.*.*.up_proj" (replicate) matches nothing in this model',
      'tpPlan: "layers.1*.mlp" (replicate) matches nothing in this model'
    ])
  })

  test('names of parameters', async () => {
    const config = await configOf('llama')
    const { 'layers.*.mlp.up_proj': _, ...others } = whole
    expect(planOf('here', { ...others, 'layers.*.mlp.up_proj.weight': 'colwise' }, config).warnings).toEqual([])
    const split = { ...whole, 'layers.*.mlp.up_proj.bias': 'replicate' }
    expect(() => planOf('here', split, config)).toThrow(failure('invalid_argument', /one style for what is one module/))
  })

  test('gpt2, by the names of its fused and renamed modules', async () => {
    const plan = {
      wte: 'embedding_rowwise',
      wpe: 'replicate',
      'h.*.attn.c_attn': 'colwise',
      'h.*.attn.c_proj': 'rowwise',
      'transformer.h.*.mlp.c_fc': 'colwise',
      'transformer.h.*.mlp.c_proj': 'rowwise'
    }
    const found = planOf('here', plan, await configOf('gpt2'))
    expect(found.warnings).toEqual([])
    expect(found.positions!.split).toBe('replicate')
    expect([...found.attention, ...found.mlp, found.embedding].every(({ split }) => split === 'split')).toBe(true)
  })

  test('the same module with and without the root, in two styles', async () => {
    const plan = { ...whole, 'model.embed_tokens': 'replicate' }
    const config = await configOf('llama')
    expect(() => planOf('here', plan, config)).toThrow(failure('invalid_argument', /"embed_tokens" embedding_rowwise and "model.embed_tokens" replicate/))
  })
})

describe('what is not there is warned of', () => {
  test('a module without a rule, once for all layers', async () => {
    const config = await configOf('llama')
    const found = planOf('here', { ...attention, ...head, ...table }, config)
    expect(found.mlp.every(({ split }) => split === 'replicate')).toBe(true)
    expect(found.warnings).toHaveLength(3)
    expect(found.warnings[0]).toMatch(/no rule for "layers\.\*\.mlp\.gate_proj"/)
  })
})

describe('what cannot be honoured is refused', () => {
  test.each<[string, Record<string, string>, string, RegExp]>([
    ['columns without their rows', { 'layers.*.mlp.down_proj': 'replicate' }, 'invalid_argument', /gate_proj colwise and .*down_proj replicate/],
    ['a gathered result for split rows', { 'layers.*.mlp.up_proj': 'colwise_rep' }, 'invalid_argument', /up_proj colwise_rep/],
    ['one projection of attention whole', { 'layers.2.self_attn.k_proj': 'replicate' }, 'invalid_argument', /layers\.2\.self_attn\.k_proj/],
    ['rows for a column', { 'layers.*.mlp.up_proj': 'rowwise' }, 'unavailable', /"layers\.\*\.mlp\.up_proj".*got rowwise: .*may be colwise/],
    ['a split head', { lm_head: 'colwise' }, 'unavailable', /lm_head may be colwise_gather_output, replicate/],
    ['an embedding by its width', { embed_tokens: 'colwise' }, 'unavailable', /embed_tokens may be embedding_rowwise/],
    ['norms over the sequence', { 'layers.*.input_layernorm': 'sequence_parallel' }, 'unavailable', /not split over the sequence/],
    ['a split norm', { norm: 'colwise' }, 'unavailable', /norm may be replicate/],
    ['a linear style for a module of several', { 'layers.*.mlp': 'rowwise' }, 'unavailable', /holds others/],
    ['a latent projection', { 'layers.*.self_attn.q_proj': 'mla_kv_a_proj' }, 'unavailable', /latent attention/]
  ])('%s', async (_, rules, code, pattern) => {
    const config = await configOf('llama')
    expect(() => planOf('here', { ...whole, ...rules }, config)).toThrow(failure(code, pattern))
  })

  test('a sum of what is whole', async () => {
    const plan = { ...attention, ...head, ...table, 'layers.*.mlp.gate_proj': 'replicate', 'layers.*.mlp.up_proj': 'replicate' }
    const summed = { ...plan, 'layers.*.mlp.down_proj': 'replicate', 'layers.*.mlp': 'gather' }
    const config = await configOf('llama')
    expect(() => planOf('here', summed, config)).toThrow(failure('unavailable', /nothing to sum/))
  })
})

test('a head that is tied goes with the embedding', async () => {
  const config = await configOf('qwen3-tied-sharded')
  const tied = { ...whole, ...norms }
  expect(planOf('here', tied, config)).toMatchObject({ embedding: { split: 'split' }, warnings: [] })
  expect(() => planOf('here', { ...tied, embed_tokens: 'replicate' }, config)).toThrow(failure('invalid_argument', /lm_head/))
})
