// From a model folder to ranks that hold it: configuration, checks, memory, weights, programs, in that order.
// Rule: what can be refused is refused before a weight is read, and whatever fails leaves nothing behind.
import path from 'node:path'
import { checkFlags, checkOptions, checkPositive } from '../checks'
import { invalidArgument } from '../errors'
import { checkReproducible, cudaMemory, dtypes, maxGroupSize, openGroup } from '../group'
import type { Group, OpenGroupOptions } from '../group'
import { modelFolder } from '../hub/fetch-model'
import type { DownloadProgress } from '../hub/download-progress'
import { defaultBlockSize } from '../kv-caches'
import { Checkpoint } from '../models/checkpoint'
import { readModelConfig } from '../models/config'
import type { ModelConfig } from '../models/config'
import { checkSize, Decoder, throwIfAborted } from '../models/decoder'
import type { LoadProgress } from '../models/decoder'
import { readGenerationConfig } from '../models/generation-config'
import type { GenerationConfig } from '../models/generation-config'
import { defaultUtilization, planGpuCacheTokens, workspaceEstimate } from '../models/gpu-memory'
import { availableMemory, planCacheTokens } from '../models/memory'
import { planOf } from '../models/plan-parts'
import type { DecoderPlan } from '../models/plan-parts'
import { withHeadOfWeights } from '../models/tied-head'
import { parsePlan } from '../models/tp-plan'
import type { TPPlan } from '../models/tp-plan'
import { AutoTokenizer } from '../tokenizer/tokenizer'
import type { Tokenizer } from '../tokenizer/tokenizer'
import { hasTokenizer } from '../tokenizer/tokenizer-files'
import { checkSignal } from './options'
import { Runtime, stepLimits } from './runtime'

type DType = NonNullable<OpenGroupOptions['dtype']>

export interface PretrainedOptions extends Pick<OpenGroupOptions, 'device' | 'devices' | 'host' | 'communicator' | 'collectiveTimeoutMs' | 'reproducible'> {
  /** ranks, at most as many as query heads. Default 1 */
  tpSize?: number
  /** refuse a `tpSize` that does not divide the heads and the width of the MLP, with the valid ones. Default false: uneven parts */
  strict?: boolean
  /** how the weights are split: `auto`, or styles by module, as `transformers` names both */
  tpPlan?: TPPlan
  /** of a mixture of experts: whole experts on each rank, in place of a part of every expert. Default false */
  expertParallel?: boolean
  /** of weights and compute; `auto` is the checkpoint's own, `float32` keeps its weights as they are and computes in float32 */
  dtype?: 'auto' | DType
  /** cached tokens over all sequences; default: several contexts while they are small, bounded by memory */
  maxTokens?: number
  /** part of a GPU's memory that may be in use once the model is loaded, by whomever: it sizes the cache. Default 0.9 */
  gpuMemoryUtilization?: number
  /** keep full blocks of the cache for prompts that begin alike, until their room is needed. Default true */
  prefixReuse?: boolean
  /** of a model on the hub: a branch, a tag or a commit. Default `main` */
  revision?: string
  /** bytes so far: of the download, where there is one, then of the weights that went to the ranks */
  onProgress?: (progress: DownloadProgress | LoadProgress) => void
  /** ends the load; it then rejects with `aborted` */
  signal?: AbortSignal
}

interface Warning {
  text: string
  code: 'HEDDLE_TP_PLAN' | 'HEDDLE_GENERATION_CONFIG'
}

export interface LoadedModel {
  config: ModelConfig
  generationConfig: GenerationConfig
  eosTokenIds: readonly number[]
  tokenizer?: Tokenizer
  /** what was asked for and is not done as asked */
  warnings: readonly Warning[]
  group: Group
  runtime: Runtime
}

const where = 'AutoModelForCausalLM.fromPretrained'
const groupOptions = ['device', 'devices', 'host', 'communicator', 'collectiveTimeoutMs', 'reproducible'] as const
const ownOptions = ['tpSize', 'strict', 'tpPlan', 'expertParallel', 'dtype', 'maxTokens', 'gpuMemoryUtilization', 'prefixReuse', 'revision', 'onProgress']
export const pretrainedOptions: readonly string[] = [...ownOptions, ...groupOptions, 'signal']

export async function loadModel(nameOrFolder: string, options: PretrainedOptions): Promise<LoadedModel> {
  checkArguments(nameOrFolder, options)
  const { tpSize = 1, revision, onProgress, signal } = options
  throwIfAborted(signal)
  const folder = await modelFolder(nameOrFolder, { ...(revision !== undefined && { revision }), ...(onProgress && { onProgress }), ...(signal && { signal }) })
  const read = await readModelConfig(folder)
  const planFor = (config: ModelConfig): DecoderPlan => planOf(where, options.tpPlan ?? 'auto', config, options.expertParallel)
  checkSize(read, tpSize, planFor(read), { strict: options.strict ?? false, reproducible: options.reproducible ?? false })
  const generationConfig = await readGenerationConfig(folder, read.vocabSize)
  const checkpoint = await Checkpoint.open(folder)
  const config = await withHeadOfWeights(read, checkpoint)
  const plan = planFor(config)
  const tokenizer = (await hasTokenizer(folder)) ? await AutoTokenizer.fromPretrained(folder) : undefined
  throwIfAborted(signal)
  const { group, runtime } = await startRanks(config, plan, checkpoint, options)
  const eosTokenIds = [generationConfig.eosTokenIds, config.eosTokenIds, tokenizer?.eosTokenIds ?? []].find((ids) => ids.length > 0) ?? []
  const warnings = [...plan.warnings.map((text): Warning => ({ text: `${where}: ${text}`, code: 'HEDDLE_TP_PLAN' })), ...ignoredFields(folder, generationConfig)]
  return { config, generationConfig, eosTokenIds, group, runtime, warnings, ...(tokenizer && { tokenizer }) }
}

