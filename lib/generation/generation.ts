// One call of generate or stream: a sequence in the engine, its text, its abort signal. Pieces queue up until they are taken.
// Rule: whatever ends it, the listener on the signal goes and the sequence's blocks are free.
import { HeddleError } from '../errors'
import type { SamplingSpec } from '../program'
import type { StreamDecoder } from '../tokenizer/stream-decoder'
import { AnswerText } from './answer-text'
import type { Engine } from './engine'
import type { FinishReason, Sequence } from './sequence'

/** New tokens and the text that became certain with them; a token in the middle of a character has none yet. */
export interface Piece {
  text: string
  tokenIds: number[]
}

export interface Generation {
  /** without the end token or the stop string */
  text: string
  /** with the end token, if one came */
  tokenIds: number[]
  finishReason: FinishReason
  usage: { promptTokens: number; completionTokens: number }
}

export interface GenerationRequest {
  promptIds: readonly number[]
  sampling: SamplingSpec
  maxLength: number
  /** ids that end the answer */
  stopIds: ReadonlySet<number>
  /** texts that end the answer; they need a decoder */
  stopTexts: readonly string[]
  /** none: the answer has no text */
  decoder?: StreamDecoder
  signal?: AbortSignal
}

export class ActiveGeneration {
  /** Settles at the end: an abort resolves with what was made so far, a failure rejects. */
  readonly finished: Promise<Generation>
  readonly #request: GenerationRequest
  readonly #answer: AnswerText | undefined
  readonly #tokenIds: number[] = []
  #text = ''
  #piece: Piece | undefined
  #outcome: FinishReason | HeddleError | undefined
  #notify: () => void = () => {}
  #settle!: { resolve: (generation: Generation) => void; reject: (error: HeddleError) => void }
  #sequence: Sequence | undefined

  constructor(
    private readonly engine: Engine,
    request: GenerationRequest
  ) {
    this.#request = request
    this.#answer = request.decoder && new AnswerText(request.decoder, request.stopTexts)
    this.finished = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
    })
    this.finished.catch(() => {}) // a stream reports through its pieces
    if (request.signal?.aborted) this.#finish('aborted')
    else this.#start(request)
  }

  readonly abort = (): void => {
    if (this.#sequence) this.engine.abort(this.#sequence)
  }

  /**
   * Pieces as they come, then the whole as the generator's return value. Ends quietly after an abort, throws after a failure; leaving early
   * aborts.
   */
  async *pieces(): AsyncGenerator<Piece, Generation, void> {
    try {
      for (;;) {
        const piece = this.#piece
        this.#piece = undefined
        if (piece) yield piece
        else if (this.#outcome === undefined)
          await new Promise<void>((resolve) => {
            this.#notify = resolve
          })
        else return await this.finished
      }
    } finally {
      this.abort()
    }
  }

  #start({ promptIds, sampling, maxLength, signal }: GenerationRequest): void {
    signal?.addEventListener('abort', this.abort, { once: true })
    this.#sequence = this.engine.start({
      promptIds,
      sampling,
      maxLength,
      onToken: (id) => this.#take(id),
      onFinish: (outcome) => this.#finish(outcome)
    })
  }

  #take(id: number): boolean {
    this.#tokenIds.push(id)
    const isStop = this.#request.stopIds.has(id)
    this.#emit(isStop ? '' : (this.#answer?.push(id) ?? ''), [id])
    return isStop || (this.#answer?.stopped ?? false)
  }

  #finish(outcome: FinishReason | HeddleError): void {
    this.#request.signal?.removeEventListener('abort', this.abort)
    this.#outcome = outcome
    this.#emit(this.#answer?.flush() ?? '', [])
    if (outcome instanceof HeddleError) return this.#settle.reject(outcome)
    const tokenIds = this.#tokenIds
    this.#settle.resolve({
      text: this.#text,
      tokenIds,
      finishReason: outcome,
      usage: { promptTokens: this.#request.promptIds.length, completionTokens: tokenIds.length }
    })
  }

  #emit(text: string, tokenIds: number[]): void {
    this.#text += text
    if (text !== '' || tokenIds.length > 0) {
      this.#piece = { text: (this.#piece?.text ?? '') + text, tokenIds: [...(this.#piece?.tokenIds ?? []), ...tokenIds] }
    }
    this.#notify()
  }
}
