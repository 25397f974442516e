// What every layer shares: parameters described as slices of full tensors, loading them onto the ranks, and running alone.
import { checkGroup } from '../checks'
import { HeddleError, invalidArgument } from '../errors'
import type { Group } from '../group'
import type { Recorder } from '../program'
import { elementBytes, everything, heldLength, lengthOf, piece } from '../shard'
import type { Range, WeightSource } from '../shard'
import { Tensor } from '../tensor'
import type { DType, HostTensor, PieceSpec, Sharding } from '../tensor'
import { Value } from '../value'

/** A full tensor as a layer takes it: an array in the order of PyTorch, with its shape or without, or a region of a file. */
export type Weight = Float32Array | HostTensor | WeightSource

/** A full tensor of the checkpoint, and the rectangle of it that each rank holds. */
export interface ParameterPart {
  name: string
  shape: number[]
  rows: readonly Range[]
  columns: readonly Range[]
}

/** A local tensor: parts below each other. Matrices keep the data type of the weights, vectors are float32. */
export interface Parameter {
  key: string
  kind: 'matrix' | 'vector'
  sharding: Sharding
  /** is added to every element of a vector */
  increment?: number
  parts: ParameterPart[]
}

/** What every layer takes. */
export interface LayerOptions {
  /**
   * refuse sizes that do not divide the heads or the width, with the valid ones. Default false: parts are as even as can be. A vocabulary is
   * padded either way
   */
  strict?: boolean
}

/** What a layer that can be split takes. */
export interface ParallelOptions extends LayerOptions {
  /** split over the ranks, the default; else every rank holds and computes all of it, and nothing is summed */
  parallel?: boolean
}

/** A full tensor that a layer loads, and what each rank has of it. */
export interface Placement {
  name: string
  shape: number[]
  /** per rank, padding included */
  localShapes: number[][]
  /** per rank, padding included */
  localBytes: number[]
}

export abstract class Layer {
  readonly #tensors = new Map<string, Tensor>()
  #disposed = false

  constructor(readonly group: Group) {
    checkGroup(new.target.name, group)
  }

  /** Records what the layer computes. */
  abstract forward(x: Value): Value

  /** Parameters of this layer itself. */
  protected parameters(): Parameter[] {
    return []
  }

  /** Layers inside this one, with the prefix of their parameters' names. */
  protected children(): [prefix: string, layer: Layer][] {
    return []
  }

  /** Names and shapes of the full tensors that `load` takes, those of inner layers included. */
  get weights(): { name: string; shape: number[] }[] {
    const own = this.parameters().flatMap((parameter) => parameter.parts.map(({ name, shape }) => ({ name, shape })))
    return [
      ...own,
      ...this.children().flatMap(([prefix, layer]) => layer.weights.map(({ name, shape }) => ({ name: prefix + name, shape })))
    ]
  }

  /** Bytes that a rank's parts take when the full tensors have the given data types (by name; default: the group's). */
  localBytes(rank: number, dtypeOf: (name: string) => DType = () => this.group.dtype): number {
    const own = this.parameters().reduce((sum, parameter) => {
      const elements = localShape(parameter, rank).reduce((product, length) => product * length, 1)
      return sum + elements * elementBytes(localDType(this.group, parameter, dtypeOf))
    }, 0)
    return this.children().reduce((sum, [prefix, layer]) => sum + layer.localBytes(rank, (name) => dtypeOf(prefix + name)), own)
  }

  /** Where the full tensors are, those of inner layers included. Before `load`, bytes are in the group's data type. */
  placements(): Placement[] {
    const own = this.parameters().flatMap((parameter) => {
      const dtype = this.#tensors.get(parameter.key)?.dtype ?? localDType(this.group, parameter, () => this.group.dtype)
      return parameter.parts.map((part) => placementOf(parameter, part, elementBytes(dtype)))
    })
    const inner = this.children().flatMap(([prefix, layer]) => layer.placements().map((one) => ({ ...one, name: prefix + one.name })))
    return [...own, ...inner]
  }

