// Whether and how a model fits, before a weight is read: sizes, bytes of every rank, collectives, and what a GPU would make of it.
import { checkFlags, checkOptions } from '../checks'
import { HeddleError, invalidArgument } from '../errors'
import { checkReproducible, dtypes, maxGroupSize } from '../group'
import type { DType, Group } from '../group'
import { modelFolder } from '../hub/fetch-model'
import { KVCaches } from '../kv-caches'
import { Checkpoint } from '../models/checkpoint'
import { parseModelConfig, readModelConfig } from '../models/config'
import type { ModelConfig } from '../models/config'
import { ConfigFields } from '../models/config-fields'
import { checkSize, Decoder } from '../models/decoder'
import type { SizeOptions } from '../models/decoder'
import { workspaceEstimate } from '../models/gpu-memory'
import type { PlanExplanation } from '../models/plan-explanation'
import { planOf } from '../models/plan-parts'
import type { DecoderPlan } from '../models/plan-parts'
import { parseStrictJsonObject } from '../models/strict-json'
import type { TPPlan } from '../models/tp-plan'
import { Program } from '../program'
import { elementBytes, lengthOf, splitHeads } from '../shard'
import { gpuProfiles } from './gpus'
import type { GpuProfile } from './gpus'
import { notedGroup } from './noted-ranks'
import { tokenCost } from './steps'
import type { TokenCost } from './steps'

export interface PlanOptions {
  /** one size; default: every valid one up to 8 */
  tpSize?: number
  /** of weights and compute; default what the model has */
  dtype?: 'auto' | DType
  /** a name of the table, such as `H200`: adds predictions */
  gpu?: string
  expertParallel?: boolean
  /** sizes that divide heads and widths alone */
  strict?: boolean
  /** results that do not depend on the size: 1, 2, 4 and 8 alone */
  reproducible?: boolean
  /** as `AutoModelForCausalLM.fromPretrained` takes it. Default `auto` */
  tpPlan?: TPPlan
  /** adds to each size what becomes of every parameter */
  explain?: boolean
  /** of a model on the hub */
  revision?: string
}

export interface RankPlan {
  rank: number
  weightBytes: number
  /** of the KV cache, for 1000 tokens */
  cacheBytesPer1kTokens: number
  /** an upper estimate of what programs take beside weights and cache */
  workspaceBytes: number
}

/** All of it modelled: from the rates in the table, not from a run. */
export interface Prediction {
  modelled: true
  gpu: string
  decodeTokensPerSecond: number
  /** of a prompt of 2048 tokens */
  prefillTokensPerSecond: number
  /** tokens that the cache of every rank has room for beside the rest, in 90 % of the memory; 0: it does not fit */
  cacheTokens: number
}

export interface SizePlan {
  tpSize: number
  ranks: RankPlan[]
  collectives: { allReduces: number; others: number; bytesPerToken: number }
  predicted?: Prediction
  /** where `explain` asks for it; `String(…)` of it is a table */
  parameters?: PlanExplanation
}

export interface TensorParallelPlan {
  modelType: string
  dtype: DType
  validSizes: number[]
  sizes: SizePlan[]
  /** the asked size, where it is not valid: why, and which are nearest */
  refused?: { tpSize: number; why: string; nearest: number[] }
  /** of a `tpPlan` by module: rules that match nothing, modules without a rule */
  warnings?: readonly string[]
}

const where = 'planTensorParallel'
export const planOptions = ['tpSize', 'dtype', 'gpu', 'expertParallel', 'strict', 'reproducible', 'tpPlan', 'explain', 'revision'] as const
const prefillTokens = 2048
const usableMemory = 0.9
const limits = { maxTokens: 2048, maxSequences: 64 }

/**
 * `model`: a folder, a name on the hub (only config.json is fetched), or what config.json says as an object. Reads no weight and loads no
 * binary. Throws `invalid_argument` for options and names, `unsupported_model` and `corrupt_file` as loading does; a size that is not
 * valid is an answer, not an error. A `tpPlan` throws as loading with it does.
 */
