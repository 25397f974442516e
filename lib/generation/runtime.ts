// What a loaded decoder runs with: one paged cache, the program that generates, and programs that hand out logits, compiled when first
// asked for.
import { HeddleError } from '../errors'
import type { Group } from '../group'
import { defaultBlockSize, KVCaches } from '../kv-caches'
import type { Decoder } from '../models/decoder'
import { oneSequence, Program } from '../program'
import type { Value } from '../value'
import { Engine } from './engine'
import { BlockPool } from './kv-blocks'
import { logprobOf } from './logprobs'
import type { TokenLogprob } from './logprobs'

/** Tokens of one step at most: a GPU wants more rows for its matrix products than a CPU. */
const maxBatchTokens = { cpu: 512, cuda: 2048 }
const maxSequences = 64

export interface StepLimits {
  maxTokens: number
  maxSequences: number
}

/** Of a step over ranks on a device, where the cache is not smaller. */
export const stepLimits = (device: Group['device']): StepLimits => ({ maxTokens: maxBatchTokens[device], maxSequences })

/** Floats that one step hands out at most, unless a single row is longer. */
const maxLogitsPerStep = 8 * 2 ** 20

export type LogitsRows = 'all' | 'last'

export class Runtime {
  readonly #programs = new Map<LogitsRows, Promise<Program>>()

  private constructor(
    readonly decoder: Decoder,
    readonly pool: BlockPool,
    readonly engine: Engine,
    private readonly caches: KVCaches
  ) {}

  /** Takes the memory of the caches and the workspace. */
  static async create(decoder: Decoder, cacheTokens: number, prefixReuse = true): Promise<Runtime> {
    const { group } = decoder
    const blockCount = Math.ceil(cacheTokens / defaultBlockSize)
    const caches = new KVCaches(group, blockCount)
    const most = stepLimits(group.device)
    const limits = { maxTokens: Math.min(most.maxTokens, cacheTokens), maxSequences: Math.min(most.maxSequences, cacheTokens) }
    const program = await Program.create(group, { ...limits, caches }, (g) => decoder.sample(decoder.hidden(g)))
    const pool = new BlockPool(blockCount, defaultBlockSize, prefixReuse)
    const engine = new Engine({
      run: (step) => program.run(step),
      pool,
      maxBatchTokens: limits.maxTokens,
      maxSequences: limits.maxSequences
    })
    return new Runtime(decoder, pool, engine, caches)
  }

  /** Tokens of one sequence at most: the model's positions, or less where the cache is smaller. */
  get contextLength(): number {
    return Math.min(this.decoder.config.maxPositionEmbeddings, this.pool.blockCount * this.pool.blockSize)
  }

  /**
   * Logits of one sequence, computed from position 0 in blocks that are given back at the end; `write` gets them in pieces of whole rows.
   */
  async logits(ids: readonly number[], rows: LogitsRows, write: (logits: Float32Array) => void): Promise<void> {
    const program = await this.#program(rows)
    const blocks = await this.pool.acquire(this.pool.blocksFor(ids.length))
    try {
      for (let start = 0; start < ids.length; start += program.options.maxTokens) {
        const end = Math.min(start + program.options.maxTokens, ids.length)
        const { outputs } = await program.run(oneSequence(Int32Array.from(ids.slice(start, end)), start, blocks))
        if (rows === 'all' || end === ids.length) write(outputs.logits!.data)
      }
    } finally {
      this.pool.give(blocks)
    }
  }

  /** What every module gives for one sequence, by its name in the checkpoint, and the logits: each [tokens, width], in the model's order. */
  async moduleOutputs(ids: readonly number[]): Promise<Map<string, Float32Array>> {
    const { decoder, caches } = this
    const names: string[] = []
    const program = await Program.create(decoder.group, { maxTokens: ids.length, maxSequences: 1, caches }, (g) => {
      const output = (name: string, value: Value): void => {
        names.push(name)
        g.output(name, value)
      }
      const hidden = decoder.hidden(g, output)
      output('logits', decoder.logits(hidden))
    })
    const blocks = await this.pool.acquire(this.pool.blocksFor(ids.length))
    try {
      const { outputs } = await program.run(oneSequence(Int32Array.from(ids), 0, blocks))
      return new Map(names.map((name) => [name, outputs[name]!.data]))
    } finally {
      this.pool.give(blocks)
      program.dispose()
    }
  }

  /** Of each token of a prompt but the first. The logits of some rows at a time pass through JavaScript's memory. */
  async promptLogprobs(ids: readonly number[], count: number): Promise<TokenLogprob[]> {
    const { vocabSize } = this.decoder.config
    const found: TokenLogprob[] = []
    await this.logits(ids, 'all', (logits) => {
      for (let row = 0; row < logits.length && found.length < ids.length - 1; row += vocabSize)
        found.push(logprobOf(logits.subarray(row, row + vocabSize), ids[found.length + 1]!, count))
    })
    return found
  }

  /** Ends what runs with `error`. The memory goes with the group. */
  close(error: HeddleError): void {
    this.engine.close(error)
    this.pool.close(error)
  }

  #program(rows: LogitsRows): Promise<Program> {
    const existing = this.#programs.get(rows)
    if (existing) return existing
    const group: Group = this.decoder.group
    const most = stepLimits(group.device).maxTokens
    const stepRows = rows === 'all' ? Math.max(1, Math.floor(maxLogitsPerStep / this.decoder.config.vocabSize)) : most
    const maxTokens = Math.min(stepRows, most)
    const program = Program.create(group, { maxTokens, maxSequences: 1, caches: this.caches }, (g) => {
      const hidden = this.decoder.hidden(g)
      g.output('logits', this.decoder.logits(rows === 'last' ? hidden.lastRows() : hidden))
    })
    this.#programs.set(rows, program)
    program.catch(() => this.#programs.delete(rows)) // memory may be there the next time
    return program
  }
}