  /**
   * Loads full tensors by their names (`weights` lists them); each rank keeps its shard. May be called again to replace them.
   * Throws `invalid_argument` for a missing or unknown name or a wrong shape, before anything changes.
   */
  async load(weights: Record<string, Weight>): Promise<void> {
    const sources = this.#checked(weights)
    await this.loadSources(sources)
  }

  /** `load` for weights that are known to be complete and well formed. */
  protected async loadSources(sources: ReadonlyMap<string, WeightSource>): Promise<void> {
    const created = this.parameters().map((parameter) => [parameter.key, createTensor(this.group, parameter, sources)] as const)
    const inner = this.children().map(([prefix, layer]) => layer.loadSources(withoutPrefix(sources, prefix)))
    const outcomes = await Promise.allSettled([...created.map(([, tensor]) => tensor.ready), ...inner])
    const failed = outcomes.find((outcome) => outcome.status === 'rejected')
    if (failed) {
      for (const [, tensor] of created) tensor.dispose()
      throw failed.reason
    }
    for (const [key, tensor] of created) this.#replace(key, tensor)
  }

  /** Full tensors in and out, split and gathered as the layer needs. */
  run(x: HostTensor): Promise<HostTensor> {
    return this.group.evaluate((g: Recorder) => this.forward(g.input(x)))
  }

