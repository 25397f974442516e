// Plans that leave parts of a model whole on every rank, on two emulated GPUs and on the CPU: logits and tokens are those of `transformers`,
// and every rank holds the bytes of the whole.
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import type { TPPlan } from '../../lib/models/tp-plan'
import { runOnEmulator } from '../support/emulated-cuda'
import { golden } from '../support/models'
import { floats, idRows, readSafetensors } from '../support/safetensors-file'

const minutes = 60_000
const model = golden('qwen3')
const tokens = 6
const tolerance = 1e-3 // as in gpu-check

const attention = Object.fromEntries(['q_proj', 'k_proj', 'v_proj'].map((name) => [`layers.*.self_attn.${name}`, 'colwise']))
const splitAttention = { ...attention, 'layers.*.self_attn.o_proj': 'rowwise' }
const splitMLP = { 'layers.*.mlp.gate_proj': 'colwise', 'layers.*.mlp.up_proj': 'colwise', 'layers.*.mlp.down_proj': 'rowwise' }
const ends = { embed_tokens: 'embedding_rowwise', lm_head: 'colwise_gather_output' }

/** name, plan, whether attention and the MLP are whole */
const plans: [string, Exclude<TPPlan, 'auto'>, { attention: boolean; mlp: boolean }][] = [
  ['whole MLPs', { ...splitAttention, 'layers.*.mlp': 'replicate', ...ends }, { attention: false, mlp: true }],
  ['whole attention', { 'layers.*.self_attn': 'replicate', ...splitMLP, ...ends }, { attention: true, mlp: false }],
  ['whole layers, split ends', { 'layers.*': 'replicate', ...ends }, { attention: true, mlp: true }],
  ['everything whole', { 'layers.*': 'replicate', embed_tokens: 'replicate', lm_head: 'replicate' }, { attention: true, mlp: true }]
]

interface Found {
  devices: string[]
  logits: number[]
  greedy: number[][]
  /** of each rank, beside what the checkpoint has */
  attention: { ranks: number[]; whole: number }
  mlp: { ranks: number[]; whole: number }
}

async function found(tpPlan: TPPlan, device: 'cpu' | 'cuda', rows: number[][]): Promise<Found> {
  const script = `
    const { AutoModelForCausalLM } = require(root + '/dist/index.js')
    async function main(folder, rows, options) {
      const model = await AutoModelForCausalLM.fromPretrained(folder, { tpSize: 2, dtype: 'float32', ...options })
      const bytesOf = (part) => {
        const own = model.explainPlan().rows.filter(({ parameter }) => parameter.includes(part) && parameter.includes('proj'))
        const sum = (count) => own.reduce((total, row) => total + count(row), 0)
        return { ranks: [0, 1].map((rank) => sum((row) => row.rankBytes[rank])), whole: sum(({ shape }) => 4 * shape.reduce((a, b) => a * b)) }
      }
      const { logits } = await model.forward(rows)
      const answers = await model.generate(rows, { maxNewTokens: ${tokens}, ignoreEos: true })
      const { ranks } = model.info()
      const result = { devices: ranks.map(({ device }) => device), logits: [...logits], greedy: answers.map(({ tokenIds }) => tokenIds) }
      console.log(JSON.stringify({ ...result, attention: bytesOf('self_attn'), mlp: bytesOf('mlp') }))
      await model.close()
    }
    main(...${JSON.stringify([model, rows, { device, tpPlan }])})`
  const ended = await runOnEmulator(script, { devices: 2 }, 10 * minutes)
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '' })
  return JSON.parse(ended.stdout) as Found
}

describe.each(['cpu', 'cuda'] as const)('on %s', (device) => {
  test.each(plans)('%s', async (_, plan, whole) => {
    const tensors = await readSafetensors(path.join(model, 'expected.safetensors'))
    const rows = idRows(tensors.get('input_ids')!)
    const { greedy } = JSON.parse(await readFile(path.join(model, 'expected.json'), 'utf8')) as { greedy: number[][] }
    const result = await found(plan, device, rows)
    expect(result.devices).toEqual(Array(2).fill(expect.stringMatching(`^${device}`)))
    const expected = floats(tensors.get('logits')!)
    expect(result.logits).toHaveLength(expected.length)
    expect(result.logits.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i]!)), 0)).toBeLessThanOrEqual(tolerance)
    expect(result.greedy).toEqual(greedy.map((row) => row.slice(0, tokens)))
    for (const part of ['attention', 'mlp'] as const)
      expect(result[part].ranks).toEqual(Array(2).fill(whole[part] ? result[part].whole : result[part].whole / 2))
  }, 15 * minutes)
})
