// Where weights are found in a checkpoint: renamed, inside fused tensors, transposed, inside stacks of experts; and what does not fit.
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import type { Layer } from '../../lib/layers/layer'
import { Checkpoint } from '../../lib/models/checkpoint'
import { gemma3Names, gpt2Names, llamaNames, mixtralNames, phi3Names } from '../../lib/models/tensor-names'
import type { TensorNames } from '../../lib/models/tensor-names'
import { bytesOf, WeightLocator } from '../../lib/models/weights'
import { filled, writeSafetensors } from '../support/safetensors-file'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'heddle-weights-'))
})
afterEach(() => rm(folder, { recursive: true }))

type Shapes = Record<string, number[]>

async function locate(stored: Shapes, names: TensorNames, modules: string[], wanted: Shapes, transposed = false) {
  await writeSafetensors(
    path.join(folder, 'model.safetensors'),
    Object.fromEntries(Object.entries(stored).map(([name, shape]) => [name, filled(shape)]))
  )
  const checkpoint = await Checkpoint.open(folder)
  const layer = { weights: Object.entries(wanted).map(([name, shape]) => ({ name, shape })) } as Layer
  const weights = new WeightLocator(checkpoint, names).weightsOf({ layer, modules, transposed })
  /** offset in elements, from the start of the stored tensor */
  const place = (name: string, of: string) => {
    const { shape, offset, stride, transposed: isTransposed = false } = weights[name]!
    return { shape, element: (offset - checkpoint.tensor(of).offset) / 4, stride, isTransposed }
  }
  return { weights, place }
}

const corrupt = (pattern: RegExp) => expect.objectContaining({ code: 'corrupt_file', message: expect.stringMatching(pattern) })
const attention = { 'q_proj.weight': [8, 4], 'k_proj.weight': [4, 4], 'v_proj.weight': [4, 4], 'o_proj.weight': [4, 8] }

test('parts of a fused matrix follow each other', async () => {
  const stored = { 'model.layers.0.self_attn.qkv_proj.weight': [16, 4], 'model.layers.0.self_attn.o_proj.weight': [4, 8] }
  const { weights, place } = await locate(stored, phi3Names, ['layers.0.self_attn'], attention)
  const fused = 'model.layers.0.self_attn.qkv_proj.weight'
  expect(place('q_proj.weight', fused)).toMatchObject({ shape: [8, 4], element: 0 })
  expect(place('k_proj.weight', fused)).toMatchObject({ shape: [4, 4], element: 32 })
  expect(place('v_proj.weight', fused)).toMatchObject({ shape: [4, 4], element: 48 })
  expect(bytesOf(weights)).toBe((16 * 4 + 4 * 8) * 4)
})

