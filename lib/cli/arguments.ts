// The options that commands share, from the command line to what the library takes. Rule: whatever the user mistyped is a UsageError, exit
// code 2.
import { parseArgs } from 'node:util'
import { messageOf } from '../errors'
import type { GenerateOptions } from '../generation/options'
import type { PretrainedOptions } from '../generation/load-model'
import { downloadLine } from './download-line'

export class UsageError extends Error {}

type OptionNames = Record<string, { type: 'string' | 'boolean' }>

export type Values = Record<string, string | boolean | undefined>

export const modelOptions = {
  model: { type: 'string' },
  tp: { type: 'string' },
  dtype: { type: 'string' },
  device: { type: 'string' },
  devices: { type: 'string' },
  communicator: { type: 'string' },
  revision: { type: 'string' },
  help: { type: 'boolean' }
} as const

export const answerOptions = {
  'max-new-tokens': { type: 'string' },
  'min-new-tokens': { type: 'string' },
  temperature: { type: 'string' },
  'top-p': { type: 'string' },
  'top-k': { type: 'string' },
  'min-p': { type: 'string' },
  'repetition-penalty': { type: 'string' },
  'presence-penalty': { type: 'string' },
  'frequency-penalty': { type: 'string' },
  'logit-bias': { type: 'string' },
  stop: { type: 'string' },
  seed: { type: 'string' }
} as const

export function parseOptions(args: string[], options: OptionNames): Values {
  try {
    return parseArgs({ args, options, strict: true, allowPositionals: false }).values as Values
  } catch (error) {
    throw new UsageError(shortened(messageOf(error)))
  }
}

/** One line; Node's longer texts end in advice, of which a value that begins with a dash needs the part that helps. */
function shortened(message: string): string {
  const first = message.split('\n')[0]!.split('. To specify')[0]!
  const withDash = /use '(--[\w-]+=-XYZ)'/.exec(message)
  return withDash ? `${first.replace(/\.$/, '')}: write a value that begins with a dash as ${withDash[1]}` : first
}

/** `--model`, and how to load it. A download shows its progress where a person can see it. */
export function modelArguments(values: Values): { model: string; options: PretrainedOptions } {
  const model = text(values, 'model')
  if (model === undefined) throw new UsageError('--model NAME is missing')
  const tpSize = number(values, 'tp')
  const device = choice(values, 'device', ['auto', 'cpu', 'cuda'] as const)
  const devices = numbers(values, 'devices')
  const communicator = choice(values, 'communicator', ['auto', 'local', 'nccl'] as const)
  const dtype = choice(values, 'dtype', ['auto', 'float32', 'bfloat16', 'float16'] as const)
  if (tpSize !== undefined && !(Number.isInteger(tpSize) && tpSize >= 1))
    throw new UsageError(`--tp expects a number of ranks from 1, got ${tpSize}`)
  const ranks = { ...(tpSize !== undefined && { tpSize }), ...(device && { device }), ...(devices && { devices }) }
  const revision = text(values, 'revision')
  const source = { ...(revision !== undefined && { revision }), ...(process.stderr.isTTY && { onProgress: downloadLine(process.stderr) }) }
  return { model, options: { ...source, ...ranks, ...(communicator && { communicator }), ...(dtype && { dtype }) } }
}

export function answerArguments(values: Values): GenerateOptions {
  const options: GenerateOptions = {}
  const names = {
    'max-new-tokens': 'maxNewTokens',
    'min-new-tokens': 'minNewTokens',
    temperature: 'temperature',
    'top-p': 'topP',
    'top-k': 'topK',
    'min-p': 'minP',
    'repetition-penalty': 'repetitionPenalty',
    'presence-penalty': 'presencePenalty',
    'frequency-penalty': 'frequencyPenalty',
    logprobs: 'logprobs',
    seed: 'seed'
  } as const
  for (const [name, key] of Object.entries(names)) {
    const value = number(values, name)
    if (value !== undefined) options[key] = value
  }
  const stop = text(values, 'stop')
  if (stop !== undefined) options.stop = stop
  const bias = text(values, 'logit-bias')
  if (bias !== undefined) options.logitBias = biases(bias)
  if (values.echo === true) options.echo = true
  return options
}

export function text(values: Values, name: string): string | undefined {
  const value = values[name]
  return typeof value === 'string' ? value : undefined
}

export function number(values: Values, name: string): number | undefined {
  const value = text(values, name)
  if (value === undefined) return undefined
  const parsed = value.trim() === '' ? NaN : Number(value)
  if (!Number.isFinite(parsed)) throw new UsageError(`--${name} expects a number, got ${JSON.stringify(value)}`)
  return parsed
}

/** Whole numbers from 0, between commas. */
export function numbers(values: Values, name: string): number[] | undefined {
  const value = text(values, name)
  if (value === undefined) return undefined
  if (!/^\d{1,6}(,\d{1,6})*$/.test(value)) throw new UsageError(`--${name} expects numbers such as 0,1, got ${JSON.stringify(value)}`)
  return value.split(',').map(Number)
}

/** Such as 5:-2,17:1.5. */
function biases(value: string): Map<number, number> {
  const entries = value.split(',').map((entry): [number, number] => {
    const [, id, bias] = /^(\d{1,9}):(-?(?:\d+(?:\.\d+)?|Infinity))$/.exec(entry.trim()) ?? []
    if (id === undefined) throw new UsageError(`--logit-bias expects token ids and numbers such as 5:-2,17:1.5, got ${JSON.stringify(value)}`)
    return [Number(id), Number(bias)]
  })
  return new Map(entries)
}

export function choice<T extends string>(values: Values, name: string, choices: readonly T[]): T | undefined {
  const value = text(values, name)
  if (value === undefined || choices.includes(value as T)) return value as T | undefined
  throw new UsageError(`--${name} expects ${choices.join(', ')}, got ${JSON.stringify(value)}`)
}
