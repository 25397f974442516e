// config.json: every spelling in use gives one ModelConfig; what is unknown and changes the result is refused by name.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
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
  num_key_value_heads: 4,
  intermediate_size: 176,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5
}

function parse(changes: Record<string, unknown>) {
  const json = JSON.stringify({ ...base, ...changes })
  return parseModelConfig(new ConfigFields(parseStrictJsonObject(new TextEncoder().encode(json), 'config.json'), 'config.json'))
}

const moe = {
  model_type: 'qwen3_moe',
  architectures: ['Qwen3MoeForCausalLM'],
  num_experts: 8,
  num_experts_per_tok: 2,
  moe_intermediate_size: 48,
  norm_topk_prob: true
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
    layerNorm: false,
    unitOffset: false,
    attentionBias: false,
    attentionOutputBias: false,
    mlpBias: false,
    queryKeyNorm: true,
    gatedMLP: true,
    scaledEmbedding: false,
    tieWordEmbeddings: false,
    layers: Array(3).fill({ rope: { type: 'default', theta: 1e6 }, sparse: false }),
    dtype: 'float32',
    eosTokenIds: [2]
  })
})

test('the new spelling, tied embeddings and a head width of its own', async () => {
  expect(await readModelConfig(golden('qwen3-tied-sharded'))).toMatchObject({
    headDim: 32,
    tieWordEmbeddings: true,
    layers: Array(4).fill({ rope: { type: 'default', theta: 1e6 }, sparse: false }),
    dtype: 'float32'
  })
})

test('what a class of transformers has by default where config.json says nothing; null is no default', () => {
  const heads = { ...base, architectures: null, num_attention_heads: 64, num_key_value_heads: undefined, hidden_size: 4096 }
  const read = (changes: Record<string, unknown>) => {
    const { kvHeadCount, headDim } = parse({ ...heads, ...changes })
    return [kvHeadCount, headDim]
  }
  expect(read({})).toEqual([64, 64])
  expect(read({ model_type: 'mistral' })).toEqual([8, 64])
  expect(read({ model_type: 'qwen2' })).toEqual([32, 64])
  expect(read({ model_type: 'qwen3' })).toEqual([32, 128])
  expect(read({ model_type: 'phi3' })).toEqual([64, 64])
  expect(read({ model_type: 'mixtral' })).toEqual([8, 64])
  expect(read({ ...moe, architectures: null })).toEqual([4, 64])
  expect(read({ model_type: 'mistral', num_key_value_heads: null })).toEqual([64, 64])
  const windows = (changes: Record<string, unknown>) =>
    parse({ ...heads, use_sliding_window: true, max_window_layers: 1, ...changes }).layers.map(({ slidingWindow }) => slidingWindow)
  for (const model_type of ['qwen2', 'qwen3']) {
    expect(windows({ model_type })).toEqual([undefined, 4096, 4096])
    expect(windows({ model_type, sliding_window: null })).toEqual([undefined, undefined, undefined])
  }
  expect(windows({ ...moe, architectures: null })).toEqual([4096, 4096, 4096])
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
    layers: Array(3).fill({ rope: { type: 'default', theta: 10000 } }),
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
    ['both: rope_scaling wins', { rope_theta: 7, rope_parameters: { rope_theta: 5, ...llama3 }, rope_scaling: { type: 'linear', factor: 2 } }, { type: 'linear', theta: 7, factor: 2 }],
    ['both, but one is empty', { rope_parameters: { rope_theta: 5 }, rope_scaling: {} }, { type: 'default', theta: 5 }],
    ['rope_type default', { rope_theta: 7, rope_scaling: { rope_type: 'default' } }, { type: 'default', theta: 7 }]
  ])('%s', (_, changes, rope) => expect(parse(changes).layers[0]!.rope).toEqual(rope))

  test('dynamic scales nothing up to the positions of the model, beyond which no sequence goes', () => {
    const { layers, maxPositionEmbeddings } = parse({ rope_scaling: { type: 'dynamic', factor: 4 } })
    expect({ rope: layers[0]!.rope, maxPositionEmbeddings }).toEqual({
      rope: { type: 'dynamic', theta: 10000, factor: 4 },
      maxPositionEmbeddings: 512
    })
  })

  const yarn = { rope_type: 'yarn', factor: 8, original_max_position_embeddings: 64 }
  test.each<[string, Record<string, unknown>, object]>([
    ['as the paper has it', yarn, { attentionFactor: 0.1 * Math.log(8) + 1, betaFast: 32, betaSlow: 1, truncate: true }],
    ['a factor of its own', { ...yarn, attention_factor: 1.5 }, { attentionFactor: 1.5 }],
    ['from mscale', { ...yarn, mscale: 2, mscale_all_dim: 1 }, { attentionFactor: (0.2 * Math.log(8) + 1) / (0.1 * Math.log(8) + 1) }],
    ['other bounds', { ...yarn, beta_fast: 16, beta_slow: 2, truncate: false }, { betaFast: 16, betaSlow: 2, truncate: false }],
    ['without a factor', { rope_type: 'yarn', original_max_position_embeddings: 64 }, { factor: 8 }],
    ['without an original length', { rope_type: 'yarn', factor: 2 }, { originalMaxPositionEmbeddings: 512 }]
  ])('yarn: %s', (_, scaling, expected) =>
    expect(parse({ rope_scaling: scaling }).layers[0]!.rope).toMatchObject({ type: 'yarn', theta: 10000, ...expected })
  )

  test('longrope: the short factors, and no more positions than the original ones', () => {
    const scaling = { type: 'longrope', short_factor: Array(8).fill(1.5), long_factor: Array(8).fill(9) }
    const phi3 = { model_type: 'phi3', architectures: ['Phi3ForCausalLM'], original_max_position_embeddings: 128, rope_scaling: scaling }
    const { layers, maxPositionEmbeddings } = parse(phi3)
    expect(maxPositionEmbeddings).toBe(128)
    expect(layers[2]!.rope).toEqual({
      type: 'longrope',
      theta: 10000,
      shortFactor: Array(8).fill(1.5),
      attentionFactor: Math.sqrt(1 + Math.log(4) / Math.log(128))
    })
    expect(parse({ ...phi3, rope_scaling: { ...scaling, type: 'su' } }).layers).toEqual(layers)
    expect(() => parse({ ...phi3, rope_scaling: { ...scaling, short_factor: [1] } })).toThrow(/short_factor: expected a list of 8 numbers/)
  })

  test('a part of each head turns, in a family that knows that', () => {
    const phi3 = { model_type: 'phi3', architectures: ['Phi3ForCausalLM'], partial_rotary_factor: 0.75 }
    expect(parse(phi3).layers[0]!.rope).toEqual({ type: 'default', theta: 10000, dim: 12 })
    expect(() => parse({ ...phi3, partial_rotary_factor: 0.2 })).toThrow(/partial_rotary_factor: expected an even part/)
  })
})

