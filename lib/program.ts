// Records a forward pass as data and runs it on every rank. The one mechanism: models, single layers and tests all use it.
import { checkGroup, checkOptions, checkPositive } from './checks'
import { describe, HeddleError, invalidArgument } from './errors'
import type { Group } from './group'
import { CacheRequest, defaultBlockSize, KVCaches } from './kv-caches'
import type { Attribute, HostTensor, NodeSpec, Op, StepResult, StepSpec } from './native'
import { Tensor } from './tensor'
import { PerRank, Recorded, Value } from './value'
import type { Layout } from './value'

export type { SamplingSpec, StepEdits, StepResult, StepSpec } from './native'

interface RecordedNode {
  inputs: Value[]
  tensors: (Tensor | CacheRequest | undefined)[]
  attributes: Record<string, Attribute | PerRank>
  widths: readonly number[]
  layout: Layout
  rows: Value['rows']
}

/** What a forward pass is recorded with: makes the first values, collects the nodes. */
export class Recorder {
  readonly ranks: readonly number[]
  /** host data of inputs given by value, by name */
  readonly inputs: Record<string, HostTensor> = {}
  tokenIds: Int32Array | undefined
  readonly #nodes: (RecordedNode & { op: Op })[] = []
  #open = true

  constructor(readonly group: Group) {
    this.ranks = Array.from({ length: group.size }, (_, rank) => rank)
  }

  get size(): number {
    return this.group.size
  }

  /** A `[tokens, width]` matrix of the host, on every rank; or, by name and width, one that each step brings along. */
  input(data: HostTensor): Value
  input(name: string, width: number): Value
  input(dataOrName: HostTensor | string, width?: number): Value {
    if (typeof dataOrName === 'string') {
      checkPositive('input', { width })
      return this.#input(dataOrName, width!)
    }
    const matrix = checkedMatrix('input', dataOrName)
    const rows = this.rowCount || matrix.shape[0]
    if (rows !== matrix.shape[0])
      throw new HeddleError('invalid_argument', `input: expected ${rows} rows as in the other inputs, got ${matrix.shape[0]}`)
    const name = `input${Object.keys(this.inputs).length}`
    this.inputs[name] = { data: matrix.data.slice(), shape: [...matrix.shape] } // the caller may use it for something else before the ranks read it
    return this.#input(name, matrix.shape[1]!)
  }

  /** The token ids of the step, for an embedding; `ids` gives them for an evaluation. */
  tokens(ids?: ArrayLike<number>): Value {
    if (ids) this.tokenIds = checkedIds(ids)
    return new Value(this, Recorded.tokens, this.perRank(1), 'replicated', 'tokens')
  }

  /** The positions of the step's tokens in their sequences, for a table of positions. */
  positions(): Value {
    return new Value(this, Recorded.positions, this.perRank(1), 'replicated', 'tokens')
  }

  /** Names a value that every run hands back to the host; it must be whole on every rank. */
  output(name: string, value: Value): void {
    if (!(value instanceof Value)) throw invalidArgument(`output ${name}`, 'a value', value)
    if (value.layout !== 'replicated') {
      throw new HeddleError(
        'invalid_argument',
        `output ${name}: expected a replicated value, got a ${value.layout} one; use allReduce() or allGather()`
      )
    }
    this.record('output', {
      inputs: [value],
      tensors: [],
      attributes: { name },
      widths: value.widths,
      layout: 'replicated',
      rows: value.rows
    })
  }

  record(op: Op, node: RecordedNode): Value {
    if (!this.#open) throw new HeddleError('invalid_argument', `${op}: expected a recording in progress, got one that has ended`)
    for (const tensor of node.tensors) {
      if (tensor instanceof Tensor && tensor.group !== this.group)
        throw new HeddleError('invalid_argument', `${op}: expected a tensor of this group, got one of another`)
    }
    this.#nodes.push({ op, ...node })
    return new Value(this, this.#nodes.length - 1, node.widths, node.layout, node.rows)
  }

  /** What made a value; none: what each step brings along. */
  opOf({ index }: Value): Op | undefined {
    return this.#nodes[index]?.op
  }

  perRank(width: number): number[] {
    return this.ranks.map(() => width)
  }

  /** Ends the recording: the nodes as each rank gets them, with the layers' caches taken from `caches`. */
  finish(caches: KVCaches): NodeSpec[][] {
    this.#open = false
    return this.ranks.map((rank) => this.#nodes.map((node) => localNode(node, caches, rank)))
  }

  /** Rows of the inputs that were given by value; 0 without any. */
  get rowCount(): number {
    return this.tokenIds?.length ?? Object.values(this.inputs)[0]?.shape[0] ?? 0
  }

  #input(name: string, width: number): Value {
    return this.record('input', {
      inputs: [],
      tensors: [],
      attributes: { name },
      widths: this.perRank(width),
      layout: 'replicated',
      rows: 'tokens'
    })
  }
}

function localNode(node: RecordedNode & { op: Op }, caches: KVCaches, rank: number): NodeSpec {
  const local = ([name, value]: [string, Attribute | PerRank]): [string, Attribute] => [
    name,
    value instanceof PerRank ? value.values[rank]! : value
  ]
  return {
    op: node.op,
    inputs: node.inputs.map((value) => value.index),
    tensors: node.tensors.map((tensor) => (tensor instanceof CacheRequest ? caches.tensorFor(tensor) : tensor)?.id ?? -1),
    width: node.widths[rank]!,
    attributes: Object.fromEntries(Object.entries(node.attributes).map(local))
  }
}

export interface ProgramOptions {
  /** rows that one step takes at most */
  maxTokens: number
  maxSequences: number
  caches: KVCaches
}

/** A recorded forward pass, compiled on every rank; run many times, in the order of the calls. */
export class Program {
  #disposed = false

