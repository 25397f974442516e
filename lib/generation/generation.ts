// One answer: a sequence in the engine, its text, its abort signal. What it made and nobody took yet waits as one piece.
// Rule: whatever ends it, the listener on the signal goes and the sequence's blocks are free.
import { HeddleError } from '../errors'
import type { SamplingSpec } from '../program'
import type { StreamDecoder } from '../tokenizer/stream-decoder'
import { onAbort } from './abort-listeners'
import { AnswerText } from './answer-text'
import type { Engine } from './engine'
import { LogitEdits } from './logit-edits'
import type { TokenLogprob } from './logprobs'
import type { AnswerLimits } from './options'
import { hasPenalties } from './sampling'
import type { FinishReason, Sequence } from './sequence'
import { SequenceEdits } from './sequence-edits'
import type { SequenceEditOptions } from './sequence-edits'

/** New tokens and the text that became certain with them; a token in the middle of a character has none yet. */
export interface Piece {
  text: string
  tokenIds: number[]
  /** of the answer's tokens in this piece, where they were asked for */
  logprobs?: TokenLogprob[]
  /** whose piece this is: the place of its answer in the list that `generate` would give; 0 where there is one */
  index: number
}

export interface Usage {
  promptTokens: number
  completionTokens: number
  /** of the prompt: tokens that the cache still held from an earlier call, or from another answer of this one */
  cachedPromptTokens: number
}

export interface Generation {
  /** without the end token or the stop text; with `echo` behind the prompt's */
  text: string
  /** with the end token, if one came; with `echo` behind the prompt's */
  tokenIds: number[]
  finishReason: FinishReason
  usage: Usage
  /** of the answer's tokens, where they were asked for */
  logprobs?: TokenLogprob[]
  /** with `echo`: of the prompt's tokens but the first, which follows nothing */
  promptLogprobs?: TokenLogprob[]
}

export interface GenerationRequest extends AnswerLimits {
  /** of its pieces */
  index: number
  promptIds: readonly number[]
  sampling: SamplingSpec
  bias: ReadonlyMap<number, number>
  sequenceEdits?: SequenceEditOptions
  /** none: the answer has no text; stop texts need one */
  decoder?: StreamDecoder
  /** the prompt's text, where the answer begins with it */
  echo?: string
  promptLogprobs?: TokenLogprob[]
  signal?: AbortSignal
}

export class ActiveGeneration {
  /** Settles at the end: an abort resolves with what was made so far, a failure rejects. */
  readonly finished: Promise<Generation>
  readonly #answer: AnswerText | undefined
  readonly #tokenIds: number[] = []
  readonly #logprobs: TokenLogprob[] | undefined
  #completionTokens = 0
  #text = ''
  #piece: Piece | undefined
  #outcome: FinishReason | HeddleError | undefined
  #settle!: { resolve: (generation: Generation) => void; reject: (error: HeddleError) => void }
  #sequence: Sequence | undefined
  #stopListening: () => void = () => {}

  /** `onChange` is called when there is a piece to take, or the end. */
  constructor(
    private readonly engine: Engine,
    private readonly request: GenerationRequest,
    private readonly onChange: () => void
  ) {
    this.#answer = request.decoder && new AnswerText(request.decoder, request.stopTexts)
    this.#logprobs = request.sampling.logprobs === undefined ? undefined : []
    this.finished = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
    })
    this.finished.catch(() => {}) // a stream reports through its pieces
    if (request.echo !== undefined) this.#emit(request.echo, request.promptIds)
    if (request.signal?.aborted) this.#finish('aborted')
    else this.#start(request)
  }

  readonly abort = (): void => {
    if (this.#sequence) this.engine.abort(this.#sequence)
  }

  get ended(): boolean {
    return this.#outcome !== undefined
  }

  get failed(): boolean {
    return this.#outcome instanceof HeddleError
  }

  /** What was made since the last call. */
  takePiece(): Piece | undefined {
    const piece = this.#piece
    this.#piece = undefined
    return piece
  }

  #start({ promptIds, sampling, maxLength, signal }: GenerationRequest): void {
    if (signal) this.#stopListening = onAbort(signal, this.abort)
    const edits = editsOf(this.request)
    this.#sequence = this.engine.start({
      promptIds,
      sampling: hasPenalties(sampling) ? { ...sampling, answerStart: promptIds.length } : sampling,
      ...(edits && { edits }),
      maxLength,
      onToken: (id, logprob) => this.#take(id, logprob),
      onFinish: (outcome) => this.#finish(outcome)
    })
  }

  #take(id: number, logprob: TokenLogprob | undefined): boolean {
    this.#completionTokens++
    const mayStop = this.#completionTokens > this.request.minNewTokens
    const isStop = mayStop && this.request.stopIds.has(id)
    this.#emit(isStop ? '' : (this.#answer?.push(id, mayStop) ?? ''), [id], logprob)
    return isStop || (this.#answer?.stopped ?? false)
  }

  #finish(outcome: FinishReason | HeddleError): void {
    const { promptIds, promptLogprobs } = this.request
    this.#stopListening()
    this.#outcome = outcome
    this.#emit(this.#answer?.flush() ?? '', [])
    if (outcome instanceof HeddleError) return this.#settle.reject(outcome)
    this.#settle.resolve({
      text: this.#text,
      tokenIds: this.#tokenIds,
      finishReason: outcome,
      usage: {
        promptTokens: promptIds.length,
        completionTokens: this.#completionTokens,
        cachedPromptTokens: this.#sequence?.cachedCount ?? 0
      },
      ...(this.#logprobs && { logprobs: this.#logprobs }),
      ...(promptLogprobs && { promptLogprobs })
    })
  }

  #emit(text: string, tokenIds: readonly number[], logprob?: TokenLogprob): void {
    this.#text += text
    this.#tokenIds.push(...tokenIds)
    if (logprob) this.#logprobs?.push(logprob)
    if (text !== '' || tokenIds.length > 0) {
      this.#piece ??= { text: '', tokenIds: [], index: this.request.index, ...(this.#logprobs && { logprobs: [] }) }
      this.#piece.text += text
      this.#piece.tokenIds.push(...tokenIds)
      if (logprob) this.#piece.logprobs?.push(logprob)
    }
    this.onChange()
  }
}

function editsOf(request: GenerationRequest): LogitEdits | undefined {
  const { promptIds, sampling, bias, stopIds, minNewTokens, beginBannedIds, forcedIds, maxLength, sequenceEdits } = request
  const counts = hasPenalties(sampling)
  const bans = [{ ids: [...stopIds], count: minNewTokens }, { ids: beginBannedIds, count: 1 }].filter(({ ids, count }) => ids.length > 0 && count > 0)
  if (!counts && bans.length === 0 && forcedIds.length === 0 && bias.size === 0 && !sequenceEdits) return undefined
  const forced = forcedIds.length > 0 && { forced: { position: maxLength - 1, ids: forcedIds } }
  return new LogitEdits({ promptLength: promptIds.length, bias, bans, counts, ...forced, ...(sequenceEdits && { sequence: new SequenceEdits(sequenceEdits) }) })
}
