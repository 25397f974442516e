// The one decoder of every family: embedding, blocks of attention and MLP with norms around them, a final norm, the head.
// What differs between families is data in the ModelConfig. The forward pass is recorded by `hidden`, whoever wants what from it.
import { HeddleError } from '../errors'
import type { Group } from '../group'
import { cacheDType } from '../kv-caches'
import { TPAttention } from '../layers/attention'
import { ParallelLMHead, VocabParallelEmbedding } from '../layers/embedding'
import type { Layer } from '../layers/layer'
import { TPMLP } from '../layers/mlp'
import { TPMoE } from '../layers/moe'
import { LayerNorm, RMSNorm } from '../layers/norm'
import { RotaryEmbedding } from '../layers/rotary-embedding'
import type { Recorder } from '../program'
import { elementBytes, rounded, sizesUpTo, validSizes } from '../shard'
import type { WeightSource } from '../shard'
import type { DType } from '../tensor'
import type { Value } from '../value'
import type { Checkpoint } from './checkpoint'
import type { LayerConfig, ModelConfig } from './config'
import { familyNamed } from './families'
import { rotaryOptions } from './rope'
import type { RopeConfig } from './rope-config'
import type { DecoderPlan } from './plan-parts'
import { explain } from './plan-explanation'
import type { PlanExplanation } from './plan-explanation'
import { familyWeightName } from './tensor-names'
import type { TensorNames } from './tensor-names'
import type { ResolvedPart, Split } from './tp-plan'
import { bytesOf, WeightLocator } from './weights'
import type { PlacedLayer } from './weights'

type Norm = RMSNorm | LayerNorm

interface Block {
  attentionNorm: Norm
  attention: TPAttention
  /** of what attention gives, before it is added */
  attentionOutputNorm?: Norm
  mlpNorm: Norm
  mlp: TPMLP | TPMoE
  mlpOutputNorm?: Norm
}

export interface LoadProgress {
  phase: 'load'
  loadedBytes: number
  totalBytes: number
  /** the tensor that was loaded last */
  tensor: string
}

export interface LoadOptions {
  onProgress?: (progress: LoadProgress) => void
  signal?: AbortSignal
}

export class Decoder {
  readonly embedding: VocabParallelEmbedding
  readonly head: ParallelLMHead
  readonly #names: TensorNames
  readonly #positions: VocabParallelEmbedding | undefined
  readonly #ropes = new Map<RopeConfig, RotaryEmbedding>()
  readonly #blocks: Block[]
  readonly #norm: Norm

  /** Makes the layers, no memory yet but the rotary tables. Throws `invalid_argument` as `checkSize` does. */
  constructor(
    readonly group: Group,
    readonly config: ModelConfig,
    /** what each part is told */
    readonly plan: DecoderPlan
  ) {
    checkSize(config, group.size, plan, { reproducible: group.reproducible })
    const { hiddenSize, vocabSize, maxPositionEmbeddings, scaledEmbedding, tieWordEmbeddings } = config
    this.#names = familyNamed(config.modelType).tensors
    // rounded as the product with a table in that type is
    const scale = scaledEmbedding ? rounded(Math.sqrt(hiddenSize), group.dtype) : 1
    this.embedding = new VocabParallelEmbedding(group, vocabSize, hiddenSize, { scale, parallel: isParallel(plan.embedding) })
    if (plan.positions)
      this.#positions = new VocabParallelEmbedding(group, maxPositionEmbeddings, hiddenSize, { parallel: isParallel(plan.positions) })
    this.#blocks = config.layers.map((layer, index) => this.#block(layer, plan.attention[index]!, plan.mlp[index]!))
    this.#norm = this.#newNorm()
    const headOptions = tieWordEmbeddings ? { tiedTo: this.embedding } : { parallel: isParallel(plan.head!) }
    this.head = new ParallelLMHead(group, hiddenSize, vocabSize, headOptions)
  }

