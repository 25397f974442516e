// How the next token is chosen: the caller's options over the model's generation_config.json over greedy, checked once, here.
import { randomInt } from 'node:crypto'
import { checkFlags } from '../checks'
import { invalidArgument } from '../errors'
import type { GenerationConfig } from '../models/generation-config'
import type { SamplingSpec } from '../program'

export interface SamplingOptions {
  /**
   * draw from the distribution; false is greedy. Default: true where a sampling option is given, else what the model suggests, else false
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
  /** a non-negative safe integer; the same seed gives the same text at any size. Default: drawn at random */
  seed?: number
}

const maxTemperature = 1000
const smallestTemperature = 1e-5
const greedy: SamplingSpec = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0 }

/** Throws `invalid_argument` that names the option. */
export function samplingSpec(options: SamplingOptions, defaults: GenerationConfig): SamplingSpec {
  checkOptions(options)
  const { temperature, topK, topP, minP } = options
  const asksToSample = [temperature, topK, topP, minP].some((value) => value !== undefined)
  const doSample = options.doSample ?? (asksToSample || defaults.doSample)
  const spec = {
    temperature: temperature ?? defaults.temperature ?? 1,
    topK: topK ?? defaults.topK ?? 0,
    topP: topP ?? defaults.topP ?? 1,
    minP: minP ?? defaults.minP ?? 0
  }
  if (!doSample || spec.temperature < smallestTemperature) return greedy
  return { ...spec, seed: options.seed ?? randomInt(2 ** 47) }
}

function checkOptions({ doSample, temperature, topK, topP, minP, seed }: SamplingOptions): void {
  checkFlags('generate', { doSample })
  checkNumber('temperature', temperature, `a number from 0 to ${maxTemperature}`, (value) => value >= 0 && value <= maxTemperature)
  checkNumber('topK', topK, 'an integer from 0', (value) => Number.isInteger(value) && value >= 0 && value < 2 ** 31)
  checkNumber('topP', topP, 'a number above 0 and at most 1', (value) => value > 0 && value <= 1)
  checkNumber('minP', minP, 'a number from 0 to 1', (value) => value >= 0 && value <= 1)
  checkNumber('seed', seed, 'an integer from 0 to 2^53 - 1', (value) => Number.isSafeInteger(value) && value >= 0)
}

function checkNumber(name: string, value: unknown, expected: string, isValid: (value: number) => boolean): void {
  if (value === undefined || (typeof value === 'number' && isValid(value))) return
  throw invalidArgument(`generate: ${name}`, expected, value)
}