  /** Frees the weights on every rank. Idempotent. */
  dispose(): void {
    this.#disposed = true
    for (const tensor of this.#tensors.values()) tensor.dispose()
    for (const [, layer] of this.children()) layer.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** What messages call this layer. */
  protected get title(): string {
    return this.constructor.name
  }

  /** What `forward` is given, checked: types do not hold callers from JavaScript. */
  protected taken(x: Value): Value {
    if (x instanceof Value) return x
    throw invalidArgument(`${this.title}.forward`, 'a value of a recording', x)
  }

  protected tensor(key: string): Tensor {
    const tensor = this.#tensors.get(key)
    if (this.#disposed) throw new HeddleError('closed', `${this.title}: expected an open layer, got a disposed one`)
    if (!tensor) throw new HeddleError('invalid_argument', `${this.title}: expected loaded weights, got none; call load() first`)
    return tensor
  }

  #replace(key: string, tensor: Tensor): void {
    this.#tensors.get(key)?.dispose()
    this.#tensors.set(key, tensor)
  }

  #checked(weights: Record<string, Weight>): Map<string, WeightSource> {
    const where = `${this.constructor.name}.load`
    const expected = this.weights
    const isRecord = typeof weights === 'object' && weights !== null && !Array.isArray(weights) && !ArrayBuffer.isView(weights)
    if (!isRecord) throw invalidArgument(where, 'an object of tensors by name', weights)
    const unknown = Object.keys(weights).find((name) => !expected.some((weight) => weight.name === name))
    if (unknown !== undefined) {
      throw new HeddleError('invalid_argument', `${where}: expected ${expected.map((weight) => weight.name).join(', ')}, got ${unknown}`)
    }
    return new Map(expected.map(({ name, shape }) => [name, asSource(`${where}: ${name}`, shape, weights[name])]))
  }
}

/** A small tensor that every rank holds whole. */
export function replicated(name: string, length: number, group: Group, increment = 0): Parameter {
  const ranges = Array.from({ length: group.size }, () => everything(length))
  return {
    key: name,
    kind: 'vector',
    sharding: 'replicated',
    ...(increment !== 0 && { increment }),
    parts: [{ name, shape: [length], rows: ranges, columns: ranges.map(() => everything(1)) }]
  }
}

function asSource(where: string, shape: number[], weight: Weight | undefined): WeightSource {
  if (weight === undefined)
    throw new HeddleError('invalid_argument', `${where}: expected a tensor of shape [${shape.join(', ')}], got none`)
  const count = shape.reduce((product, length) => product * length, 1)
  const source = sourceOf(weight, shape)
  if (!source) throw invalidArgument(where, 'a Float32Array, alone or as { data, shape }', weight)
  const same = Array.isArray(source.shape) && source.shape.length === shape.length && shape.every((length, i) => length === source.shape[i])
  const elements = 'data' in source.source ? source.source.data?.length : count
  if (!same || elements !== count) {
    throw new HeddleError(
      'invalid_argument',
      `${where}: expected shape [${shape.join(', ')}], got [${String(source.shape)}] with ${elements} elements`
    )
  }
  return source
}

/** Nothing where a script passes something else than the types say. */
function sourceOf(weight: Weight, shape: number[]): WeightSource | undefined {
  if (weight instanceof Float32Array) return hostSource({ data: weight, shape })
  if (typeof weight !== 'object' || weight === null) return undefined
  if ('data' in weight) return weight.data instanceof Float32Array ? hostSource(weight) : undefined
  return typeof weight.source === 'object' && weight.source !== null ? weight : undefined
}

const hostSource = ({ data, shape }: HostTensor): WeightSource => ({ dtype: 'float32', shape, source: { data }, offset: 0 })

function withoutPrefix(sources: ReadonlyMap<string, WeightSource>, prefix: string): Map<string, WeightSource> {
  return new Map([...sources].filter(([name]) => name.startsWith(prefix)).map(([name, source]) => [name.slice(prefix.length), source]))
}

function placementOf({ kind }: Parameter, { name, shape, rows, columns }: ParameterPart, bytes: number): Placement {
  const localShapes = rows.map((range, rank) => {
    const count = heldLength(range)
    return kind === 'vector' ? [count] : [count, heldLength(columns[rank]!)]
  })
  return { name, shape, localShapes, localBytes: localShapes.map((local) => local.reduce((product, length) => product * length, bytes)) }
}

function localShape(parameter: Parameter, rank: number): number[] {
  const rows = parameter.parts.reduce((sum, part) => sum + heldLength(part.rows[rank]!), 0)
  return parameter.kind === 'vector' ? [rows] : [rows, heldLength(parameter.parts[0]!.columns[rank]!)]
}

/** Matrices keep what is exact: float32 compute reads 16-bit weights as they are; parts of mixed types meet in float32. */
function localDType(group: Group, parameter: Parameter, dtypeOf: (name: string) => DType): DType {
  if (parameter.kind === 'vector') return 'float32'
  if (group.dtype !== 'float32') return group.dtype
  const dtypes = parameter.parts.map((part) => dtypeOf(part.name))
  return dtypes.every((dtype) => dtype === dtypes[0]) ? dtypes[0]! : 'float32'
}

function createTensor(group: Group, parameter: Parameter, sources: ReadonlyMap<string, WeightSource>): Tensor {
  const dtype = localDType(group, parameter, (name) => sources.get(name)!.dtype)
  const specs = Array.from({ length: group.size }, (_, rank) => ({
    dtype,
    shape: localShape(parameter, rank),
    role: 'weight' as const,
    pieces: localPieces(parameter, sources, rank)
  }))
  return new Tensor(group, specs, parameter.sharding)
}

function localPieces(parameter: Parameter, sources: ReadonlyMap<string, WeightSource>, rank: number): PieceSpec[] {
  const pieces: PieceSpec[] = []
  let row = 0
  for (const part of parameter.parts) {
    const rows = part.rows[rank]!
    const columns = part.columns[rank]!
    const { increment } = parameter
    const filled = (): PieceSpec => piece(sources.get(part.name)!, rows, columns, row, heldLength(columns))
    if (lengthOf(rows) > 0 && lengthOf(columns) > 0) pieces.push(increment === undefined ? filled() : { ...filled(), increment })
    row += heldLength(rows)
  }
  return pieces
}