function ignoredFields(folder: string, { ignored = [] }: GenerationConfig): Warning[] {
  if (ignored.length === 0) return []
  const text = `${path.join(folder, 'generation_config.json')} asks for what is not supported and may change the text: ${ignored.join(', ')}`
  return [{ text, code: 'HEDDLE_GENERATION_CONFIG' }]
}

/** Tells them as Node tells warnings. */
export function emitWarnings({ warnings }: Pick<LoadedModel, 'warnings'>): void {
  for (const { text, code } of warnings) process.emitWarning(text, { type: 'HeddleWarning', code })
}

async function startRanks(
  config: ModelConfig,
  plan: DecoderPlan,
  checkpoint: Checkpoint,
  options: PretrainedOptions
): Promise<{ group: Group; runtime: Runtime }> {
  const { tpSize = 1, dtype = 'auto', signal } = options
  const given = groupOptions.filter((name) => options[name] !== undefined).map((name) => [name, options[name]])
  const group = await openGroup({ size: tpSize, dtype: dtype === 'auto' ? checkpoint.dtype : dtype, ...Object.fromEntries(given) })
  const closeGroup = (): void => void group.close() // ends a load that is under way
  signal?.addEventListener('abort', closeGroup, { once: true })
  try {
    const decoder = new Decoder(group, config, plan)
    decoder.check(checkpoint)
    const cacheTokens = group.device === 'cuda' ? planGpuCache(decoder, checkpoint, options) : planCache(decoder, checkpoint, options)
    await decoder.load(checkpoint, options)
    const runtime = await Runtime.create(decoder, cacheTokens, options.prefixReuse)
    throwIfAborted(signal)
    return { group, runtime }
  } catch (error) {
    await group.close()
    throwIfAborted(signal)
    throw error
  } finally {
    signal?.removeEventListener('abort', closeGroup)
  }
}

function planCache(decoder: Decoder, checkpoint: Checkpoint, { maxTokens }: PretrainedOptions): number {
  const sum = (bytesOf: (rank: number) => number): number =>
    Array.from({ length: decoder.group.size }, (_, rank) => bytesOf(rank)).reduce((total, bytes) => total + bytes, 0)
  return planCacheTokens(
    {
      weightBytes: sum((rank) => decoder.weightBytes(rank, checkpoint)),
      cacheBytesPerToken: sum((rank) => decoder.cacheBytesPerToken(rank)),
      contextTokens: decoder.config.maxPositionEmbeddings,
      blockSize: defaultBlockSize,
      ...(maxTokens !== undefined && { maxTokens })
    },
    availableMemory()
  )
}

function planGpuCache(decoder: Decoder, checkpoint: Checkpoint, options: PretrainedOptions): number {
  const { group, config } = decoder
  const { maxTokens, gpuMemoryUtilization = defaultUtilization } = options
  const limits = stepLimits(group.device)
  const shares = group.devices.map((device, rank) => ({
    rank,
    device,
    weightBytes: decoder.weightBytes(rank, checkpoint),
    workspaceBytes: workspaceEstimate(config, group, limits, decoder.plan),
    cacheBytesPerToken: decoder.cacheBytesPerToken(rank)
  }))
  return planGpuCacheTokens(shares, cudaMemory, gpuMemoryUtilization, {
    contextTokens: config.maxPositionEmbeddings,
    sequences: limits.maxSequences,
    blockSize: defaultBlockSize,
    ...(maxTokens !== undefined && { maxTokens })
  })
}

function checkArguments(folder: unknown, options: PretrainedOptions): void {
  if (typeof folder !== 'string' || folder === '') throw invalidArgument(where, 'a model folder, or the name of a model on the Hugging Face hub', folder)
  checkOptions(where, options, pretrainedOptions)
  const { tpSize = 1, tpPlan = 'auto', dtype = 'auto', maxTokens, gpuMemoryUtilization, onProgress, signal } = options
  if (!Number.isInteger(tpSize) || tpSize < 1 || tpSize > maxGroupSize)
    throw invalidArgument(`${where}: tpSize`, `an integer from 1 to ${maxGroupSize}`, tpSize)
  checkReproducible(where, tpSize, options.reproducible)
  parsePlan(where, tpPlan)
  checkFlags(where, { strict: options.strict, expertParallel: options.expertParallel, prefixReuse: options.prefixReuse })
  if (dtype !== 'auto' && !dtypes.includes(dtype))
    throw invalidArgument(`${where}: dtype`, 'auto, float32, bfloat16 or float16', dtype)
  if (maxTokens !== undefined) checkPositive(where, { maxTokens })
  if (gpuMemoryUtilization !== undefined) checkUtilization(gpuMemoryUtilization)
  if (onProgress !== undefined && typeof onProgress !== 'function') throw invalidArgument(`${where}: onProgress`, 'a function', onProgress)
  checkSignal(where, signal)
}

function checkUtilization(value: unknown): void {
  const isPart = typeof value === 'number' && value > 0 && value <= 1
  if (!isPart) throw invalidArgument(`${where}: gpuMemoryUtilization`, 'a number above 0 and at most 1', value)
}