  private constructor(
    readonly group: Group,
    readonly id: number,
    readonly options: ProgramOptions
  ) {}

  /** Throws `invalid_argument` for options that make no sense, and whatever the operations throw. */
  static async create(group: Group, options: ProgramOptions, record: (g: Recorder) => void): Promise<Program> {
    const where = 'Program.create'
    checkGroup(where, group)
    checkOptions(where, options, ['maxTokens', 'maxSequences', 'caches'])
    const { maxTokens, maxSequences, caches } = options
    checkPositive(where, { maxTokens, maxSequences })
    if (!(caches instanceof KVCaches)) throw invalidArgument(`${where}: caches`, 'KVCaches', caches)
    if (typeof record !== 'function') throw invalidArgument(where, 'a function that records a forward pass', record)
    const recorder = new Recorder(group)
    record(recorder)
    return Program.compile(recorder, options)
  }

  /** Compiles what was recorded, on every rank. */
  static async compile(recorder: Recorder, options: ProgramOptions): Promise<Program> {
    const { group } = recorder
    const { maxTokens, maxSequences, caches } = options
    const program = new Program(group, group.nextId(), options)
    const compiled = group.native.createProgram(program.id, { nodes: recorder.finish(caches), maxTokens, maxSequences })
    for (const outcome of await Promise.allSettled([caches.ready(), compiled])) {
      // a cache that failed explains more: it comes first
      if (outcome.status === 'rejected') throw outcome.reason
    }
    return program
  }

  /** One step over the ragged batch on every rank; one message there and one completion back. */
  run(step: StepSpec): Promise<StepResult> {
    if (this.#disposed) return Promise.reject(new HeddleError('closed', 'Program.run: expected an open program, got a disposed one'))
    return this.group.native.runProgram(this.id, step)
  }

  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    this.group.native.dispose([this.id])
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/**
 * Records `fn`, runs it once for one sequence from position 0 with temporary caches, and gives its whole result: a sharded one is gathered.
 * Throws `invalid_argument` for a partial sum, and whatever the operations throw.
 */
export async function evaluate(group: Group, fn: (g: Recorder) => Value): Promise<HostTensor> {
  const recorder = new Recorder(group)
  const result = fn(recorder)
  if (!(result instanceof Value) || result.recorder !== recorder) {
    throw new HeddleError('invalid_argument', 'evaluate: expected the function to return a value of this recording')
  }
  recorder.output('result', result.layout === 'sharded' ? result.allGather() : result)
  const tokenCount = recorder.rowCount
  if (tokenCount === 0) throw new HeddleError('invalid_argument', 'evaluate: expected an input of at least one row, got none')
  const blockCount = Math.ceil(tokenCount / defaultBlockSize)
  const caches = new KVCaches(group, blockCount)
  let program: Program | undefined
  try {
    program = await Program.compile(recorder, { maxTokens: tokenCount, maxSequences: 1, caches })
    const blocks = Array.from({ length: blockCount }, (_, block) => block)
    const step = oneSequence(recorder.tokenIds ?? new Int32Array(tokenCount), 0, blocks)
    return (await program.run({ ...step, inputs: recorder.inputs })).outputs['result']!
  } finally {
    program?.dispose()
    caches.dispose()
  }
}

/** A step of one sequence alone: `tokens` at the positions from `start` on, cached in `blocks`. */
export function oneSequence(tokens: Int32Array, start: number, blocks: ArrayLike<number>): StepSpec {
  return {
    tokens,
    positions: tokens.map((_, index) => start + index),
    sequenceStarts: Int32Array.of(0, tokens.length),
    slots: Int32Array.of(0),
    blockTable: Int32Array.from(blocks)
  }
}

function checkedMatrix(where: string, value: HostTensor): HostTensor {
  const [rows, width] = Array.isArray(value?.shape) ? value.shape : []
  const isMatrix = value?.data instanceof Float32Array && Array.isArray(value.shape) && value.shape.length === 2
  if (!isMatrix || rows! * width! !== value.data.length || !(rows! > 0) || !(width! > 0)) {
    throw new HeddleError(
      'invalid_argument',
      `${where}: expected a Float32Array with the elements of a [rows, width] shape, got ${describeMatrix(value)}`
    )
  }
  return value
}

function describeMatrix(value: HostTensor | undefined): string {
  if (!ArrayBuffer.isView(value?.data) || !Array.isArray(value.shape)) return describe(value)
  return `${value.data.constructor.name} of ${value.data.length} elements with shape [${value.shape.join(', ')}]`
}

function checkedIds(ids: ArrayLike<number>): Int32Array {
  if (typeof ids !== 'object' || !Number.isSafeInteger(ids.length)) throw invalidArgument('tokens', 'a list of token ids', ids)
  for (let i = 0; i < ids.length; i++) {
    if (!Number.isInteger(ids[i]) || ids[i]! < 0 || ids[i]! > 0x7fffffff) {
      throw new HeddleError('invalid_argument', `tokens: expected non-negative token ids, got ${String(ids[i])} at ${i}`)
    }
  }
  return Int32Array.from(ids)
}
