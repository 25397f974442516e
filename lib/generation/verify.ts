// Whether splitting a model changes what it computes: every module's output at one size against the same at others, in the model's order, so
// that the first one that departs is the one to look at.
import { checkOptions } from '../checks'
import { HeddleError, invalidArgument } from '../errors'
import type { DType } from '../tensor'
import { emitWarnings, loadModel, pretrainedOptions } from './load-model'
import type { LoadedModel, PretrainedOptions } from './load-model'
import { PromptReader } from './prompts'

/** What a comparison decides itself. */
const fixedOptions = ['tpSize', 'maxTokens', 'gpuMemoryUtilization', 'prefixReuse'] as const

export interface VerifyOptions extends Omit<PretrainedOptions, (typeof fixedOptions)[number]> {
  /** sizes to compare; the first is what the others are held to. Default 1, 2 */
  sizes?: readonly number[]
  /** a text or token ids. Default: 32 ids drawn with a fixed seed */
  prompt?: string | readonly number[]
  /**
   * relative difference of a module that is let pass; 0 compares bit for bit. Default: by data type, float32 1e-3, bfloat16 and float16 0.1;
   * with `reproducible` 0
   */
  tolerance?: number
}

/** How far one module's output is from the reference: the root mean square of the difference over that of the reference. */
export interface ModuleDifference {
  /** as the checkpoint names it, or `logits` */
  module: string
  difference: number
  /** the largest difference of one element */
  largest: number
  /** elements with other bits */
  differing: number
}

export interface Verification {
  dtype: DType
  reproducible: boolean
  tolerance: number
  tokens: number
  referenceSize: number
  sizes: {
    tpSize: number
    modules: ModuleDifference[]
    /** the first module, in the model's order, that is further off than the tolerance */
    firstDeparture?: ModuleDifference
    /** of the prompt's positions, the part at which the same token is likeliest */
    sameTopToken: number
  }[]
  /** nothing departs anywhere */
  passed: boolean
}

const where = 'verifyTensorParallel'
export const verifyOptions = ['sizes', 'prompt', 'tolerance', ...pretrainedOptions.filter((name) => !fixedOptions.some((fixed) => fixed === name))]
const defaultTokens = 32
/** What sums in another order leave, over the layers of a model, with room above it; a wrong slice is of the order of 1. */
const tolerances: Record<DType, number> = { float32: 1e-3, bfloat16: 0.1, float16: 0.1 }

/**
 * Loads the model at each size in turn and compares. Throws what `AutoModelForCausalLM.fromPretrained` throws, and `invalid_argument` for no
 * sizes or an empty prompt; a difference is a result, not an error.
 */
export async function verifyTensorParallel(nameOrFolder: string, options: VerifyOptions = {}): Promise<Verification> {
  checkOptions(where, options, verifyOptions)
  const { sizes = [1, 2], prompt, tolerance, ...load } = options
  if (!Array.isArray(sizes) || sizes.length < 2) throw invalidArgument(`${where}: sizes`, 'at least two sizes', sizes)
  if (tolerance !== undefined && !(tolerance >= 0)) throw invalidArgument(`${where}: tolerance`, 'a number from 0', tolerance)
  const [first, ...others] = sizes as number[]
  const reference = await outputsAt(nameOrFolder, first!, prompt, load)
  emitWarnings(reference)
  const { reproducible = false } = options
  const allowed = tolerance ?? (reproducible ? 0 : tolerances[reference.dtype])
  const compared: Verification['sizes'] = []
  for (const tpSize of others) {
    const { outputs } = await outputsAt(nameOrFolder, tpSize, reference.ids, load)
    compared.push({ tpSize, ...compareOutputs(reference.outputs, outputs, allowed, reference.vocabSize) })
  }
  const passed = compared.every(({ firstDeparture }) => firstDeparture === undefined)
  return { dtype: reference.dtype, reproducible, tolerance: allowed, tokens: reference.ids.length, referenceSize: first!, sizes: compared, passed }
}

