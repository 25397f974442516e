// The options of one generation, checked: lengths, what ends the answer, the signal. How tokens are drawn is sampling.ts.
import { checkFlags, checkOptions, checkPositive } from '../checks'
import { HeddleError, invalidArgument } from '../errors'
import type { SamplingOptions } from './sampling'

export interface GenerateOptions extends SamplingOptions {
  /** tokens of the answer at most, its end token included; default what is left of the context */
  maxNewTokens?: number
  /** texts that end the answer and are not part of it */
  stop?: string | string[]
  /** token ids that end the answer, beside the model's end tokens */
  stopTokenIds?: number[]
  /** go on after the model's end tokens */
  ignoreEos?: boolean
  /** ends the generation within one step; what was made so far is the result, with finishReason 'aborted' */
  signal?: AbortSignal
}

export interface AnswerLimits {
  /** tokens of prompt and answer together */
  maxLength: number
  stopIds: ReadonlySet<number>
  stopTexts: string[]
}

const knownOptions = [
  'maxNewTokens',
  'doSample',
  'temperature',
  'topK',
  'topP',
  'minP',
  'seed',
  'stop',
  'stopTokenIds',
  'ignoreEos',
  'signal'
]

/** Throws `invalid_argument` that names the option. */
export function checkGenerateOptions(options: GenerateOptions): void {
  checkOptions('generate', options, knownOptions)
  const { maxNewTokens, stop, stopTokenIds, ignoreEos, signal } = options
  if (maxNewTokens !== undefined) checkPositive('generate', { maxNewTokens })
  for (const text of stopTextsOf(stop)) {
    if (typeof text !== 'string' || text === '') throw invalidArgument('generate: stop', 'a text or a list of texts, none empty', text)
  }
  if (stopTokenIds !== undefined && !(Array.isArray(stopTokenIds) && stopTokenIds.every((id) => Number.isInteger(id)))) {
    throw invalidArgument('generate: stopTokenIds', 'a list of token ids', stopTokenIds)
  }
  checkFlags('generate', { ignoreEos })
  checkSignal('generate', signal)
}

/** Throws `invalid_argument` for a prompt that is longer than the context. */
export function answerLimits(
  options: GenerateOptions,
  promptLength: number,
  contextLength: number,
  eosTokenIds: readonly number[]
): AnswerLimits {
  if (promptLength > contextLength) {
    throw new HeddleError(
      'invalid_argument',
      `generate: expected a prompt of at most ${contextLength} tokens, the context, got ${promptLength}`,
      { details: { promptLength, contextLength } }
    )
  }
  return {
    maxLength: Math.min(promptLength + (options.maxNewTokens ?? contextLength), contextLength),
    stopIds: new Set([...(options.ignoreEos ? [] : eosTokenIds), ...(options.stopTokenIds ?? [])]),
    stopTexts: stopTextsOf(options.stop)
  }
}

export function checkSignal(where: string, signal: unknown): void {
  const isSignal = typeof signal === 'object' && signal !== null && 'aborted' in signal && 'addEventListener' in signal
  if (signal !== undefined && !isSignal) throw invalidArgument(`${where}: signal`, 'an AbortSignal', signal)
}

function stopTextsOf(stop: string | string[] | undefined): string[] {
  if (stop === undefined) return []
  return Array.isArray(stop) ? stop : [stop]
}
