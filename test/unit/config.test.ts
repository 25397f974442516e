// config.json: every spelling in use gives one ModelConfig; what is unknown and changes the result is refused by name.
import path from 'node:path'
import { HeddleError } from '../../lib/errors'
import { parseModelConfig, readModelConfig } from '../../lib/models/config'
import { ConfigFields } from '../../lib/models/config-fields'
import { readGenerationConfig } from '../../lib/models/generation-config'
import { parseStrictJsonObject } from '../../lib/models/strict-json'

const base = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 320,
  hidden_size: 64,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  intermediate_size: 176,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5
}

function parse(changes: Record<string, unknown>) {
  const json = JSON.stringify({ ...base, ...changes })
  return parseModelConfig(new ConfigFields(parseStrictJsonObject(new TextEncoder().encode(json), 'config.json'), 'config.json'))
}

const golden = (name: string): string => path.join(__dirname, '../golden', name)

test('the fields of a config in the spelling of before transformers 5', async () => {
  expect(await readModelConfig(golden('qwen3'))).toEqual({
    modelType: 'qwen3',
    vocabSize: 320,
    hiddenSize: 64,
    layerCount: 3,
    headCount: 8,
    kvHeadCount: 4,
    headDim: 16,
    intermediateSize: 160,
    maxPositionEmbeddings: 512,
    activation: 'silu',
    normEps: 1e-6,
    rope: { type: 'default', theta: 1e6 },
    attentionBias: false,
    mlpBias: false,
    queryKeyNorm: true,
    tieWordEmbeddings: false,
    dtype: 'float32',
    eosTokenIds: [2]
  })
})

test('the new spelling, tied embeddings and a head width of its own', async () => {
  expect(await readModelConfig(golden('qwen3-tied-sharded'))).toMatchObject({
    headDim: 32,
    tieWordEmbeddings: true,
    rope: { type: 'default', theta: 1e6 },
    dtype: 'float32'
  })
})

test('llama: biases where the config has them, no query and key norm', async () => {
  expect(await readModelConfig(golden('mqa-llama'))).toMatchObject({
    modelType: 'llama',
    kvHeadCount: 1,
    attentionBias: true,
    mlpBias: true,
    queryKeyNorm: false
  })
})

test('defaults: as many KV heads as heads, head width from the hidden size, theta 10000', () => {
  expect(parse({})).toMatchObject({
    kvHeadCount: 4,
    headDim: 16,
    rope: { type: 'default', theta: 10000 },
    eosTokenIds: [],
    tieWordEmbeddings: false
  })
  expect(parse({ head_dim: null, rope_scaling: null, num_key_value_heads: null })).toMatchObject({ headDim: 16, kvHeadCount: 4 })
})

describe('RoPE', () => {
  const llama3 = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 }
  const parsed = { type: 'llama3', theta: 5e5, factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 64 }
  test.each<[string, Record<string, unknown>, object]>([
    ['old spelling', { rope_theta: 5e5, rope_scaling: llama3 }, parsed],
    ['new spelling', { rope_parameters: { ...llama3, rope_theta: 5e5 } }, parsed],
    ['new spelling with theta at the top', { rope_theta: 5e5, rope_parameters: llama3 }, parsed],
    ['type, older still', { rope_scaling: { type: 'linear', factor: 2 } }, { type: 'linear', theta: 10000, factor: 2 }],
    ['rope_type default', { rope_theta: 7, rope_scaling: { rope_type: 'default' } }, { type: 'default', theta: 7 }]
  ])('%s', (_, changes, rope) => expect(parse(changes).rope).toEqual(rope))
})

test.each<[string, Record<string, unknown>, string]>([
  ['float16', { torch_dtype: 'float16' }, 'float16'],
  ['torch.bfloat16', { torch_dtype: 'torch.bfloat16' }, 'bfloat16'],
  ['dtype', { dtype: 'bfloat16' }, 'bfloat16']
])('dtype %s', (_, changes, dtype) => expect(parse(changes).dtype).toBe(dtype))

test('one end token or several', () => {
  expect(parse({ eos_token_id: 2 }).eosTokenIds).toEqual([2])
  expect(parse({ eos_token_id: [2, 7] }).eosTokenIds).toEqual([2, 7])
})