describe('windows', () => {
  const windowsOf = (changes: Record<string, unknown>) => parse(changes).layers.map(({ slidingWindow }) => slidingWindow)
  const mistral = { model_type: 'mistral', architectures: ['MistralForCausalLM'] }
  const qwen2 = { model_type: 'qwen2', architectures: ['Qwen2ForCausalLM'] }
  test.each<[string, Record<string, unknown>, (number | undefined)[]]>([
    ['mistral', { ...mistral, sliding_window: 16 }, [16, 16, 16]],
    ['mistral, the default', mistral, [4096, 4096, 4096]],
    ['mistral, by layer', { ...mistral, sliding_window: 16, layer_types: ['sliding_attention', 'full_attention', 'full_attention'] }, [16, undefined, undefined]],
    ['mistral, none', { ...mistral, sliding_window: null }, [undefined, undefined, undefined]],
    ['qwen2, switched off', { ...qwen2, sliding_window: 16, use_sliding_window: false }, [undefined, undefined, undefined]],
    ['qwen2, from a layer on', { ...qwen2, sliding_window: 16, use_sliding_window: true, max_window_layers: 1 }, [undefined, 16, 16]],
    [
      'qwen2, by layer',
      { ...qwen2, sliding_window: 16, use_sliding_window: true, layer_types: ['sliding_attention', 'full_attention', 'full_attention'] },
      [16, undefined, undefined]
    ],
    ['qwen3_moe', { ...moe, sliding_window: 16, use_sliding_window: true }, [16, 16, 16]]
  ])('%s', (_, changes, expected) => expect(windowsOf(changes)).toEqual(expected))
})

