// AutoModelForCausalLM and CausalLM: a model folder, its ranks, its tokenizer and the generation engine in one object.
// Rule: a call's input is checked here, once; how models are built is models/, how tokens are made is generation/.
import { checkFlags, checkOptions } from './checks'
import { HeddleError, invalidArgument } from './errors'
import { Answers } from './generation/answers'
import type { Generation, GenerationRequest, Piece } from './generation/generation'
import { emitWarnings, loadModel } from './generation/load-model'
import type { LoadedModel, PretrainedOptions } from './generation/load-model'
import { answerLimits, checkGenerateOptions, checkStopTokenIds } from './generation/options'
import type { BatchOptions, GenerateOptions } from './generation/options'
import { isBatch, noTokenizer, PromptReader } from './generation/prompts'
import type { Prompt } from './generation/prompts'
import type { Runtime } from './generation/runtime'
import { biasOf, samplingSpec, seedOf, sequenceEditsOf, suggestedBias } from './generation/sampling'
import type { GroupInfo } from './group'
import type { ModelConfig } from './models/config'
import type { PlanExplanation } from './models/plan-explanation'
import { listOf } from './tokenizer/token-ids'
import type { TokenIds } from './tokenizer/token-ids'
import type { Tokenizer } from './tokenizer/tokenizer'

export type { Prompt } from './generation/prompts'

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
  /** tokens that the cache has room for, over all sequences, and those of the blocks in use; blocks kept for prompts to come are free */
  cacheTokens: number
  cacheTokensUsed: number
}

export const AutoModelForCausalLM = {
  /**
   * Loads a model onto `tpSize` ranks, from a local folder, or by its name on the Hugging Face hub (`Qwen/Qwen3-0.6B`): then its files are
   * fetched into the cache that Hugging Face's libraries share, once. Throws `invalid_argument` (a size that exceeds the query heads: before
   * any weight is read), `corrupt_file`, `unsupported_model`, `out_of_memory`, `unavailable`, or `aborted` by the signal; then nothing stays
   * behind but what was downloaded.
   */
  async fromPretrained(nameOrFolder: string, options: PretrainedOptions = {}): Promise<CausalLM> {
    const model = await loadModel(nameOrFolder, options)
    emitWarnings(model)
    return new CausalLM(model)
  }
}

export class CausalLM implements AsyncDisposable {
  readonly config: ModelConfig
  /** absent where the folder has none: then prompts and answers are ids */
  readonly tokenizer?: Tokenizer
  readonly #model: LoadedModel
  readonly #prompts: PromptReader
  readonly #suggestedBias: ReadonlyMap<number, number>
  #closed = false

  /** Use `AutoModelForCausalLM.fromPretrained`. */
  constructor(model: LoadedModel) {
    this.#model = model
    this.config = model.config
    if (model.tokenizer) this.tokenizer = model.tokenizer
    this.#prompts = new PromptReader(model.config.vocabSize, model.tokenizer)
    this.#suggestedBias = suggestedBias(model.generationConfig, model.eosTokenIds)
  }

