// config.json of a model folder as a ModelConfig: one spelling for every spelling in use. Fields are read from an allow-list; a field that
// would change the result and is not understood is refused by name, never ignored.
import { readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { HeddleError } from '../errors'
import type { DType } from '../tensor'
import type { ActivationKind } from '../value'
import { ConfigFields } from './config-fields'
import { familyOf } from './families'
import { parseStrictJsonObject } from './strict-json'

export type RopeConfig =
  | { type: 'default'; theta: number }
  | { type: 'linear'; theta: number; factor: number }
  | {
      type: 'llama3'
      theta: number
      factor: number
      lowFreqFactor: number
      highFreqFactor: number
      originalMaxPositionEmbeddings: number
    }

export interface ModelConfig {
  modelType: string
  vocabSize: number
  hiddenSize: number
  layerCount: number
  headCount: number
  kvHeadCount: number
  headDim: number
  intermediateSize: number
  maxPositionEmbeddings: number
  activation: ActivationKind
  normEps: number
  rope: RopeConfig
  /** bias of the query, key, value and output projections */
  attentionBias: boolean
  /** bias of the three projections of the MLP */
  mlpBias: boolean
  /** RMS norm of every query and key head before the rotation */
  queryKeyNorm: boolean
  tieWordEmbeddings: boolean
  /** what the configuration says the weights are; the checkpoint decides */
  dtype?: DType
  eosTokenIds: number[]
}

const maxConfigBytes = 16 * 2 ** 20
const largeDimension = 2 ** 24
const activations = new Map<string, ActivationKind>([
  ['silu', 'silu'],
  ['swish', 'silu'],
  ['gelu', 'gelu'],
  ['gelu_new', 'gelu_tanh'],
  ['gelu_pytorch_tanh', 'gelu_tanh'],
  ['relu', 'relu']
])

export async function readModelConfig(folder: string): Promise<ModelConfig> {
  const fields = await readConfigFields(path.join(folder, 'config.json'))
  if (!fields) throw new HeddleError('corrupt_file', `${folder}: config.json is missing`)
  return parseModelConfig(fields)
}

/** The fields of a JSON file, or nothing where the file is missing. */
export async function readConfigFields(file: string): Promise<ConfigFields | undefined> {
  const stats = await stat(file).catch(() => undefined)
  if (!stats) return undefined
  if (!stats.isFile() || stats.size > maxConfigBytes)
    throw new HeddleError('corrupt_file', `${file}: expected a file of at most ${maxConfigBytes} bytes`)
  return new ConfigFields(parseStrictJsonObject(await readFile(file), file), file)
}

export function parseModelConfig(fields: ConfigFields): ModelConfig {
  const { modelType, traits } = familyOf(fields)
  refuseUnknownMeaning(fields)
  const hiddenSize = fields.integer('hidden_size', { max: largeDimension })
  const headCount = fields.integer('num_attention_heads', { max: 65536 })
  const kvHeadCount = fields.integer('num_key_value_heads', { max: headCount, default: headCount })
  if (headCount % kvHeadCount !== 0) throw fields.wrong('num_key_value_heads', `a divisor of num_attention_heads ${headCount}`, kvHeadCount)
  const maxPositionEmbeddings = fields.integer('max_position_embeddings', { max: 2 ** 28 })
  return {
    modelType,
    vocabSize: fields.integer('vocab_size', { max: largeDimension }),
    hiddenSize,
    layerCount: fields.integer('num_hidden_layers', { max: 4096 }),
    headCount,
    kvHeadCount,
    headDim: readHeadDim(fields, hiddenSize, headCount),
    intermediateSize: fields.integer('intermediate_size', { max: largeDimension }),
    maxPositionEmbeddings,
    activation: readActivation(fields),
    normEps: fields.number('rms_norm_eps', { min: 0, max: 1, default: 1e-6 }),
    rope: readRope(fields, maxPositionEmbeddings),
    attentionBias: fields.flag('attention_bias', false),
    mlpBias: traits.mlpBias && fields.flag('mlp_bias', false),
    queryKeyNorm: traits.queryKeyNorm,
    tieWordEmbeddings: fields.flag('tie_word_embeddings', false),
    dtype: readDType(fields),
    eosTokenIds: fields.tokenIds('eos_token_id')
  }
}

function refuseUnknownMeaning(fields: ConfigFields): void {
  if (fields.has('quantization_config'))
    throw fields.unsupported('quantization_config', ': only float32, bfloat16 and float16 weights are read')
  if (fields.flag('use_sliding_window', false)) throw fields.unsupported('use_sliding_window')
  const layerTypes = fields.value('layer_types') ?? []
  if (!Array.isArray(layerTypes)) throw fields.wrong('layer_types', 'a list', layerTypes)
  const other = layerTypes.find((type) => type !== 'full_attention')
  if (other !== undefined)
    throw fields.unsupported('layer_types', `: expected full_attention in every layer, got ${JSON.stringify(other).slice(0, 60)}`)
  if (fields.number('partial_rotary_factor', { min: 0, max: 1, default: 1 }) !== 1) throw fields.unsupported('partial_rotary_factor')
}

function readHeadDim(fields: ConfigFields, hiddenSize: number, headCount: number): number {
  if (!fields.has('head_dim') && hiddenSize % headCount !== 0) {
    throw fields.wrong('num_attention_heads', `a divisor of hidden_size ${hiddenSize}, since head_dim is missing`, headCount)
  }
  const headDim = fields.integer('head_dim', { max: 65536, default: hiddenSize / headCount })
  if (headDim % 2 !== 0) throw fields.wrong('head_dim', 'an even number', headDim)
  return headDim
}

function readActivation(fields: ConfigFields): ActivationKind {
  const name = fields.text('hidden_act') ?? 'silu'
  const activation = activations.get(name)
  if (!activation) throw fields.unsupported('hidden_act', `: expected one of ${[...activations.keys()].join(', ')}`)
  return activation
}

/**
 * New spelling: rope_parameters holds everything. Old one: rope_theta at the top, and rope_scaling with `rope_type` or, older still,
 * `type`.
 */
function readRope(fields: ConfigFields, maxPositionEmbeddings: number): RopeConfig {
  const rope = fields.section('rope_parameters') ?? fields.section('rope_scaling') ?? new ConfigFields(new Map(), fields.where)
  const theta = (rope.has('rope_theta') ? rope : fields).number('rope_theta', { min: 1e-3, max: 1e12, default: 10000 })
  const type = rope.text('rope_type') ?? rope.text('type') ?? 'default'
  if (rope.number('partial_rotary_factor', { min: 0, max: 1, default: 1 }) !== 1) throw rope.unsupported('partial_rotary_factor')
  if (type === 'default') return { type, theta }
  if (type === 'linear') return { type, theta, factor: readFactor(rope) }
  if (type === 'llama3') return readLlama3Rope(rope, theta, maxPositionEmbeddings)
  throw rope.unsupported(rope.has('rope_type') ? 'rope_type' : 'type', ': expected default, linear or llama3')
}

const readFactor = (rope: ConfigFields): number => rope.number('factor', { min: 1, max: 1e6 })

function readLlama3Rope(rope: ConfigFields, theta: number, maxPositionEmbeddings: number): RopeConfig {
  const lowFreqFactor = rope.number('low_freq_factor', { min: 1e-3, max: 1e6 })
  const highFreqFactor = rope.number('high_freq_factor', { min: 1e-3, max: 1e6 })
  if (highFreqFactor <= lowFreqFactor) throw rope.wrong('high_freq_factor', `more than low_freq_factor ${lowFreqFactor}`, highFreqFactor)
  const originalMaxPositionEmbeddings = rope.integer('original_max_position_embeddings', { max: 2 ** 28, default: maxPositionEmbeddings })
  return { type: 'llama3', theta, factor: readFactor(rope), lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings }
}

function readDType(fields: ConfigFields): DType | undefined {
  const name = (fields.text('dtype') ?? fields.text('torch_dtype'))?.replace(/^torch\./, '')
  return name === 'float32' || name === 'bfloat16' || name === 'float16' ? name : undefined
}