test('a fused matrix of another height, and a part that is missing', async () => {
  const wrong = { 'model.layers.0.self_attn.qkv_proj.weight': [15, 4], 'model.layers.0.self_attn.o_proj.weight': [4, 8] }
  await expect(locate(wrong, phi3Names, ['layers.0.self_attn'], attention)).rejects.toEqual(
    corrupt(/qkv_proj\.weight": expected shape \[16, 4\] by config.json, got \[15, 4\]/)
  )
  const { 'model.layers.0.self_attn.o_proj.weight': _, ...cut } = wrong
  await expect(locate({ ...cut, 'model.layers.0.self_attn.qkv_proj.weight': [16, 4] }, phi3Names, ['layers.0.self_attn'], attention)).rejects.toEqual(
    corrupt(/o_proj\.weight" is missing/)
  )
})

test('transposed matrices, fused ones too; biases are no matrices', async () => {
  const wanted = { ...attention, 'k_proj.weight': [8, 4], 'v_proj.weight': [8, 4], 'q_proj.bias': [8], 'k_proj.bias': [8], 'v_proj.bias': [8] }
  const stored = { 'h.1.attn.c_attn.weight': [4, 24], 'h.1.attn.c_attn.bias': [24], 'h.1.attn.c_proj.weight': [8, 4], 'wte.weight': [9, 4] }
  const { place } = await locate(stored, gpt2Names, ['h.1.attn'], wanted, true)
  expect(place('k_proj.weight', 'h.1.attn.c_attn.weight')).toEqual({ shape: [8, 4], element: 8, stride: 24, isTransposed: true })
  expect(place('v_proj.bias', 'h.1.attn.c_attn.bias')).toMatchObject({ shape: [8], element: 16, isTransposed: false })
  expect(place('o_proj.weight', 'h.1.attn.c_proj.weight')).toEqual({ shape: [4, 8], element: 0, stride: 4, isTransposed: true })
  await expect(locate({ ...stored, 'h.1.attn.c_proj.weight': [4, 8] }, gpt2Names, ['h.1.attn'], wanted, true)).rejects.toEqual(
    corrupt(/c_proj\.weight": expected shape \[8, 4\]/)
  )
})

describe('experts', () => {
  const wanted: Shapes = { 'gate.weight': [2, 4] }
  for (const expert of [0, 1]) {
    Object.assign(wanted, {
      [`experts.${expert}.gate_proj.weight`]: [3, 4],
      [`experts.${expert}.up_proj.weight`]: [3, 4],
      [`experts.${expert}.down_proj.weight`]: [4, 3]
    })
  }
  const stacked = { 'model.layers.0.mlp.gate.weight': [2, 4], 'model.layers.0.mlp.experts.gate_up_proj': [2, 6, 4] }
  const modules = ['layers.0.block_sparse_moe', 'layers.0.mlp']

  test('one by one, by the names of mixtral', async () => {
    const renamed = Object.entries(wanted).map(([name, shape]) => {
      const stored = name.replace('gate_proj', 'w1').replace('up_proj', 'w3').replace('down_proj', 'w2')
      return [`model.layers.0.block_sparse_moe.${stored}`, shape]
    })
    const { place } = await locate(Object.fromEntries(renamed) as Shapes, mixtralNames, modules, wanted)
    expect(place('experts.1.up_proj.weight', 'model.layers.0.block_sparse_moe.experts.1.w3.weight')).toMatchObject({ element: 0 })
  })

  test('in stacks', async () => {
    const { place } = await locate({ ...stacked, 'model.layers.0.mlp.experts.down_proj': [2, 4, 3] }, mixtralNames, modules, wanted)
    const gateUp = 'model.layers.0.mlp.experts.gate_up_proj'
    expect(place('experts.0.up_proj.weight', gateUp)).toMatchObject({ shape: [3, 4], element: 12 })
    expect(place('experts.1.gate_proj.weight', gateUp)).toMatchObject({ shape: [3, 4], element: 24 })
    expect(place('experts.1.down_proj.weight', 'model.layers.0.mlp.experts.down_proj')).toMatchObject({ shape: [4, 3], element: 12 })
  })

  test.each([[[3, 6, 4]], [[2, 5, 4]], [[2, 6]]])('a stack of %j', async (shape) => {
    const stored = { ...stacked, 'model.layers.0.mlp.experts.gate_up_proj': shape, 'model.layers.0.mlp.experts.down_proj': [2, 4, 3] }
    await expect(locate(stored, llamaNames, ['layers.0.mlp'], wanted)).rejects.toEqual(corrupt(/gate_up_proj": expected shape \[2, 6, 4\]/))
  })

  test('no stack of one kind', async () => {
    await expect(locate(stacked, mixtralNames, modules, wanted)).rejects.toEqual(corrupt(/down_proj|w2/))
  })
})

test.each(['model.', 'model.language_model.', 'language_model.model.'])('a language model that begins with %s', async (root) => {
  const { place } = await locate({ [`${root}embed_tokens.weight`]: [9, 4] }, gemma3Names, ['embed_tokens'], { weight: [9, 4] })
  expect(place('weight', `${root}embed_tokens.weight`)).toMatchObject({ element: 0 })
})
