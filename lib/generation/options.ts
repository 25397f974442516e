// The options of one call, checked: lengths, what ends an answer, what is told of it, the signal. How tokens are drawn is sampling.ts.
import { checkFlags, checkOptions, checkPositive } from '../checks'
import { HeddleError, invalidArgument } from '../errors'
import type { GenerationConfig } from '../models/generation-config'
import type { SamplingOptions } from './sampling'

export interface GenerateOptions extends SamplingOptions {
  /** tokens of the answer at most, its end token included; default what generation_config.json says, else what is left of the context */
  maxNewTokens?: number
  /** tokens of the answer at least: before, no token that ends it can come and no stop text ends it. Default 0 */
  minNewTokens?: number
  /** texts that end the answer and are not part of it */
  stop?: string | string[]
  /** token ids that end the answer, beside the model's end tokens */
  stopTokenIds?: number[]
  /** go on after the model's end tokens */
  ignoreEos?: boolean
  /**
   * tell the log-probability of each token of the answer, and this many of the likeliest tokens at its place, 0 to 20: of the softmax of the
   * model's logits, before bias, penalties and temperature
   */
  logprobs?: number
  /** begin text and tokenIds with the prompt; with `logprobs` also tell those of the prompt's tokens. Default false */
  echo?: boolean
  /** ends the generation within one step; what was made so far is the result, with finishReason 'aborted' */
  signal?: AbortSignal
}

/** Options of a call that gives a list. */
export interface BatchOptions extends GenerateOptions {
  /** answers to each prompt; each has a seed of its own, derived from `seed` and its number */
  n?: number
}

export interface AnswerLimits {
  /** tokens of prompt and answer together */
  maxLength: number
  minNewTokens: number
  /** token ids that end the answer */
  stopIds: ReadonlySet<number>
  /** texts that end the answer */
  stopTexts: string[]
  /** token ids that do not begin the answer */
  beginBannedIds: readonly number[]
  /** one of these is the answer's last token, if it comes to maxLength; none: whatever comes */
  forcedIds: readonly number[]
}

export interface Context {
  contextLength: number
  eosTokenIds: readonly number[]
  defaults: GenerationConfig
}

export const generateOptions: readonly (keyof BatchOptions)[] = [
  'maxNewTokens',
  'minNewTokens',
  'doSample',
  'temperature',
  'topK',
  'topP',
  'minP',
  'repetitionPenalty',
  'presencePenalty',
  'frequencyPenalty',
  'noRepeatNgramSize',
  'logitBias',
  'seed',
  'stop',
  'stopTokenIds',
  'ignoreEos',
  'n',
  'logprobs',
  'echo',
  'signal'
]

const maxLogprobs = 20
const maxAnswers = 1024

/** Throws `invalid_argument` that names the option. */
export function checkGenerateOptions(options: BatchOptions): void {
  checkOptions('generate', options, generateOptions)
  const { maxNewTokens, minNewTokens = 0, stop, stopTokenIds, ignoreEos, n = 1, logprobs = 0, echo, signal } = options
  if (maxNewTokens !== undefined) checkPositive('generate', { maxNewTokens })
  checkInteger('minNewTokens', minNewTokens, 0, maxNewTokens ?? Number.MAX_SAFE_INTEGER)
  checkInteger('n', n, 1, maxAnswers)
  checkInteger('logprobs', logprobs, 0, maxLogprobs)
  for (const text of stopTextsOf(stop)) {
    if (typeof text !== 'string' || text === '') throw invalidArgument('generate: stop', 'a text or a list of texts, none empty', text)
  }
  if (stopTokenIds !== undefined && !(Array.isArray(stopTokenIds) && stopTokenIds.every((id) => Number.isInteger(id)))) {
    throw invalidArgument('generate: stopTokenIds', 'a list of token ids', stopTokenIds)
  }
  checkFlags('generate', { ignoreEos, echo })
  checkSignal('generate', signal)
}

/** `name`: what a message calls the prompt. Throws `invalid_argument` for one that is longer than the context. */
export function answerLimits(options: GenerateOptions, promptLength: number, context: Context, name = 'generate'): AnswerLimits {
  const { contextLength, eosTokenIds, defaults } = context
  if (promptLength > contextLength) {
    throw new HeddleError(
      'invalid_argument',
      `${name}: expected a prompt of at most ${contextLength} tokens, the context, got ${promptLength}`,
      { details: { promptLength, contextLength } }
    )
  }
  const maxNewTokens = options.maxNewTokens ?? Math.max(suggestedLimit(promptLength, context, name), options.minNewTokens ?? 0)
  return {
    maxLength: Math.min(promptLength + maxNewTokens, contextLength),
    minNewTokens: options.minNewTokens ?? defaults.minNewTokens ?? Math.max(0, (defaults.minLength ?? 0) - promptLength),
    stopIds: new Set([...(options.ignoreEos ? [] : eosTokenIds), ...(options.stopTokenIds ?? [])]),
    stopTexts: stopTextsOf(options.stop ?? defaults.stopTexts),
    beginBannedIds: defaults.beginSuppressedIds ?? [],
    forcedIds: options.ignoreEos ? [] : (defaults.forcedEosIds ?? [])
  }
}

/** Tokens of the answer, where the caller says nothing. A prompt that leaves no room is an error, as it is in `transformers`. */
function suggestedLimit(promptLength: number, { contextLength, defaults: { maxNewTokens, maxLength } }: Context, name: string): number {
  if (maxNewTokens !== undefined || maxLength === undefined) return maxNewTokens ?? contextLength
  if (promptLength < maxLength) return maxLength - promptLength
  const expected = `expected a prompt of less than ${maxLength} tokens, max_length of generation_config.json, or maxNewTokens`
  throw new HeddleError('invalid_argument', `${name}: ${expected}, got a prompt of ${promptLength}`, { details: { promptLength, maxLength } })
}

/** Throws `invalid_argument` for ids that the vocabulary lacks. */
export function checkStopTokenIds(ids: readonly number[] = [], vocabSize: number): void {
  const foreign = ids.find((id) => id < 0 || id >= vocabSize)
  if (foreign !== undefined) throw invalidArgument('generate: stopTokenIds', `ids from 0 to ${vocabSize - 1}`, foreign)
}

export function checkSignal(where: string, signal: unknown): void {
  const isSignal = typeof signal === 'object' && signal !== null && 'aborted' in signal && 'addEventListener' in signal
  if (signal !== undefined && !isSignal) throw invalidArgument(`${where}: signal`, 'an AbortSignal', signal)
}

function checkInteger(name: string, value: unknown, least: number, most: number): void {
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most) return
  throw invalidArgument(`generate: ${name}`, `an integer from ${least} to ${most}`, value)
}

function stopTextsOf(stop: string | string[] | undefined): string[] {
  if (stop === undefined) return []
  return Array.isArray(stop) ? stop : [stop]
}