interface Outputs {
  ids: readonly number[]
  dtype: DType
  vocabSize: number
  /** in the model's order; `logits` last */
  outputs: Map<string, Float32Array>
  /** of the plan; the same at every size */
  warnings: LoadedModel['warnings']
}

/** What every module of a model gives for a prompt at one size. */
async function outputsAt(
  nameOrFolder: string,
  tpSize: number,
  prompt: VerifyOptions['prompt'],
  options: PretrainedOptions
): Promise<Outputs> {
  const model = await loadModel(nameOrFolder, { ...options, tpSize })
  try {
    const ids = await promptIds(model, prompt)
    const warnings = model.warnings.filter(({ code }) => code === 'HEDDLE_TP_PLAN')
    return { ids, dtype: model.group.dtype, vocabSize: model.config.vocabSize, outputs: await model.runtime.moduleOutputs(ids), warnings }
  } finally {
    model.runtime.close(new HeddleError('closed', `${where}: done`))
    await model.group.close()
  }
}

export function compareOutputs(
  reference: Map<string, Float32Array>,
  outputs: Map<string, Float32Array>,
  tolerance: number,
  vocabSize: number
): Omit<Verification['sizes'][number], 'tpSize'> {
  const modules = [...reference].map(([module, expected]) => ({ module, ...differenceOf(expected, outputs.get(module)!) }))
  const departs = ({ difference, differing }: ModuleDifference): boolean => !(difference <= tolerance) || (tolerance === 0 && differing > 0)
  const firstDeparture = modules.find(departs) // NaN departs
  const sameTopToken = topAgreement(reference.get('logits')!, outputs.get('logits')!, vocabSize)
  return { modules, ...(firstDeparture && { firstDeparture }), sameTopToken }
}

function differenceOf(expected: Float32Array, actual: Float32Array): Omit<ModuleDifference, 'module'> {
  let [squares, off, largest, differing] = [0, 0, 0, 0]
  const [expectedBits, actualBits] = [bitsOf(expected), bitsOf(actual)]
  expected.forEach((value, i) => {
    if (expectedBits[i] !== actualBits[i]) differing++
    const difference = actual[i]! - value
    squares += value * value
    off += difference * difference
    largest = Math.max(largest, Math.abs(difference))
  })
  return { difference: off === 0 ? 0 : Math.sqrt(off / squares), largest, differing }
}

const bitsOf = (values: Float32Array): Uint32Array => new Uint32Array(values.buffer, values.byteOffset, values.length)

function topAgreement(expected: Float32Array, actual: Float32Array, vocabSize: number): number {
  const rows = expected.length / vocabSize
  const top = (logits: Float32Array, row: number): number => {
    const part = logits.subarray(row * vocabSize, (row + 1) * vocabSize)
    return part.reduce((best, value, id) => (value > part[best]! ? id : best), 0)
  }
  const same = Array.from({ length: rows }, (_, row) => top(expected, row) === top(actual, row))
  return same.filter(Boolean).length / rows
}

async function promptIds({ config, tokenizer, runtime }: LoadedModel, prompt: VerifyOptions['prompt']): Promise<readonly number[]> {
  const { contextLength } = runtime
  if (prompt === undefined) return seededIds(Math.min(defaultTokens, contextLength), config.vocabSize)
  const reader = new PromptReader(config.vocabSize, tokenizer)
  const ids = await reader.ids(where, prompt)
  reader.checkIds(`${where}: prompt`, ids, contextLength)
  return ids
}

/** The multiplicative generator of Park and Miller, from 1: the same ids everywhere. */
function seededIds(count: number, vocabSize: number): number[] {
  let state = 1
  return Array.from({ length: count }, () => {
    state = (state * 48271) % 2147483647
    return state % vocabSize
  })
}