export async function planTensorParallel(model: string | object, options: PlanOptions = {}): Promise<TensorParallelPlan> {
  const { config, dtype, stored } = await sourceOf(model, checkPlanOptions(options))
  const { tpSize, gpu, explain = false, strict = false, reproducible = false } = options
  const split = planOf(where, options.tpPlan ?? 'auto', config, options.expertParallel)
  const profile = gpu === undefined ? undefined : profileOf(gpu)
  const refusals = new Map(range(maxGroupSize).map((size) => [size, refusalOf(config, size, split, { strict, reproducible })]))
  const validSizes = range(maxGroupSize).filter((size) => !refusals.get(size))
  const wanted = tpSize === undefined ? validSizes.filter((size) => size <= 8) : [tpSize].filter((size) => validSizes.includes(size))
  const sizes: SizePlan[] = []
  for (const size of wanted) sizes.push(await planSize(config, size, split, { dtype, stored, explain, reproducible }, profile))
  const why = tpSize === undefined ? undefined : refusals.get(tpSize)
  const refused = why && { refused: { tpSize: tpSize!, why, nearest: nearest(validSizes, tpSize!) } }
  return { modelType: config.modelType, dtype, validSizes, sizes, ...refused, ...(split.warnings.length > 0 && { warnings: split.warnings }) }
}

async function planSize(
  config: ModelConfig,
  tpSize: number,
  split: DecoderPlan,
  { dtype, stored, explain, reproducible }: { dtype: DType; stored: DType; explain: boolean; reproducible: boolean },
  profile: GpuProfile | undefined
): Promise<SizePlan> {
  const { group, notes } = notedGroup(tpSize, dtype, reproducible)
  const decoder = new Decoder(group, config, split)
  await decoder.loadPlaceholders(stored)
  const weights = [...notes.tensors.values()].filter((specs) => specs[0]!.role === 'weight')
  const caches = new KVCaches(group, 1)
  await Program.create(group, { ...limits, caches }, (g) => decoder.sample(decoder.hidden(g)))
  const bytes = (specs: (typeof weights)[number], rank: number): number =>
    specs[rank]!.shape.reduce((product, length) => product * length, elementBytes(specs[rank]!.dtype))
  const ranks = range(tpSize).map((number): RankPlan => {
    const rank = number - 1
    return {
      rank,
      weightBytes: weights.reduce((sum, specs) => sum + bytes(specs, rank), 0),
      cacheBytesPer1kTokens: 1000 * decoder.cacheBytesPerToken(rank),
      workspaceBytes: workspaceEstimate(config, group, limits, decoder.plan)
    }
  })
  const costs = ranks.map(({ rank }) => tokenCost(notes.programs[0]!.nodes[rank]!, rank, notes.tensors, config))
  const { allReduceWidths, otherCollectives } = costs[0]!
  const bytesPerToken = tpSize === 1 ? 0 : allReduceWidths.reduce((sum, width) => sum + width * reducedBytes(group, dtype), 0)
  const counts = tpSize === 1 ? { allReduces: 0, others: 0 } : { allReduces: allReduceWidths.length, others: otherCollectives }
  return {
    tpSize,
    ranks,
    collectives: { ...counts, bytesPerToken },
    ...(profile && { predicted: predict(decoder, ranks, costs, dtype, profile) }),
    ...(explain && { parameters: decoder.explainPlan() })
  }
}

/** Of an element of an all-reduce: a reproducible group rounds no partial sum. */
const reducedBytes = ({ reproducible }: Group, dtype: DType): number => (reproducible ? 4 : elementBytes(dtype))

