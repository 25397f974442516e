// The one decoder of every family: embedding, blocks of attention and MLP with RMS norms before them, a final norm, the head.
// What differs between families is data in the ModelConfig. The forward pass is recorded by `hidden`, whoever wants what from it.
import { HeddleError } from '../errors'
import type { Group } from '../group'
import { cacheDType } from '../kv-caches'
import { TPAttention } from '../layers/attention'
import { ParallelLMHead, VocabParallelEmbedding } from '../layers/embedding'
import type { Layer } from '../layers/layer'
import { TPMLP } from '../layers/mlp'
import { RMSNorm } from '../layers/norm'
import { RotaryEmbedding } from '../layers/rotary-embedding'
import type { Recorder } from '../program'
import { elementBytes, validSizes } from '../shard'
import type { WeightSource } from '../shard'
import type { Value } from '../value'
import type { Checkpoint } from './checkpoint'
import type { ModelConfig } from './config'
import { inverseFrequencies } from './rope'

interface Block {
  inputNorm: RMSNorm
  attention: TPAttention
  postNorm: RMSNorm
  mlp: TPMLP
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

/** A layer of the model and the prefix of its tensors' names in a checkpoint. */
interface NamedLayer {
  prefix: string
  layer: Layer
}

export class Decoder {
  readonly embedding: VocabParallelEmbedding
  readonly head: ParallelLMHead
  readonly #rope: RotaryEmbedding
  readonly #blocks: Block[]
  readonly #norm: RMSNorm

  /** Makes the layers, no memory yet but the rotary table. Throws `invalid_argument` as `checkSize` does. */
  constructor(
    readonly group: Group,
    readonly config: ModelConfig
  ) {
    checkSize(config, group.size)
    const { hiddenSize, vocabSize, headDim, normEps, tieWordEmbeddings } = config
    this.#rope = new RotaryEmbedding(group, headDim, { inverseFrequencies: inverseFrequencies(config.rope, headDim) })
    this.embedding = new VocabParallelEmbedding(group, vocabSize, hiddenSize)
    this.#blocks = Array.from({ length: config.layerCount }, () => this.#block())
    this.#norm = new RMSNorm(group, hiddenSize, { eps: normEps })
    this.head = new ParallelLMHead(group, hiddenSize, vocabSize, tieWordEmbeddings ? { tiedTo: this.embedding } : {})
  }

  #block(): Block {
    const { hiddenSize, headCount, kvHeadCount, headDim, intermediateSize, activation, normEps, attentionBias, mlpBias, queryKeyNorm } =
      this.config
    return {
      inputNorm: new RMSNorm(this.group, hiddenSize, { eps: normEps }),
      attention: new TPAttention(this.group, {
        hiddenSize,
        headCount,
        kvHeadCount,
        headDim,
        bias: attentionBias,
        rope: this.#rope,
        queryKeyNorm: queryKeyNorm && { eps: normEps }
      }),
      postNorm: new RMSNorm(this.group, hiddenSize, { eps: normEps }),
      mlp: new TPMLP(this.group, { hiddenSize, intermediateSize, activation, bias: mlpBias })
    }
  }