describe('gemma3', () => {
  const old = {
    rope_theta: 1e6,
    rope_local_base_freq: 5000,
    rope_scaling: { rope_type: 'linear', factor: 8 },
    sliding_window: 32,
    sliding_window_pattern: 3,
    query_pre_attn_scalar: 64,
    hidden_activation: 'gelu_pytorch_tanh'
  }
  const local = { rope: { type: 'default', theta: 5000 }, slidingWindow: 32, attentionScale: 1 / 8, sparse: false }
  const whole = { rope: { type: 'linear', theta: 1e6, factor: 8 }, attentionScale: 1 / 8, sparse: false }
  const text = { model_type: 'gemma3_text', architectures: ['Gemma3ForCausalLM'] }

  test('two ropes, windows but for every third layer, a scale of its own', () => {
    const config = parse({ ...text, ...old })
    expect(config.layers).toEqual([local, local, whole])
    expect(config).toMatchObject({ activation: 'gelu_tanh', unitOffset: true, scaledEmbedding: true, tieWordEmbeddings: true, headDim: 256 })
  })

  test('the new spelling says the same', () => {
    const { rope_theta: _, rope_local_base_freq: __, rope_scaling: ___, sliding_window_pattern: ____, ...rest } = old
    const rope_parameters = {
      full_attention: { rope_type: 'linear', factor: 8, rope_theta: 1e6 },
      sliding_attention: { rope_type: 'default', rope_theta: 5000 }
    }
    const layer_types = ['sliding_attention', 'sliding_attention', 'full_attention']
    expect(parse({ ...text, ...rest, rope_parameters, layer_types }).layers).toEqual([local, local, whole])
  })

  test('what transformers does not read as it is written is refused', () => {
    const linear = { type: 'linear', factor: 8 }
    const refused = (changes: object, pattern: RegExp) =>
      expect(() => parse({ ...text, ...old, ...changes })).toThrow(expect.objectContaining({ code: 'unsupported_model', message: expect.stringMatching(pattern) }))
    refused({ rope_scaling: linear }, /rope_scaling: type "linear" is not supported/)
    refused({ rope_scaling: { rope_type: 'yarn', factor: 8, truncate: false } }, /rope_scaling: truncate false is not supported/)
    refused({ rope_parameters: { full_attention: { rope_type: 'default', rope_theta: 5 } } }, /rope_scaling \{…\} is not supported: beside rope_parameters/)
  })

  test('inside a model of text and images: its language model, of which config.json leaves out what is the default', () => {
    const config = parse({
      model_type: 'gemma3',
      architectures: ['Gemma3ForConditionalGeneration'],
      eos_token_id: [1, 106],
      torch_dtype: 'bfloat16',
      vision_config: { hidden_size: 1152 },
      text_config: { model_type: 'gemma3_text', hidden_size: 2560, num_hidden_layers: 34, intermediate_size: 10240, sliding_window: 1024 }
    })
    expect(config).toMatchObject({
      modelType: 'gemma3',
      hiddenSize: 2560,
      headCount: 8,
      kvHeadCount: 4,
      vocabSize: 262208,
      eosTokenIds: [1, 106],
      dtype: 'bfloat16'
    })
    expect(config.layers[5]).toEqual({ rope: { type: 'default', theta: 1e6 }, attentionScale: 1 / 16, sparse: false })
    expect(config.layers[4]).toMatchObject({ rope: { type: 'default', theta: 10000 }, slidingWindow: 1024 })
  })

  test.each(['attn_logit_softcapping', 'final_logit_softcapping', 'use_bidirectional_attention'])('%s is refused', (name) =>
    expect(() => parse({ ...text, [name]: name.startsWith('use') ? true : 30 })).toThrow(
      expect.objectContaining({ code: 'unsupported_model', message: expect.stringContaining(name) })
    )
  )
})

