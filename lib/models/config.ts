// config.json of a model folder as a ModelConfig: one spelling for every spelling in use. Fields are read from an allow-list; a field
// that is not understood and may change the result is refused by name, never ignored.
import { readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { HeddleError } from '../errors'
import type { DType } from '../tensor'
import type { ActivationKind } from '../value'
import { ConfigFields } from './config-fields'
import { familyOf } from './families'
import type { Family } from './families'
import { isHarmless } from './harmless-fields'
import { noWindows } from './layer-windows'
import { readRopes } from './rope-config'
import type { RopeConfig } from './rope-config'
import { parseStrictJsonObject } from './strict-json'

export type { RopeConfig } from './rope-config'

export interface ModelConfig {
  modelType: string
  vocabSize: number
  hiddenSize: number
  layerCount: number
  headCount: number
  kvHeadCount: number
  headDim: number
  /** of the MLP of dense layers */
  intermediateSize: number
  /** tokens of a sequence at most */
  maxPositionEmbeddings: number
  activation: ActivationKind
  normEps: number
  /** LayerNorm with a bias in place of RMS norm */
  layerNorm: boolean
  /** RMS norms whose weights are stored less one */
  unitOffset: boolean
  /** bias of the query, key and value projections */
  attentionBias: boolean
  /** bias of attention's output projection */
  attentionOutputBias: boolean
  /** bias of the projections of the MLP */
  mlpBias: boolean
  /** RMS norm of every query and key head before the rotation */
  queryKeyNorm: boolean
  /** `down(activation(gate(x)) * up(x))`, else two matrices with the activation between them */
  gatedMLP: boolean
  /** embeddings are multiplied by sqrt(hiddenSize) */
  scaledEmbedding: boolean
  tieWordEmbeddings: boolean
  /** where layers are mixtures of experts */
  experts?: ExpertsConfig
  layers: LayerConfig[]
  /** what the configuration says the weights are; the checkpoint decides */
  dtype?: DType
  eosTokenIds: number[]
}

export interface ExpertsConfig {
  expertCount: number
  expertsPerToken: number
  /** inner width of one expert */
  intermediateSize: number
  /** the weights of a token's experts add up to one */
  normalized: boolean
}

export interface LayerConfig {
  /** absent: the positions of the model are learned */
  rope?: RopeConfig
  /** positions that a token sees, its own included; absent: all */
  slidingWindow?: number
  /** factor on the scores; absent: 1 / sqrt(headDim) */
  attentionScale?: number
  /** a mixture of experts in place of the MLP */
  sparse: boolean
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

export function parseModelConfig(whole: ConfigFields): ModelConfig {
  const { modelType, family } = familyOf(whole)
  refuseQuantized(whole)
  const { textSection } = family
  if (!textSection) return { ...parseText(whole.with(family), family), modelType }
  const section = whole.section(textSection)
  if (!section) throw whole.wrong(textSection, 'an object', undefined)
  const text = parseText(section.with(family), family)
  const own = { dtype: readDType(whole) ?? text.dtype, eosTokenIds: whole.tokenIds('eos_token_id') }
  return { ...text, ...own, eosTokenIds: own.eosTokenIds.length > 0 ? own.eosTokenIds : text.eosTokenIds, modelType }
}

/** The fields of the language model. */
function parseText(fields: ConfigFields, family: Family): ModelConfig {
  refuseQuantized(fields)
  const hiddenSize = fields.integer('hidden_size', { max: largeDimension })
  const layerCount = fields.integer('num_hidden_layers', { max: 4096 })
  const headCount = fields.integer('num_attention_heads', { max: 65536 })
  const headDim = readHeadDim(fields, hiddenSize, headCount)
  const ropes = family.learnedPositions ? undefined : readRopes(fields, headDim, family)
  const maxPositionEmbeddings = fields.integer('max_position_embeddings', { max: 2 ** 28 })
  const experts = family.experts && readExperts(fields, family.experts)
  const windows = (family.windows ?? noWindows)(fields, layerCount)
  const scales = readAttentionScales(fields, family, layerCount, headDim)
  const sparse = readSparseLayers(fields, family, layerCount)
  const config: ModelConfig = {
    modelType: '',
    vocabSize: fields.integer('vocab_size', { max: largeDimension }),
    hiddenSize,
    layerCount,
    headCount,
    kvHeadCount: readKVHeadCount(fields, headCount),
    headDim,
    intermediateSize: fields.integer('intermediate_size', { max: largeDimension, ...(family.plainMLP && { default: 4 * hiddenSize }) }),
    maxPositionEmbeddings: Math.min(maxPositionEmbeddings, ropes?.maxPositions ?? Infinity),
    activation: readActivation(fields),
    normEps: fields.number('rms_norm_eps', { min: 0, max: 1, default: 1e-6 }),
    layerNorm: family.layerNorm ?? false,
    unitOffset: family.unitOffset ?? false,
    ...readBiases(fields, family),
    queryKeyNorm: family.queryKeyNorm ?? false,
    gatedMLP: !family.plainMLP,
    scaledEmbedding: family.scaledEmbedding ?? false,
    tieWordEmbeddings: fields.flag('tie_word_embeddings', false),
    ...(experts && { experts }),
    layers: windows.map((slidingWindow, layer) => ({
      ...(ropes && { rope: slidingWindow === undefined ? ropes.whole : ropes.windowed }),
      ...(slidingWindow !== undefined && { slidingWindow }),
      ...(scales[layer] !== undefined && { attentionScale: scales[layer] }),
      sparse: sparse[layer]!
    })),
    dtype: readDType(fields),
    eosTokenIds: fields.tokenIds('eos_token_id')
  }
  fields.refuseUnread(isHarmless)
  return config
}

function refuseQuantized(fields: ConfigFields): void {
  if (fields.has('quantization_config'))
    throw fields.unsupported('quantization_config', ': only float32, bfloat16 and float16 weights are read')
}

function readKVHeadCount(fields: ConfigFields, headCount: number): number {
  const kvHeadCount = fields.integer('num_key_value_heads', { max: headCount, default: headCount })
  if (headCount % kvHeadCount === 0) return kvHeadCount
  throw fields.wrong('num_key_value_heads', `a divisor of num_attention_heads ${headCount}`, kvHeadCount)
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

function readBiases(fields: ConfigFields, family: Family): Pick<ModelConfig, 'attentionBias' | 'attentionOutputBias' | 'mlpBias'> {
  const configured = family.attentionBias === 'configured' && fields.flag('attention_bias', false)
  const outputBias = configured || family.attentionBias === 'all'
  return {
    attentionBias: outputBias || family.attentionBias === 'queryKeyValue',
    attentionOutputBias: outputBias,
    mlpBias: family.mlpBias === 'configured' ? fields.flag('mlp_bias', false) : family.mlpBias === 'all'
  }
}

/** Factors on the scores where they are not 1 / sqrt(headDim). */
function readAttentionScales(fields: ConfigFields, family: Family, layerCount: number, headDim: number): (number | undefined)[] {
  const layers = Array.from({ length: layerCount }, (_, layer) => layer)
  if (family.queryScalar) {
    const scale = fields.number('query_pre_attn_scalar', { min: 1e-6, max: 1e9 }) ** -0.5
    return layers.map(() => scale)
  }
  if (!family.learnedPositions) return layers.map(() => undefined)
  const scaled = fields.flag('scale_attn_weights', true)
  const byLayer = fields.flag('scale_attn_by_inverse_layer_idx', false)
  if (scaled && !byLayer) return layers.map(() => undefined)
  return layers.map((layer) => (scaled ? headDim ** -0.5 : 1) / (byLayer ? layer + 1 : 1))
}

function readExperts(fields: ConfigFields, { intermediateSize, normalized }: NonNullable<Family['experts']>): ExpertsConfig {
  // transformers 5 writes num_local_experts for every family, earlier ones num_experts for some
  const name = fields.has('num_experts') ? 'num_experts' : 'num_local_experts'
  const expertCount = fields.integer(name, { max: 65536 })
  return {
    expertCount,
    expertsPerToken: fields.integer('num_experts_per_tok', { max: expertCount }),
    intermediateSize: fields.integer(intermediateSize, { max: largeDimension }),
    normalized: normalized ?? fields.flag('norm_topk_prob', false)
  }
}

/** A mixture in every layer, or, where the configuration says so, in every `decoder_sparse_step`-th but for `mlp_only_layers`. */
function readSparseLayers(fields: ConfigFields, family: Family, layerCount: number): boolean[] {
  const step = family.experts ? fields.integer('decoder_sparse_step', { max: 65536, default: 1 }) : 0
  const dense = family.experts ? (fields.value('mlp_only_layers') ?? []) : []
  if (!Array.isArray(dense) || !dense.every((layer) => Number.isInteger(layer)))
    throw fields.wrong('mlp_only_layers', 'a list of layers', dense)
  return Array.from({ length: layerCount }, (_, layer) => step > 0 && (layer + 1) % step === 0 && !dense.includes(layer))
}

function readDType(fields: ConfigFields): DType | undefined {
  const name = (fields.text('dtype') ?? fields.text('torch_dtype'))?.replace(/^torch\./, '')
  return name === 'float32' || name === 'bfloat16' || name === 'float16' ? name : undefined
}