/** docs/performance.md derives the formulas: the slowest rank's bytes or operations at the GPU's rates, and its all-reduces. */
function predict({ config, plan, group }: Decoder, ranks: RankPlan[], costs: TokenCost[], dtype: DType, gpu: GpuProfile): Prediction {
  const size = ranks.length
  const most = (values: number[]): number => Math.max(...values)
  const communication = (tokens: number): number =>
    size === 1 ? 0 : costs[0]!.allReduceWidths.reduce((sum, width) => sum + allReduceSeconds(gpu, size, tokens * width * reducedBytes(group, dtype)), 0)
  const decode = most(costs.map((cost) => cost.weightBytesRead)) / gpu.readRate + communication(1)
  const { reproducible } = group
  const headsOf = (size: number): number =>
    most(splitHeads(where, config.headCount, config.kvHeadCount, { size, reproducible }).map(({ queries }) => lengthOf(queries)))
  const heads = plan.attention.reduce((sum, { split }) => sum + headsOf(split === 'replicate' ? 1 : size), 0)
  const attention = 2 * heads * config.headDim * prefillTokens ** 2
  const linear = most(costs.map((cost) => prefillTokens * cost.operations + cost.headOperations))
  const prefill = (linear + attention) / gpu.arithmeticRate + communication(prefillTokens)
  const room = ranks.map(({ weightBytes, workspaceBytes, cacheBytesPer1kTokens }) =>
    Math.floor((1000 * (usableMemory * gpu.memoryBytes - weightBytes - workspaceBytes)) / cacheBytesPer1kTokens))
  return {
    modelled: true,
    gpu: gpu.name,
    decodeTokensPerSecond: 1 / decode,
    prefillTokensPerSecond: prefillTokens / prefill,
    cacheTokens: Math.max(0, Math.min(...room))
  }
}

function allReduceSeconds({ latency, linkRate }: GpuProfile, size: number, bytes: number): number {
  return latency * (1 + Math.log2(size / 2) / 4) + (2 * (size - 1) * bytes) / size / linkRate
}

interface Source {
  config: ModelConfig
  dtype: DType
  /** of the weights in the files */
  stored: DType
}

async function sourceOf(model: unknown, { dtype = 'auto', revision }: PlanOptions): Promise<Source> {
  const chosen = (stored: DType, config: ModelConfig): Source => ({ config, stored, dtype: dtype === 'auto' ? stored : dtype })
  if (typeof model === 'object' && model !== null) {
    const config = parseModelConfig(new ConfigFields(parseStrictJsonObject(Buffer.from(JSON.stringify(model)), where), where))
    return chosen(config.dtype ?? 'float32', config)
  }
  if (typeof model !== 'string' || model === '') throw invalidArgument(where, 'a model folder, a name on the Hugging Face hub, or a configuration', model)
  const folder = await modelFolder(model, { parts: { weights: false, tokenizer: false }, ...(revision !== undefined && { revision }) })
  const config = await readModelConfig(folder)
  const checkpoint = await Checkpoint.open(folder).catch((error: HeddleError) => {
    if (error.code === 'corrupt_file' && /has neither/.test(error.message)) return undefined // a configuration alone
    throw error
  })
  return chosen(checkpoint?.dtype ?? config.dtype ?? 'float32', config)
}

function checkPlanOptions(options: PlanOptions): PlanOptions {
  checkOptions(where, options, planOptions)
  const { tpSize, dtype = 'auto', gpu, expertParallel, strict, reproducible, explain } = options
  checkFlags(where, { expertParallel, strict, reproducible, explain })
  if (tpSize !== undefined && !(Number.isInteger(tpSize) && tpSize >= 1 && tpSize <= maxGroupSize))
    throw invalidArgument(`${where}: tpSize`, `an integer from 1 to ${maxGroupSize}`, tpSize)
  if (dtype !== 'auto' && !dtypes.includes(dtype)) throw invalidArgument(`${where}: dtype`, 'auto, float32, bfloat16 or float16', dtype)
  if (gpu !== undefined) profileOf(gpu)
  return options
}

function profileOf(name: string): GpuProfile {
  const profile = gpuProfiles.find((one) => one.name.toLowerCase() === String(name).toLowerCase())
  if (profile) return profile
  throw invalidArgument(`${where}: gpu`, `one of ${gpuProfiles.map((one) => one.name).join(', ')}`, name)
}

function refusalOf(config: ModelConfig, size: number, split: DecoderPlan, options: SizeOptions): string | undefined {
  try {
    checkReproducible(where, size, options.reproducible)
    checkSize(config, size, split, options)
    return undefined
  } catch (error) {
    return (error as HeddleError).message.replace(/^\w+: /, '')
  }
}

const nearest = (sizes: number[], to: number): number[] =>
  [sizes.findLast((size) => size < to), sizes.find((size) => size > to)].filter((size) => size !== undefined)

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1)