  /** The hidden states before the final norm: [tokens, hiddenSize] on every rank. */
  hidden(g: Recorder): Value {
    return this.#blocks.reduce((x, block) => {
      const y = x.add(block.attention.forward(block.inputNorm.forward(x)))
      return y.add(block.mlp.forward(block.postNorm.forward(y)))
    }, this.embedding.forward(g.tokens()))
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
    return this.#layers().reduce(
      (sum, { prefix, layer }) => sum + layer.localBytes(rank, (name) => checkpoint.tensor(prefix + name).dtype),
      0
    )
  }

  /** Bytes that one cached token takes on a rank, over all layers. */
  cacheBytesPerToken(rank: number): number {
    const bytes = elementBytes(cacheDType(this.group))
    return this.#blocks.reduce((sum, { attention }) => {
      const { start, end } = attention.shards[rank]!.keyValues
      return sum + 2 * (end - start) * attention.headDim * bytes
    }, 0)
  }

  /** Throws `corrupt_file` for a tensor that is missing or has another shape than config.json says. Reads nothing. */
  check(checkpoint: Checkpoint): void {
    for (const { prefix, layer } of this.#layers()) weightsOf(checkpoint, prefix, layer)
  }

  /** Each rank reads its own slices. On an error, or `aborted` by the signal, what was loaded is freed with `dispose`. */
  async load(checkpoint: Checkpoint, { onProgress, signal }: LoadOptions = {}): Promise<void> {
    const steps = this.#layers().map(({ prefix, layer }) => ({ layer, prefix, weights: weightsOf(checkpoint, prefix, layer) }))
    const progress = { phase: 'load' as const, loadedBytes: 0, totalBytes: steps.reduce((sum, { weights }) => sum + bytesOf(weights), 0) }
    for (const { layer, prefix, weights } of steps) {
      throwIfAborted(signal)
      await layer.load(weights)
      progress.loadedBytes += bytesOf(weights)
      onProgress?.({ ...progress, tensor: prefix + (Object.keys(weights).at(-1) ?? '') })
    }
    await this.#rope.tensor.ready
    throwIfAborted(signal)
  }

  dispose(): void {
    for (const { layer } of this.#layers()) layer.dispose()
    this.#rope.tensor.dispose()
  }

  #layers(): NamedLayer[] {
    const blocks = this.#blocks.flatMap((block, index) => [
      { prefix: `model.layers.${index}.input_layernorm.`, layer: block.inputNorm },
      { prefix: `model.layers.${index}.self_attn.`, layer: block.attention },
      { prefix: `model.layers.${index}.post_attention_layernorm.`, layer: block.postNorm },
      { prefix: `model.layers.${index}.mlp.`, layer: block.mlp }
    ])
    const head = this.config.tieWordEmbeddings ? [] : [{ prefix: 'lm_head.', layer: this.head }]
    return [{ prefix: 'model.embed_tokens.', layer: this.embedding }, ...blocks, { prefix: 'model.norm.', layer: this.#norm }, ...head]
  }
}

/** Throws `invalid_argument` with the valid sizes for a size that does not split the heads or the width of the MLP evenly. */
export function checkSize({ headCount, intermediateSize }: Pick<ModelConfig, 'headCount' | 'intermediateSize'>, tpSize: number): void {
  const sizes = validSizes(headCount, intermediateSize)
  for (const [dim, value] of Object.entries({ headCount, intermediateSize })) {
    if (value % tpSize === 0) continue
    const text = `AutoModelForCausalLM: ${dim} ${value} is not divisible by tpSize ${tpSize}; valid sizes: ${sizes.join(', ')}`
    throw new HeddleError('invalid_argument', text, { details: { dim, value, tpSize, validSizes: sizes } })
  }
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted)
    throw new HeddleError('aborted', 'AutoModelForCausalLM.fromPretrained: aborted by its signal', { cause: signal.reason })
}

function weightsOf(checkpoint: Checkpoint, prefix: string, layer: Layer): Record<string, WeightSource> {
  return Object.fromEntries(
    layer.weights.map(({ name, shape }) => {
      const source = checkpoint.tensor(prefix + name)
      if (source.shape.length === shape.length && shape.every((length, i) => length === source.shape[i])) return [name, source]
      const where = `${checkpoint.folder}: tensor ${JSON.stringify(prefix + name)}`
      const text = `expected shape [${shape.join(', ')}] by config.json, got [${source.shape.join(', ')}]`
      throw new HeddleError('corrupt_file', `${where}: ${text}`, { details: { tensor: prefix + name } })
    })
  )
}

function bytesOf(weights: Record<string, WeightSource>): number {
  return Object.values(weights).reduce(
    (sum, { shape, dtype }) => sum + shape.reduce((count, length) => count * length, elementBytes(dtype)),
    0
  )
}
