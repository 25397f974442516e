// AutoModelForCausalLM and CausalLM: a model folder, its ranks, its tokenizer and the generation engine in one object.
// Rule: a call's input is checked here, once; how models are built is models/, how tokens are made is generation/.
import { checkFlags, checkOptions } from './checks'
import { HeddleError, invalidArgument } from './errors'
import { ActiveGeneration } from './generation/generation'
import type { Generation, GenerationRequest, Piece } from './generation/generation'
import { loadModel } from './generation/load-model'
import type { LoadedModel, PretrainedOptions } from './generation/load-model'
import { answerLimits, checkGenerateOptions } from './generation/options'
import type { GenerateOptions } from './generation/options'
import type { Runtime } from './generation/runtime'
import { samplingSpec } from './generation/sampling'
import type { GroupInfo } from './group'
import type { ModelConfig } from './models/config'
import type { Message } from './tokenizer/chat-template'
import type { Tokenizer } from './tokenizer/tokenizer'

/** Raw text, a chat, or token ids. Text and chats need a tokenizer; only a chat goes through the model's chat template. */
export type Prompt = string | readonly Message[] | readonly number[]

export interface ForwardOptions {
  /** only the logits of each row's last token; rows may then differ in length */
  lastOnly?: boolean
}

export interface Logits {
  /** row-major */
  logits: Float32Array
  shape: [batch: number, tokens: number, vocab: number]
}

/** What the group says of itself and of each rank, and the model's own figures. */
export interface ModelInfo extends GroupInfo {
  modelType: string
  /** tokens of one sequence at most */
  contextLength: number
  /** tokens that the cache has room for, over all sequences, and those of the blocks in use */
  cacheTokens: number
  cacheTokensUsed: number
}

export const AutoModelForCausalLM = {
  /**
   * Loads a model onto `tpSize` ranks, from a local folder, or by its name on the Hugging Face hub (`Qwen/Qwen3-0.6B`): then its files are
   * fetched into the cache that Hugging Face's libraries share, once. Throws `invalid_argument` (a size that does not divide: before any
   * weight is read), `corrupt_file`, `unsupported_model`, `out_of_memory`, `unavailable`, or `aborted` by the signal; then nothing stays
   * behind but what was downloaded.
   */
  async fromPretrained(nameOrFolder: string, options: PretrainedOptions = {}): Promise<CausalLM> {
    return new CausalLM(await loadModel(nameOrFolder, options))
  }
}

export class CausalLM implements AsyncDisposable {
  readonly config: ModelConfig
  /** absent where the folder has none: then prompts and answers are ids */
  readonly tokenizer?: Tokenizer
  readonly #model: LoadedModel
  #closed = false

  /** Use `AutoModelForCausalLM.fromPretrained`. */
  constructor(model: LoadedModel) {
    this.#model = model
    this.config = model.config
    if (model.tokenizer) this.tokenizer = model.tokenizer
  }

