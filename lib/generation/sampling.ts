// How the next token is chosen: the caller's options over the model's generation_config.json over greedy, checked once, here.
import { randomInt } from 'node:crypto'
import { checkFlags } from '../checks'
import { invalidArgument } from '../errors'
import type { GenerationConfig } from '../models/generation-config'
import type { SamplingSpec } from '../program'
import type { SequenceEditOptions } from './sequence-edits'

export interface SamplingOptions {
  /**
   * draw from the distribution; false is greedy. Default: true where temperature, topK, topP or minP is given, else what the model suggests,
   * else false
   */
  doSample?: boolean
  /** 0 is greedy, and so is anything below 1e-5, where the distribution has one point left */
  temperature?: number
  /** only the k most likely tokens; 0 is off */
  topK?: number
  /** only the most likely tokens that together reach this probability; 1 is off */
  topP?: number
  /** only tokens at least this likely, relative to the most likely one; 0 is off */
  minP?: number
  /** logits above 0 of tokens in the prompt or the answer are divided, those below 0 multiplied by this; 1 is off (arXiv:1909.05858) */
  repetitionPenalty?: number
  /** taken from the logits of tokens that are in the answer, -2 to 2; 0 is off */
  presencePenalty?: number
  /** taken from them once for each time that they are in the answer, -2 to 2; 0 is off */
  frequencyPenalty?: number
  /** runs of so many tokens come only once in prompt and answer; 0 is off. Such an answer takes longer: its steps cannot overlap */
  noRepeatNgramSize?: number
  /**
   * added to the logits of token ids before anything else; -Infinity rules a token out. What generation_config.json says of an id that is named
   * here does not count
   */
  logitBias?: Readonly<Record<number, number>> | ReadonlyMap<number, number>
  /** a non-negative safe integer; the same seed gives the same text at any size, in any batch. Default: drawn at random */
  seed?: number
}

const maxTemperature = 1000
const smallestTemperature = 1e-5

export const greedy: SamplingSpec = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0 }

/** Whether the ranks need not be told of it. */
export const isGreedy = (spec: SamplingSpec): boolean =>
  !(spec.temperature > 0) && !hasPenalties(spec) && spec.logprobs === undefined

export const hasPenalties = ({ repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0 }: SamplingSpec): boolean =>
  repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0

/** Throws `invalid_argument` that names the option. */
export function samplingSpec(options: SamplingOptions, defaults: GenerationConfig): SamplingSpec {
  checkSampling(options)
  const { temperature, topK, topP, minP } = options
  const asksToSample = [temperature, topK, topP, minP].some((value) => value !== undefined)
  const doSample = options.doSample ?? (asksToSample || defaults.doSample)
  const spec = {
    temperature: temperature ?? defaults.temperature ?? 1,
    topK: topK ?? defaults.topK ?? 0,
    topP: topP ?? defaults.topP ?? 1,
    minP: minP ?? defaults.minP ?? 0
  }
  const penalties = penaltiesOf(options, defaults)
  if (!doSample || spec.temperature < smallestTemperature) return { ...greedy, ...penalties }
  return { ...spec, ...penalties, seed: options.seed ?? randomInt(2 ** 47) }
}

/** Those that are on. */
function penaltiesOf(options: SamplingOptions, defaults: GenerationConfig): Partial<SamplingSpec> {
  const repetitionPenalty = options.repetitionPenalty ?? defaults.repetitionPenalty ?? 1
  const { presencePenalty = 0, frequencyPenalty = 0 } = options
  return {
    ...(repetitionPenalty !== 1 && { repetitionPenalty }),
    ...(presencePenalty !== 0 && { presencePenalty }),
    ...(frequencyPenalty !== 0 && { frequencyPenalty })
  }
}

const mask64 = (1n << 64n) - 1n

/**
 * The seed of answer `index` of several to one prompt. Answer 0 has the seed itself, so it is what a call for one answer gives; further ones
 * have the upper 53 bits of splitmix64 (Steele, Lea and Flood, 2014) at its state `seed + index * 0x9e3779b97f4a7c15`.
 */
export function seedOf(seed: number, index: number): number {
  if (index === 0) return seed
  let z = (BigInt(seed) + BigInt(index) * 0x9e3779b97f4a7c15n) & mask64
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask64
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask64
  return Number((z ^ (z >> 31n)) >> 11n)
}