test('gpt2: its own names of fields, learned positions, scores scaled by layer', () => {
  const gpt2 = {
    model_type: 'gpt2',
    architectures: ['GPT2LMHeadModel'],
    vocab_size: 320,
    n_embd: 64,
    n_layer: 2,
    n_head: 4,
    n_positions: 128
  }
  const only = (fields: object) => parse({ ...Object.fromEntries(Object.keys(base).map((name) => [name, undefined])), ...fields })
  expect(only(gpt2)).toMatchObject({
    intermediateSize: 256,
    maxPositionEmbeddings: 128,
    activation: 'gelu_tanh',
    normEps: 1e-5,
    layerNorm: true,
    attentionBias: true,
    attentionOutputBias: true,
    mlpBias: true,
    gatedMLP: false,
    tieWordEmbeddings: true,
    layers: [{ sparse: false }, { sparse: false }]
  })
  const scaled = only({ ...gpt2, scale_attn_by_inverse_layer_idx: true, n_inner: 100 })
  expect(scaled.layers.map(({ attentionScale }) => attentionScale)).toEqual([1 / 4, 1 / 8])
  expect(scaled.intermediateSize).toBe(100)
  expect(only({ ...gpt2, scale_attn_weights: false }).layers[1]).toEqual({ attentionScale: 1, sparse: false })
  expect(() => only({ ...gpt2, n_embd: 0 })).toThrow(/n_embd: expected an integer/)
  expect(() => only({ ...gpt2, add_cross_attention: true })).toThrow(/add_cross_attention/)
})

describe('mixtures of experts', () => {
  const expertsOf = (changes: Record<string, unknown>) => parse({ ...moe, ...changes })
  test('every layer, or every second one but for some', () => {
    expect(expertsOf({}).layers.map(({ sparse }) => sparse)).toEqual([true, true, true])
    expect(expertsOf({ decoder_sparse_step: 2 }).layers.map(({ sparse }) => sparse)).toEqual([false, true, false])
    expect(expertsOf({ mlp_only_layers: [0] }).layers.map(({ sparse }) => sparse)).toEqual([false, true, true])
  })

  test('both names of the number of experts, and whether chosen weights add up to one', () => {
    const expected = { expertCount: 8, expertsPerToken: 2, intermediateSize: 48, normalized: true }
    expect(expertsOf({}).experts).toEqual(expected)
    expect(expertsOf({ num_experts: undefined, num_local_experts: 8 }).experts).toEqual(expected)
    expect(expertsOf({ norm_topk_prob: undefined }).experts).toEqual({ ...expected, normalized: false })
    const mixtral = { model_type: 'mixtral', architectures: ['MixtralForCausalLM'], num_local_experts: 4, sliding_window: null }
    expect(parse(mixtral).experts).toEqual({ expertCount: 4, expertsPerToken: 2, intermediateSize: 176, normalized: true })
  })

  test.each<[string, Record<string, unknown>]>([
    ['num_experts', { num_experts: 0 }],
    ['num_experts_per_tok', { num_experts_per_tok: 9 }],
    ['mlp_only_layers', { mlp_only_layers: ['0'] }],
    ['moe_intermediate_size', { moe_intermediate_size: undefined }]
  ])('%s %j', (field, changes) =>
    expect(() => expertsOf(changes)).toThrow(expect.objectContaining({ code: 'corrupt_file', message: expect.stringContaining(field) }))
  )
})