  /**
   * Logits of a batch of prompts, in float32. Throws `invalid_argument` for no rows, an empty row, foreign ids, and unequal rows unless
   * `lastOnly`.
   */
  async forward(rows: readonly TokenIds[], options: ForwardOptions = {}): Promise<Logits> {
    const runtime = this.#open('forward')
    checkOptions('forward', options, ['lastOnly'])
    checkFlags('forward', { ...options })
    const { lastOnly = false } = options
    if (!Array.isArray(rows) || rows.length === 0) throw invalidArgument('forward', 'a list of at least one row of token ids', rows)
    const ids = rows.map(listOf)
    ids.forEach((row, index) => this.#prompts.checkIds(`forward: row ${index}`, row, runtime.contextLength))
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

  /**
   * The whole answer, or the list of them where a list of prompts or `n` asks for several: answer j to prompt i stands at i * n + j. All are
   * made at once, in the same steps. An abort resolves with what was made so far and finishReason 'aborted'; the first failure ends all.
   * Throws `invalid_argument` for a prompt or an option that makes no sense, before anything starts.
   */
  generate(input: Prompt, options: BatchOptions & { n: number }): Promise<Generation[]>
  generate(input: Prompt, options?: GenerateOptions): Promise<Generation>
  generate(input: readonly Prompt[], options?: BatchOptions): Promise<Generation[]>
  async generate(input: Prompt | readonly Prompt[], options: BatchOptions = {}): Promise<Generation | Generation[]> {
    const all = await (await this.#start('generate', input, options)).finished()
    return isList(input, options) ? all : all[0]!
  }

  /**
   * The answer, or several as `generate` has them, in pieces as their tokens come; pieces of one answer that nobody took yet are joined.
   * After an abort the iteration ends without an error; leaving the loop early aborts. Who calls `next` by hand gets what `generate` gives as
   * the return value.
   */
  stream(input: Prompt, options: BatchOptions & { n: number }): AsyncGenerator<Piece, Generation[], void>
  stream(input: Prompt, options?: GenerateOptions): AsyncGenerator<Piece, Generation, void>
  stream(input: readonly Prompt[], options?: BatchOptions): AsyncGenerator<Piece, Generation[], void>
  async *stream(input: Prompt | readonly Prompt[], options: BatchOptions = {}): AsyncGenerator<Piece, Generation | Generation[], void> {
    const all = yield* (await this.#start('stream', input, options)).pieces()
    return isList(input, options) ? all : all[0]!
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

  /** For every parameter its style, and its shape and bytes on each rank; `String(…)` of it is a table. */
  explainPlan(): PlanExplanation {
    return this.#open('explainPlan').decoder.explainPlan()
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

  async #start(where: string, input: Prompt | readonly Prompt[], options: BatchOptions): Promise<Answers> {
    this.#open(where)
    checkGenerateOptions(options)
    const { generationConfig } = this.#model
    checkStopTokenIds(options.stopTokenIds, this.config.vocabSize)
    samplingSpec(options, generationConfig) // checks before a chat is rendered
    const prompts = isBatch(input) ? input : [input as Prompt]
    const nameOf = (index: number): string => (isBatch(input) ? `prompts[${index}]` : 'prompt')
    const ids = await Promise.all(prompts.map((prompt, index) => this.#prompts.ids(where, prompt, nameOf(index))))
    const requests = prompts.map((prompt, index) => this.#request(where, nameOf(index), prompt, ids[index]!, options))
    if (options.echo && options.logprobs !== undefined && !options.signal?.aborted) {
      for (const request of requests) request.promptLogprobs = await this.#open(where).promptLogprobs(request.promptIds, options.logprobs)
    }
    const { engine } = this.#open(where) // again: rendering a chat takes its time
    return new Answers(engine, requests.flatMap((request, index) => this.#repeated(request, index, options.n ?? 1)))
  }

  /** What each answer to a prompt is made from. */
  #request(where: string, name: string, prompt: Prompt, promptIds: readonly number[], options: BatchOptions): GenerationRequest {
    const { generationConfig: defaults, eosTokenIds } = this.#model
    const { contextLength } = this.#open(where)
    const limits = answerLimits(options, promptIds.length, { contextLength, eosTokenIds, defaults }, `${where}: ${name}`)
    if (limits.stopTexts.length > 0 && !this.tokenizer) {
      if (options.stop !== undefined) throw noTokenizer(where, 'stop texts')
      limits.stopTexts = []
    }
    const sequenceEdits = sequenceEditsOf(options, defaults)
    const { logprobs, echo, signal } = options
    return {
      ...limits,
      index: 0,
      promptIds,
      sampling: { ...samplingSpec(options, defaults), ...(logprobs !== undefined && { logprobs }) },
      ...(sequenceEdits && { sequenceEdits }),
      bias: biasOf(options.logitBias, this.config.vocabSize, this.#suggestedBias),
      ...(echo && { echo: this.#prompts.text(prompt, promptIds) }),
      ...(signal && { signal })
    }
  }

  #repeated(request: GenerationRequest, promptIndex: number, count: number): GenerationRequest[] {
    return Array.from({ length: count }, (_, answer) => ({
      ...request,
      index: promptIndex * count + answer,
      sampling: { ...request.sampling, seed: seedOf(request.sampling.seed, answer) },
      ...(this.tokenizer && { decoder: this.tokenizer.createStreamDecoder() })
    }))
  }

  #open(where: string): Runtime {
    if (this.#closed) throw closedError(where, 'expected an open model, got a closed one')
    return this.#model.runtime
  }
}

/** Whether a call gives a list, as its overloads say. */
const isList = (input: Prompt | readonly Prompt[], { n }: BatchOptions): boolean => n !== undefined || isBatch(input)

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