describe('unsupported_model, with the name of what is not supported', () => {
  test.each<[Record<string, unknown>, RegExp]>([
    [
      { model_type: 'mamba', architectures: ['MambaForCausalLM'] },
      /MambaForCausalLM.*mamba.*supported: LlamaForCausalLM \(llama\), Qwen3ForCausalLM \(qwen3\)/
    ],
    [{ architectures: ['LlamaForSequenceClassification'] }, /LlamaForSequenceClassification/],
    [{ model_type: undefined, architectures: undefined }, /without model_type/],
    [{ model_type: 'constructor' }, /constructor/],
    [{ quantization_config: { quant_method: 'gptq' } }, /quantization_config/],
    [{ use_sliding_window: true }, /use_sliding_window/],
    [{ layer_types: ['full_attention', 'sliding_attention'] }, /layer_types.*sliding_attention/],
    [{ hidden_act: 'mish' }, /hidden_act "mish"/],
    [{ rope_scaling: { rope_type: 'yarn', factor: 4 } }, /rope_type "yarn"/],
    [{ rope_scaling: { type: 'dynamic', factor: 4 } }, /type "dynamic"/],
    [{ partial_rotary_factor: 0.5 }, /partial_rotary_factor/]
  ])('%j', (changes, pattern) => {
    expect(() => parse(changes)).toThrow(expect.objectContaining({ code: 'unsupported_model', message: expect.stringMatching(pattern) }))
  })
})

describe('corrupt_file, with the name of the field', () => {
  const fields = [
    'vocab_size',
    'hidden_size',
    'num_hidden_layers',
    'num_attention_heads',
    'intermediate_size',
    'max_position_embeddings',
    'num_key_value_heads',
    'head_dim'
  ]
  const values = [0, -1, 1.5, 1e300, 2 ** 40, 'x', true, [], {}, '64']
  test.each(fields.flatMap((field) => values.map((value) => [field, value] as const)))('%s %j', (field, value) => {
    expect(() => parse({ [field]: value })).toThrow(
      expect.objectContaining({ code: 'corrupt_file', message: expect.stringContaining(field) })
    )
  })

  test.each<[string, Record<string, unknown>]>([
    ['vocab_size', { vocab_size: undefined }],
    ['num_key_value_heads', { num_key_value_heads: 3 }],
    ['head_dim', { head_dim: 15 }],
    ['num_attention_heads', { num_attention_heads: 3 }],
    ['rms_norm_eps', { rms_norm_eps: -1 }],
    ['rms_norm_eps', { rms_norm_eps: 'x' }],
    ['rope_theta', { rope_theta: 0 }],
    ['rope_scaling', { rope_scaling: 'x' }],
    ['factor', { rope_scaling: { type: 'linear' } }],
    ['high_freq_factor', { rope_scaling: { rope_type: 'llama3', factor: 2, low_freq_factor: 4, high_freq_factor: 4 } }],
    ['tie_word_embeddings', { tie_word_embeddings: 1 }],
    ['eos_token_id', { eos_token_id: -1 }],
    ['eos_token_id', { eos_token_id: ['x'] }],
    ['layer_types', { layer_types: 1 }],
    ['architectures', { architectures: [1] }],
    ['model_type', { model_type: 1 }],
    ['attention_bias', { attention_bias: 'yes' }]
  ])('%s %j', (field, changes) => {
    let thrown: unknown
    try {
      parse(changes)
    } catch (error) {
      thrown = error
    }
    expect(thrown).toBeInstanceOf(HeddleError)
    expect(thrown).toMatchObject({ code: 'corrupt_file', message: expect.stringContaining(field) })
  })
})

test('a missing config.json is named', () =>
  expect(readModelConfig(__dirname)).rejects.toMatchObject({ code: 'corrupt_file', message: expect.stringContaining('config.json') }))

test('generation_config.json gives end tokens and sampling, and may be missing', async () => {
  expect(await readGenerationConfig(golden('qwen3'))).toEqual({ eosTokenIds: [2], doSample: false })
  expect(await readGenerationConfig(__dirname)).toEqual({ eosTokenIds: [], doSample: false })
})
