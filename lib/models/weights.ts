// Where a layer's weights are in a checkpoint of a family: tensors of their own, parts of fused ones, stored as they are or transposed.
// Rule: nothing is read or copied here. A weight is a view: shape, offset and stride into a stored tensor.
import { HeddleError } from '../errors'
import type { Layer } from '../layers/layer'
import { elementBytes, rowsOf } from '../shard'
import type { WeightSource } from '../shard'
import type { Checkpoint } from './checkpoint'
import { familyWeightName } from './tensor-names'
import type { TensorNames } from './tensor-names'

type Shape = readonly number[]

interface Weight {
  name: string
  shape: number[]
}

/** A layer of the model and the names of the modules that it may be in a checkpoint: the first that has its tensors. */
export interface PlacedLayer {
  modules: readonly string[]
  layer: Layer
  /** matrices are stored [in, out] */
  transposed: boolean
}

export class WeightLocator {
  readonly #root: string

  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly names: TensorNames
  ) {
    this.#root = names.roots.find((root) => checkpoint.has(`${root}${names.embedding}.weight`)) ?? names.roots[0]!
  }

  /** By the names that the layer loads them by. Throws `corrupt_file` for a tensor that is missing or has another shape than it should. */
  weightsOf(placed: PlacedLayer): Record<string, WeightSource> {
    const { layer } = placed
    const all = layer.weights
    const isThere = (name: string): boolean => all.some((weight) => this.#find(name, weight, all, placed.transposed))
    const module = placed.modules.find(isThere) ?? placed.modules[0]!
    return Object.fromEntries(
      all.map((weight) => [weight.name, this.#find(module, weight, all, placed.transposed) ?? this.#missing(module, weight)])
    )
  }

  /** What the checkpoint calls a weight that is a tensor of its own. */
  nameOf(module: string, weight: string): string {
    return this.#stored(module, weight)
  }

  #missing(module: string, weight: Weight): WeightSource {
    return this.checkpoint.tensor(this.#stored(module, weight.name)) // which says so
  }

  /** The checkpoint's name of a weight: the root, the module, and the weight, whose own module may be called otherwise. */
  #stored(module: string, weight: string): string {
    const name = familyWeightName(this.names, module, weight)
    return module === this.names.head ? name : this.#root + name
  }

  #find(module: string, weight: Weight, all: readonly Weight[], transposed: boolean): WeightSource | undefined {
    const stored = this.#stored(module, weight.name)
    if (this.checkpoint.has(stored)) return this.#view(stored, weight.shape, transposed, [weight], 0)
    return this.#fusedExpert(module, weight, all) ?? this.#fused(module, weight, all, transposed)
  }

  /** A module that holds several: their rows, or the elements of their biases, one after the other. */
  #fused(module: string, weight: Weight, all: readonly Weight[], transposed: boolean): WeightSource | undefined {
    const path = weight.name.split('.')
    const [own, kind] = [path.at(-2), path.at(-1)!]
    for (const [fused, parts] of Object.entries(this.names.fused ?? {})) {
      const index = parts.indexOf(own ?? '')
      if (index < 0) continue
      const named = (part: string): string => [...path.slice(0, -2), part, kind].join('.')
      const stored = this.#stored(module, named(fused))
      if (!this.checkpoint.has(stored)) continue
      const weights = parts.map((part) => all.find(({ name }) => name === named(part))!)
      return this.#view(stored, weight.shape, transposed, weights, index)
    }
    return undefined
  }

  /** All experts may be two tensors: gate_up_proj [experts, 2 · width, hidden] and down_proj [experts, hidden, width]. */
  #fusedExpert(module: string, { name, shape }: Weight, all: readonly Weight[]): WeightSource | undefined {
    const match = /^experts\.(\d+)\.(gate|up|down)_proj\.weight$/.exec(name)
    if (!match) return undefined
    const [, expert, part] = match
    const stored = `${this.#root}${module}.experts.${part === 'down' ? 'down_proj' : 'gate_up_proj'}`
    if (!this.checkpoint.has(stored)) return undefined
    const tensor = this.checkpoint.tensor(stored)
    const [rows, width] = shape as [number, number]
    const rowCount = part === 'down' ? rows : 2 * rows
    const expertCount = all.find((other) => other.name === 'gate.weight')!.shape[0]!
    this.#expectShape(stored, tensor.shape, [expertCount, rowCount, width])
    const flat = { ...tensor, shape: [expertCount * rowCount, width] }
    return rowsOf(flat, Number(expert) * rowCount + (part === 'up' ? rows : 0), rows)
  }

  /** Part `index` of a tensor that holds `parts`. */
  #view(stored: string, shape: Shape, transposed: boolean, parts: readonly Weight[], index: number): WeightSource {
    const tensor = this.checkpoint.tensor(stored)
    const rowCounts = parts.map((part) => part.shape[0]!)
    const sum = (counts: number[]): number => counts.reduce((total, count) => total + count, 0)
    const whole = [sum(rowCounts), ...shape.slice(1)]
    const isTransposed = transposed && shape.length === 2
    this.#expectShape(stored, tensor.shape, isTransposed ? [whole[1]!, whole[0]!] : whole)
    const oriented = isTransposed ? { ...tensor, shape: whole, transposed: true, stride: whole[0]! } : tensor
    return rowsOf(oriented, sum(rowCounts.slice(0, index)), rowCounts[index]!)
  }

  #expectShape(stored: string, got: Shape, expected: Shape): void {
    if (got.length === expected.length && got.every((length, i) => length === expected[i])) return
    const where = `${this.checkpoint.folder}: tensor ${JSON.stringify(stored)}`
    const text = `expected shape [${expected.join(', ')}] by config.json, got [${got.join(', ')}]`
    throw new HeddleError('corrupt_file', `${where}: ${text}`, { details: { tensor: stored } })
  }
}

export function bytesOf(weights: Record<string, WeightSource>): number {
  return Object.values(weights).reduce(
    (sum, { shape, dtype }) => sum + shape.reduce((count, length) => count * length, elementBytes(dtype)),
    0
  )
}