describe('fields that nobody knows', () => {
  test.each(['residual_multiplier', 'qk_nope_head_dim', 'attn_logit_softcapping', 'mup_scale', 'num_experts'])('%s is refused', (name) =>
    expect(() => parse({ [name]: 30 })).toThrow(
      expect.objectContaining({ code: 'unsupported_model', message: expect.stringContaining(name), details: { field: name } })
    )
  )

  test('inside rope_scaling too', () => {
    expect(() => parse({ rope_scaling: { type: 'linear', factor: 2, mrope_section: [1, 2] } })).toThrow(/rope_scaling: mrope_section/)
  })

  test('what says nothing, and what matters in training alone, is no obstacle', () => {
    const harmless = { transformers_version: '4.40', attention_dropout: 0.1, use_cache: true, pad_token_id: 3, _name_or_path: 'x' }
    expect(parse({ ...harmless, a: null, b: false, c: 0, d: [], e: {}, f: '' })).toEqual(parse({}))
  })
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
      /MambaForCausalLM.*mamba.*supported: LlamaForCausalLM \(llama\), .*Qwen3MoeForCausalLM \(qwen3_moe\)/
    ],
    [{ architectures: ['LlamaForSequenceClassification'] }, /LlamaForSequenceClassification/],
    [{ model_type: undefined, architectures: undefined }, /without model_type/],
    [{ model_type: 'constructor' }, /constructor/],
    [{ quantization_config: { quant_method: 'gptq' } }, /quantization_config/],
    [{ use_sliding_window: true }, /use_sliding_window/],
    [{ layer_types: ['full_attention', 'sliding_attention', 'full_attention'] }, /layer_types.*sliding_attention/],
    [{ hidden_act: 'mish' }, /hidden_act "mish"/],
    [{ rope_scaling: { rope_type: 'mrope', factor: 4 } }, /rope_type "mrope"/],
    [{ rope_scaling: { type: 'proportional', factor: 4 } }, /type "proportional"/],
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

describe('generation_config.json', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), 'heddle-generation-config-'))
  })
  afterAll(() => rm(folder, { recursive: true }))
  const read = async (fields: object) => {
    await writeFile(path.join(folder, 'generation_config.json'), JSON.stringify(fields))
    return readGenerationConfig(folder, 100)
  }

  test('every option of a generation that it can hold', async () => {
    const sampling = { do_sample: true, temperature: 0.6, top_k: 20, top_p: 0.95, min_p: 0.1, repetition_penalty: 1.05 }
    expect(await read({ eos_token_id: [1, 2], ...sampling, max_new_tokens: 2048, min_new_tokens: 1, stop_strings: ['a', 'b'] })).toEqual({
      eosTokenIds: [1, 2],
      doSample: true,
      temperature: 0.6,
      topK: 20,
      topP: 0.95,
      minP: 0.1,
      repetitionPenalty: 1.05,
      maxNewTokens: 2048,
      minNewTokens: 1,
      stopTexts: ['a', 'b']
    })
    const lists = { sequence_bias: [[[5], -2.5], [[6], 3]], suppress_tokens: [7, -1, 100], bad_words_ids: [[8]], begin_suppress_tokens: [9], forced_eos_token_id: 2 }
    expect(await read({ max_length: 50, min_length: 5, ...lists })).toEqual({
      eosTokenIds: [], doSample: false, maxLength: 50, minLength: 5, tokenBias: new Map([[5, -2.5], [6, 3]]), suppressedIds: [7], badIds: [8],
      beginSuppressedIds: [9], forcedEosIds: [2]
    })
    expect(await read({ stop_strings: 'end', max_new_tokens: null, repetition_penalty: null })).toMatchObject({ stopTexts: ['end'] })
  })

  test('what would change the text and is not honoured is named, and nothing else', async () => {
    const silent = { num_beams: 1, typical_p: 1.0, no_repeat_ngram_size: 0, epsilon_cutoff: 0.0, guidance_scale: 1, length_penalty: 2, use_cache: true, bos_token_id: 1,
      pad_token_id: 3, cache_implementation: 'hybrid', transformers_version: '5', watermarking_config: null, constraints: [] }
    expect((await read(silent)).ignored).toBeUndefined()
    const loud = { num_beams: 4, typical_p: 0.9, epsilon_cutoff: 3e-4, eta_cutoff: 2e-3, encoder_repetition_penalty: 1.5, encoder_no_repeat_ngram_size: 2, top_h: 0.4,
      exponential_decay_length_penalty: [10, 1.1], forced_bos_token_id: 1, guidance_scale: 1.5, max_time: 2, penalty_alpha: 0.6, num_return_sequences: 3,
      token_healing: true, watermarking_config: { bias: 2 }, something_new: 1 }
    expect((await read({ ...silent, ...loud })).ignored!.sort()).toEqual(Object.keys(loud).sort())
    const longer = await read({ sequence_bias: [[[5], 1.0], [[5, 6], 2.0]], bad_words_ids: [[1, 2], [3]], no_repeat_ngram_size: 3 })
    expect(longer).toEqual({ eosTokenIds: [], doSample: false, tokenBias: new Map([[5, 1]]), badIds: [3], noRepeatNgramSize: 3,
      runBias: [{ ids: [5, 6], bias: 2 }, { ids: [1, 2], bias: -Infinity }] })
  })

  test.each([{ sequence_bias: [[[100], 1]] }, { sequence_bias: { 5: 1 } }, { sequence_bias: [[[], 1]] }, { bad_words_ids: [5] }, { bad_words_ids: [[100]] }, { suppress_tokens: ['a'] },
    { max_length: 0 }, { forced_eos_token_id: -1 }, { repetition_penalty: 0 }, { max_new_tokens: 0 }, { min_new_tokens: -1 }, { stop_strings: [''] }, { stop_strings: 5 }])(
    '%j is refused by name',
    async (fields) => {
      await expect(read(fields)).rejects.toMatchObject({ code: 'corrupt_file', message: expect.stringContaining(Object.keys(fields)[0]!) })
    }
  )
})