/**
 * What a model's makers add to logits; -Infinity rules out, `suppress_tokens` always, words of one id unless they are an end token. Source:
 * SequenceBiasLogitsProcessor, NoBadWordsLogitsProcessor and SuppressTokensLogitsProcessor of `transformers`.
 */
export function suggestedBias(config: GenerationConfig, eosTokenIds: readonly number[]): ReadonlyMap<number, number> {
  const words = (config.badIds ?? []).filter((id) => !eosTokenIds.includes(id))
  return new Map([...(config.tokenBias ?? []), ...[...words, ...(config.suppressedIds ?? [])].map((id) => [id, -Infinity] as const)])
}

/** What depends on the tokens before, if anything does. */
export function sequenceEditsOf({ noRepeatNgramSize: asked }: SamplingOptions, { noRepeatNgramSize, runBias: runs = [] }: GenerationConfig): SequenceEditOptions | undefined {
  const size = asked ?? noRepeatNgramSize ?? 0
  return runs.length > 0 || size > 0 ? { runs, noRepeatNgramSize: size } : undefined
}

/** The caller's bias over the suggested one, id by id. Throws `invalid_argument` for ids that the vocabulary lacks. */
export function biasOf(logitBias: SamplingOptions['logitBias'], vocabSize: number, suggested: ReadonlyMap<number, number>): ReadonlyMap<number, number> {
  if (logitBias === undefined) return suggested
  const bias = new Map(entriesOf(logitBias))
  for (const id of bias.keys()) {
    if (!(id < vocabSize)) throw invalidArgument('generate: logitBias', `ids from 0 to ${vocabSize - 1}`, id)
  }
  return new Map([...suggested, ...bias])
}

function entriesOf(logitBias: NonNullable<SamplingOptions['logitBias']>): [number, number][] {
  return logitBias instanceof Map ? [...logitBias] : Object.entries(logitBias).map(([id, bias]) => [Number(id), bias as number])
}

function checkSampling(options: SamplingOptions): void {
  const { doSample, temperature, topK, topP, minP, seed, repetitionPenalty, presencePenalty, frequencyPenalty } = options
  checkFlags('generate', { doSample })
  checkNumber('temperature', temperature, `a number from 0 to ${maxTemperature}`, (value) => value >= 0 && value <= maxTemperature)
  checkNumber('topK', topK, 'an integer from 0', (value) => Number.isInteger(value) && value >= 0 && value < 2 ** 31)
  checkNumber('topP', topP, 'a number above 0 and at most 1', (value) => value > 0 && value <= 1)
  checkNumber('minP', minP, 'a number from 0 to 1', (value) => value >= 0 && value <= 1)
  checkNumber('repetitionPenalty', repetitionPenalty, 'a number from 0.01 to 100', (value) => value >= 0.01 && value <= 100)
  for (const [name, penalty] of Object.entries({ presencePenalty, frequencyPenalty })) {
    checkNumber(name, penalty, 'a number from -2 to 2', (value) => value >= -2 && value <= 2)
  }
  checkNumber('noRepeatNgramSize', options.noRepeatNgramSize, 'an integer from 0', (value) => Number.isInteger(value) && value >= 0 && value < 2 ** 31)
  checkBias(options.logitBias)
  checkNumber('seed', seed, 'an integer from 0 to 2^53 - 1', (value) => Number.isSafeInteger(value) && value >= 0)
}

function checkBias(logitBias: SamplingOptions['logitBias']): void {
  if (logitBias === undefined) return
  if (typeof logitBias !== 'object' || logitBias === null || Array.isArray(logitBias))
    throw invalidArgument('generate: logitBias', 'an object or a Map from token ids to numbers', logitBias)
  for (const [id, bias] of entriesOf(logitBias)) {
    if (!Number.isInteger(id) || id < 0) throw invalidArgument('generate: logitBias', 'token ids', id)
    checkNumber(`logitBias[${id}]`, bias, 'a number from -1e9 to 1e9, or -Infinity', (value) =>
      value === -Infinity || Math.abs(value) <= 1e9)
    if (bias === undefined) throw invalidArgument(`generate: logitBias[${id}]`, 'a number', bias)
  }
}

function checkNumber(name: string, value: unknown, expected: string, isValid: (value: number) => boolean): void {
  if (value === undefined || (typeof value === 'number' && isValid(value))) return
  throw invalidArgument(`generate: ${name}`, expected, value)
}