  /**
   * Logits of a batch of prompts, in float32. Throws `invalid_argument` for no rows, an empty row, foreign ids, and unequal rows unless
   * `lastOnly`.
   */
  async forward(ids: readonly (readonly number[])[], options: ForwardOptions = {}): Promise<Logits> {
    const runtime = this.#open('forward')
    checkOptions('forward', options, ['lastOnly'])
    checkFlags('forward', { ...options })
    const { lastOnly = false } = options
    if (!Array.isArray(ids) || ids.length === 0) throw invalidArgument('forward', 'a list of at least one row of token ids', ids)
    ids.forEach((row, index) => this.#checkRow(`forward: row ${index}`, row, runtime.contextLength))
    const lengths = new Set(ids.map((row) => row.length))
    if (!lastOnly && lengths.size > 1)
      throw new HeddleError(
        'invalid_argument',
        `forward: expected rows of equal length, or lastOnly, got rows of ${[...lengths].join(', ')} tokens`
      )
    const shape: Logits['shape'] = [ids.length, lastOnly ? 1 : ids[0]!.length, this.config.vocabSize]
    const logits = allocate(shape)
    let written = 0
    for (const row of ids) {
      await runtime.logits(row, lastOnly ? 'last' : 'all', (part) => {
        logits.set(part, written)
        written += part.length
      })
    }
    return { logits, shape }
  }

  /** The whole answer. An abort resolves with what was made so far and finishReason 'aborted'. Concurrent calls share the ranks' steps. */
  async generate(input: Prompt, options: GenerateOptions = {}): Promise<Generation> {
    return (await this.#start('generate', input, options)).finished
  }

  /**
   * The answer in pieces as its tokens come; pieces that nobody took yet are joined. After an abort the iteration ends without an error;
   * leaving the loop early aborts the generation. Who calls `next` by hand gets the whole Generation as the return value.
   */
  async *stream(input: Prompt, options: GenerateOptions = {}): AsyncGenerator<Piece, Generation, void> {
    return yield* (await this.#start('stream', input, options)).pieces()
  }

  info(): ModelInfo {
    const { pool, contextLength } = this.#open('info')
    return {
      ...this.#model.group.info(),
      modelType: this.config.modelType,
      contextLength,
      cacheTokens: pool.blockCount * pool.blockSize,
      cacheTokensUsed: pool.usedCount * pool.blockSize
    }
  }

  /** Ends running generations with `closed` and frees everything. Idempotent. */
  async close(): Promise<void> {
    if (!this.#closed) this.#model.runtime.close(closedError('generation', 'the model was closed'))
    this.#closed = true
    await this.#model.group.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #start(where: string, input: Prompt, options: GenerateOptions): Promise<ActiveGeneration> {
    this.#open(where)
    checkGenerateOptions(options)
    const sampling = samplingSpec(options, this.#model.generationConfig)
    const promptIds = await this.#encode(where, input)
    const { engine, contextLength } = this.#open(where) // again: rendering a chat takes its time
    const limits = answerLimits(options, promptIds.length, contextLength, this.#model.eosTokenIds)
    if (limits.stopTexts.length > 0 && !this.tokenizer) throw noTokenizer(where, 'stop texts')
    const request: GenerationRequest = { promptIds, sampling, ...limits }
    if (this.tokenizer) request.decoder = this.tokenizer.createStreamDecoder()
    if (options.signal) request.signal = options.signal
    return new ActiveGeneration(engine, request)
  }

  async #encode(where: string, input: Prompt): Promise<readonly number[]> {
    const ids = await this.#idsOf(where, input)
    this.#checkRow(`${where}: prompt`, ids, Infinity)
    return ids
  }

  async #idsOf(where: string, input: Prompt): Promise<readonly number[]> {
    if (typeof input === 'string') {
      if (!this.tokenizer) throw noTokenizer(where, 'a text')
      if (input === '') throw invalidArgument(`${where}: prompt`, 'at least one token', input)
      return this.tokenizer.encode(input)
    }
    if (!Array.isArray(input)) throw invalidArgument(`${where}: prompt`, 'a text, messages or token ids', input)
    if (!isChat(input)) return input as readonly number[]
    if (!this.tokenizer) throw noTokenizer(where, 'messages')
    return this.tokenizer.encodeChat(input)
  }

  #checkRow(where: string, row: unknown, maxLength: number): void {
    if (!Array.isArray(row) || row.length === 0) throw invalidArgument(where, 'at least one token', row)
    if (row.length > maxLength) throw invalidArgument(where, `at most ${maxLength} tokens, the context`, row)
    const { vocabSize } = this.config
    const wrong = row.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize)
    if (wrong >= 0) throw invalidArgument(`${where}: token ${wrong}`, `an id from 0 to ${vocabSize - 1}`, row[wrong])
  }

  #open(where: string): Runtime {
    if (this.#closed) throw closedError(where, 'expected an open model, got a closed one')
    return this.#model.runtime
  }
}

function isChat(input: readonly unknown[]): input is readonly Message[] {
  return input.some((item) => typeof item === 'object')
}

function allocate(shape: number[]): Float32Array {
  const count = shape.reduce((product, length) => product * length, 1)
  try {
    return new Float32Array(count)
  } catch (cause) {
    throw new HeddleError(
      'out_of_memory',
      `forward: expected logits [${shape.join(', ')}] to fit into one array, got ${count} floats; use lastOnly`,
      { cause }
    )
  }
}

const closedError = (where: string, what: string): HeddleError => new HeddleError('closed', `${where}: ${what}`)

const noTokenizer = (where: string, what: string): HeddleError =>
  new HeddleError('invalid_argument', `${where}: expected token ids, since the model folder has no tokenizer, got ${what}`)