  #block(layer: LayerConfig, attention: ResolvedPart, mlp: ResolvedPart): Block {
    const { attentionOutputNorm, mlpOutputNorm } = this.#names
    return {
      attentionNorm: this.#newNorm(),
      attention: this.#attention(layer, isParallel(attention)),
      ...(attentionOutputNorm && { attentionOutputNorm: this.#newNorm() }),
      mlpNorm: this.#newNorm(),
      mlp: this.#mlp(layer, mlp),
      ...(mlpOutputNorm && { mlpOutputNorm: this.#newNorm() })
    }
  }

  #attention({ rope, slidingWindow, attentionScale }: LayerConfig, parallel: boolean): TPAttention {
    const { hiddenSize, headCount, kvHeadCount, headDim, attentionBias, attentionOutputBias } = this.config
    const { queryKeyNorm, normEps, unitOffset } = this.config
    return new TPAttention(this.group, {
      hiddenSize,
      headCount,
      kvHeadCount,
      headDim,
      bias: attentionBias,
      outputBias: attentionOutputBias,
      parallel,
      queryKeyNorm: queryKeyNorm && { eps: normEps, unitOffset },
      ...(rope && { rope: this.#rope(rope) }),
      ...(slidingWindow !== undefined && { slidingWindow }),
      ...(attentionScale !== undefined && { scale: attentionScale })
    })
  }

  #mlp({ sparse }: LayerConfig, part: ResolvedPart): TPMLP | TPMoE {
    const { hiddenSize, intermediateSize, activation, gatedMLP, mlpBias, experts } = this.config
    const parallel = isParallel(part)
    if (sparse) return new TPMoE(this.group, { hiddenSize, activation, ...experts!, expertParallel: part.split === 'experts', parallel })
    return new TPMLP(this.group, { hiddenSize, intermediateSize, activation, gated: gatedMLP, bias: mlpBias, parallel })
  }

  #newNorm(): Norm {
    const { hiddenSize, layerNorm, normEps: eps, unitOffset } = this.config
    return layerNorm ? new LayerNorm(this.group, hiddenSize, { eps }) : new RMSNorm(this.group, hiddenSize, { eps, unitOffset })
  }

  /** Layers with the same configuration share a table. */
  #rope(config: RopeConfig): RotaryEmbedding {
    const existing = this.#ropes.get(config)
    if (existing) return existing
    const rope = new RotaryEmbedding(this.group, this.config.headDim, rotaryOptions(config, this.config.headDim))
    this.#ropes.set(config, rope)
    return rope
  }

  /** The hidden states before the final norm: [tokens, hiddenSize] on every rank. `visit` sees what each module of the checkpoint gives. */
  hidden(g: Recorder, visit: (module: string, value: Value) => void = () => {}): Value {
    const { roots, embedding, layers, attention, mlp } = this.#names
    const layerName = `${roots[0]}${layers}`
    const embedded = this.#embedded(g)
    visit(`${roots[0]}${embedding}`, embedded)
    return this.#blocks.reduce((x, block, index) => {
      const attended = block.attention.forward(block.attentionNorm.forward(x))
      visit(`${layerName}${index}.${attention}`, attended)
      const y = x.add(block.attentionOutputNorm?.forward(attended) ?? attended)
      const fed = block.mlp.forward(block.mlpNorm.forward(y))
      visit(`${layerName}${index}.${mlp}`, fed)
      return y.add(block.mlpOutputNorm?.forward(fed) ?? fed)
    }, embedded)
  }

  #embedded(g: Recorder): Value {
    if (!this.#positions) return this.embedding.forward(g.tokens())
    if (!this.embedding.parallel || !this.#positions.parallel)
      return this.embedding.forward(g.tokens()).add(this.#positions.forward(g.positions()))
    return this.embedding.partial(g.tokens()).add(this.#positions.partial(g.positions())).allReduce()
  }

  /** One token per sequence, drawn from the logits of its last row. */
  sample(x: Value): void {
    this.head.sample(this.#norm.forward(x.lastRows()))
  }

  /** [rows, vocabSize] on every rank, without padded columns. */
  logits(x: Value): Value {
    return this.head.forward(this.#norm.forward(x))
  }

  /** Bytes of a rank's weights for a checkpoint, as they will lie in memory. */
  weightBytes(rank: number, checkpoint: Checkpoint): number {
    const locator = new WeightLocator(checkpoint, this.#names)
    return this.#layers().reduce((sum, placed) => {
      const weights = locator.weightsOf(placed)
      return sum + placed.layer.localBytes(rank, (name) => weights[name]!.dtype)
    }, 0)
  }

  /** Bytes that one cached token takes on a rank, over all layers. */
  cacheBytesPerToken(rank: number): number {
    const bytes = elementBytes(cacheDType(this.group))
    return this.#blocks.reduce((sum, { attention }) => {
      const { start, end } = attention.shards[rank]!.keyValues
      return sum + 2 * (end - start) * attention.headDim * bytes
    }, 0)
  }

  /** How the plan puts every parameter onto the ranks; of a checkpoint's fused tensors, each part on its own. */
  explainPlan(): PlanExplanation {
    const { roots, head } = this.#names
    const rows = this.#layers().flatMap(({ layer, modules }) =>
      layer.placements().map((placement) => {
        const name = familyWeightName(this.#names, modules[0]!, placement.name)
        return { ...placement, name: modules[0] === head ? name : roots[0]! + name, module: name.replace(/\.\w+$/, '') }
      })
    )
    return explain(rows, this.plan)
  }

  /** Throws `corrupt_file` for a tensor that is missing or has another shape than config.json says. Reads nothing. */
  check(checkpoint: Checkpoint): void {
    const locator = new WeightLocator(checkpoint, this.#names)
    for (const placed of this.#layers()) locator.weightsOf(placed)
  }

  /** Each rank reads its own slices. On an error, or `aborted` by the signal, what was loaded is freed with `dispose`. */
  async load(checkpoint: Checkpoint, { onProgress, signal }: LoadOptions = {}): Promise<void> {
    const locator = new WeightLocator(checkpoint, this.#names)
    const steps = this.#layers().map((placed) => ({ ...placed, weights: locator.weightsOf(placed) }))
    const totalBytes = steps.reduce((sum, { weights }) => sum + bytesOf(weights), 0)
    const progress = { phase: 'load' as const, loadedBytes: 0, totalBytes }
    for (const { layer, modules, weights } of steps) {
      throwIfAborted(signal)
      await layer.load(weights)
      progress.loadedBytes += bytesOf(weights)
      onProgress?.({ ...progress, tensor: locator.nameOf(modules[0]!, Object.keys(weights).at(-1) ?? '') })
    }
    for (const rope of this.#ropes.values()) await rope.tensor.ready
    throwIfAborted(signal)
  }

  /** Weights of the right shapes and of no content, for a group whose ranks only take notes. */
  async loadPlaceholders(dtype: DType): Promise<void> {
    for (const { layer } of this.#layers()) {
      const sources = layer.weights.map(({ name, shape }): [string, WeightSource] => [name, { dtype, shape, source: { path: '' }, offset: 0 }])
      await layer.load(Object.fromEntries(sources))
    }
  }

  dispose(): void {
    for (const { layer } of this.#layers()) layer.dispose()
    for (const rope of this.#ropes.values()) rope.tensor.dispose()
  }

  #layers(): PlacedLayer[] {
    const { embedding, positions, norm, head } = this.#names
    const ends = this.config.tieWordEmbeddings ? [] : [placed(this.head, head)]
    return [
      placed(this.embedding, embedding),
      ...(this.#positions ? [placed(this.#positions, positions!)] : []),
      ...this.#blocks.flatMap((block, index) => this.#blockLayers(block, `${this.#names.layers}${index}.`)),
      placed(this.#norm, norm),
      ...ends
    ]
  }

  #mlpModules({ mlp }: Block): readonly string[] {
    const { mlp: name, experts = [name] } = this.#names
    return mlp instanceof TPMoE ? experts : [name]
  }

  #blockLayers(block: Block, prefix: string): PlacedLayer[] {
    const names = this.#names
    const { transposed = false } = names
    const norm = (layer: Norm | undefined, name: string | undefined): PlacedLayer[] => (layer ? [placed(layer, prefix + name!)] : [])
    return [
      ...norm(block.attentionNorm, names.attentionNorm),
      { layer: block.attention, modules: [prefix + names.attention], transposed },
      ...norm(block.attentionOutputNorm, names.attentionOutputNorm),
      ...norm(block.mlpNorm, names.mlpNorm),
      { layer: block.mlp, modules: this.#mlpModules(block).map((name) => prefix + name), transposed },
      ...norm(block.mlpOutputNorm, names.mlpOutputNorm)
    ]
  }
}

const isParallel = ({ split }: ResolvedPart): boolean => split !== 'replicate'

const placed = (layer: Layer, module: string): PlacedLayer => ({ layer, modules: [module], transposed: false })

export interface SizeOptions {
  strict?: boolean
  /** of the valid sizes, name those that such a group can have */
  reproducible?: boolean
}

/**
 * Throws `invalid_argument` with the valid sizes for a size that exceeds the query heads, where attention is split; with `strict` also for one
 * that does not divide what is split of heads and widths, or exceeds the experts that are dealt out whole.
 */
export function checkSize(config: ModelConfig, tpSize: number, plan: DecoderPlan, { strict = false, reproducible = false }: SizeOptions = {}): void {
  const { headCount } = config
  if (strict) return checkDivisor(config, tpSize, plan, reproducible)
  if (tpSize <= headCount || !plan.attention.some(isParallel)) return
  throw wrongSize(`headCount ${headCount} is less than`, 'headCount', headCount, tpSize, sizesUpTo(headCount, { reproducible }))
}

function checkDivisor(config: ModelConfig, tpSize: number, { attention, mlp }: DecoderPlan, reproducible: boolean): void {
  const { headCount, intermediateSize, layers, experts } = config
  const hasMLP = (isSparse: boolean, split: Split): boolean => layers.some(({ sparse }, i) => sparse === isSparse && mlp[i]!.split === split)
  const widths = {
    ...(attention.some(isParallel) && { headCount }),
    ...(hasMLP(false, 'split') && { intermediateSize }),
    ...(hasMLP(true, 'split') && { expertWidth: experts!.intermediateSize })
  }
  const most = hasMLP(true, 'experts') ? experts!.expertCount : Infinity
  const sizes = sizesUpTo(most, { reproducible }).filter((size) => validSizes(...Object.values(widths)).includes(size))
  const [dim, value] = Object.entries(widths).find(([, width]) => width % tpSize !== 0) ?? []
  if (dim !== undefined) throw wrongSize(`${dim} ${value} is not divisible by`, dim, value!, tpSize, sizes)
  if (tpSize > most) throw wrongSize(`expertCount ${most} is less than`, 'expertCount', most, tpSize, sizes)
}

function wrongSize(what: string, dim: string, value: number, tpSize: number, sizes: number[]): HeddleError {
  return new HeddleError('invalid_argument', `AutoModelForCausalLM: ${what} tpSize ${tpSize}; valid sizes: ${sizes.join(', ')}`, {
    details: { dim, value, tpSize, validSizes: sizes }
  })
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted)
    throw new HeddleError('aborted', 'AutoModelForCausalLM.fromPretrained: aborted by its signal', { cause: signal.reason })
}
