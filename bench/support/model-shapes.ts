// Named model shapes for synthetic checkpoints, as config.json says them. Only sizes: a shape holds no trained weight.
export interface ModelShape {
  hiddenSize: number
  layerCount: number
  headCount: number
  kvHeadCount: number
  headDim: number
  intermediateSize: number
  vocabSize: number
  tied: boolean // the head shares the embedding's weight
  /** Only its layers can be measured: no checkpoint of this family is written. Not gated: two matrices in the MLP, GELU between them. */
  layersOnly?: { gated: boolean; queryKeyNorm: boolean; rope: boolean }
}

export const modelShapes: Record<string, ModelShape> = {
  'qwen3-0.6b': {
    hiddenSize: 1024, layerCount: 28, headCount: 16, kvHeadCount: 8, headDim: 128,
    intermediateSize: 3072, vocabSize: 151936, tied: true,
  },
  'qwen3-8b': {
    hiddenSize: 4096, layerCount: 36, headCount: 32, kvHeadCount: 8, headDim: 128,
    intermediateSize: 12288, vocabSize: 151936, tied: false,
  },
  'qwen3-32b': {
    hiddenSize: 5120, layerCount: 64, headCount: 64, kvHeadCount: 8, headDim: 128,
    intermediateSize: 25600, vocabSize: 151936, tied: false,
  },
  // Llama 3.1 70B, meta-llama/Llama-3.1-70B config.json
  'llama-70b': {
    hiddenSize: 8192, layerCount: 80, headCount: 64, kvHeadCount: 8, headDim: 128,
    intermediateSize: 28672, vocabSize: 128256, tied: false,
    layersOnly: { gated: true, queryKeyNorm: false, rope: true },
  },
  // GPT-3 175B, Brown et al. 2020 (arXiv 2005.14165), table 2.1; feed-forward 4 · hidden, section 2.1
  'gpt3-175b': {
    hiddenSize: 12288, layerCount: 96, headCount: 96, kvHeadCount: 96, headDim: 128,
    intermediateSize: 49152, vocabSize: 50257, tied: true,
    layersOnly: { gated: false, queryKeyNorm: false, rope: false },
  },
  // One layer whose arithmetic costs next to nothing: what is left is the cost of a step.
  tiny: {
    hiddenSize: 64, layerCount: 1, headCount: 8, kvHeadCount: 8, headDim: 8,
    intermediateSize: 128, vocabSize: 256, tied: true,
  },
  'tiny-untied': {
    hiddenSize: 128, layerCount: 2, headCount: 8, kvHeadCount: 4, headDim: 16,
    intermediateSize: 256, vocabSize: 1024, tied: false,
  },
}

export function shapeOf(name: string): ModelShape {
  const shape = modelShapes[name]
  if (!shape) throw new Error(`model shape: expected one of ${Object.keys(modelShapes).join(', ')}, got ${name}`)
  return shape
}

/** A matrix product of one rank: y [rows, outFeatures] = x [rows, inFeatures] · weightᵀ. */
export interface LinearShape {
  name: 'qkv' | 'o' | 'gate_up' | 'up' | 'down' | 'head'
  inFeatures: number
  outFeatures: number
}

/** Whether every rank of a group of `tp` gets whole heads and an equal part of the MLP. */
export function divides(shape: ModelShape, tp: number): boolean {
  const kvHeadsFit = shape.kvHeadCount % tp === 0 || tp % shape.kvHeadCount === 0
  return shape.headCount % tp === 0 && kvHeadsFit && shape.intermediateSize % tp === 0
}

/** The linears of one rank of `tp`, as the layers split them: KV heads are replicated beyond their number, the vocabulary is padded. */
export function linearsOf(shape: ModelShape, tp: number): LinearShape[] {
  if (!divides(shape, tp)) throw new Error(`linearsOf: expected a group size that divides the shape, got ${tp}`)
  const { hiddenSize, headCount, kvHeadCount, headDim, vocabSize } = shape
  const kvHeads = Math.max(kvHeadCount / tp, 1)
  const queryWidth = (headCount / tp) * headDim
  const inner = shape.intermediateSize / tp
  const gated = shape.layersOnly?.gated ?? true
  return [
    { name: 'qkv', inFeatures: hiddenSize, outFeatures: queryWidth + 2 * kvHeads * headDim },
    { name: 'o', inFeatures: queryWidth, outFeatures: hiddenSize },
    { name: gated ? 'gate_up' : 'up', inFeatures: hiddenSize, outFeatures: (gated ? 2 : 1) * inner },
    { name: 'down', inFeatures: inner, outFeatures: hiddenSize },
    { name: 'head', inFeatures: hiddenSize, outFeatures: Math.ceil(vocabSize / tp) },
  ]
}

/** Bytes that one product must move: 16-bit weights once, and x and y once in elements of `activationBytes`. */
export function linearBytes({ inFeatures, outFeatures }: LinearShape, rows: number, activationBytes: number): number {
  return 2 * inFeatures * outFeatures + activationBytes * rows * (inFeatures + outFeatures)
}

/** A multiply and an add for each weight and row. */
export function linearOperations({ inFeatures, outFeatures }: LinearShape, rows: number): number {
  return 2 * inFeatures * outFeatures * rows
}

export interface NamedShape {
  name: string
  shape: number[]
  norm: boolean
}

// Every tensor of the checkpoint, named as Hugging Face names a Qwen3 model's.
export function tensorsOf(shape: ModelShape): NamedShape[] {
  const matrix = (name: string, rows: number, columns: number): NamedShape => ({ name, shape: [rows, columns], norm: false })
  const norm = (name: string, size: number): NamedShape => ({ name, shape: [size], norm: true })
  const { hiddenSize, intermediateSize, headDim, vocabSize } = shape
  const queryWidth = shape.headCount * headDim
  const kvWidth = shape.kvHeadCount * headDim
  const tensors = [matrix('model.embed_tokens.weight', vocabSize, hiddenSize)]
  for (let layer = 0; layer < shape.layerCount; layer++) {
    const prefix = `model.layers.${layer}.`
    tensors.push(
      norm(`${prefix}input_layernorm.weight`, hiddenSize),
      matrix(`${prefix}self_attn.q_proj.weight`, queryWidth, hiddenSize),
      matrix(`${prefix}self_attn.k_proj.weight`, kvWidth, hiddenSize),
      matrix(`${prefix}self_attn.v_proj.weight`, kvWidth, hiddenSize),
      matrix(`${prefix}self_attn.o_proj.weight`, hiddenSize, queryWidth),
      norm(`${prefix}self_attn.q_norm.weight`, headDim),
      norm(`${prefix}self_attn.k_norm.weight`, headDim),
      norm(`${prefix}post_attention_layernorm.weight`, hiddenSize),
      matrix(`${prefix}mlp.gate_proj.weight`, intermediateSize, hiddenSize),
      matrix(`${prefix}mlp.up_proj.weight`, intermediateSize, hiddenSize),
      matrix(`${prefix}mlp.down_proj.weight`, hiddenSize, intermediateSize),
    )
  }
  tensors.push(norm('model.norm.weight', hiddenSize))
  if (!shape.tied) tensors.push(matrix('lm_head.weight', vocabSize, hiddenSize))
  return tensors
}

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}

// Bytes of bfloat16 weights that one decode step must read: all of them, but of an untied embedding only a row.
export function decodeWeightBytes(shape: ModelShape): number {
  const read = tensorsOf(shape).filter((tensor) => shape.tied || tensor.name !== 'model.embed_tokens.weight')
  return read.reduce((bytes, tensor) => bytes + 2 * elementCount(tensor.shape), 0)
}

// Floating-point operations of a prompt: two for each weight and token, the head for one row; attention over the causal half.
export function prefillOperations(shape: ModelShape, tokens: number): number {
  const inLayers = tensorsOf(shape).filter(({ name, norm }) => name.startsWith('model.layers.') && !norm)
  const weights = inLayers.reduce((sum, tensor) => sum + elementCount(tensor.shape), 0)
  const attention = 2 * shape.layerCount * shape.headCount * shape.headDim * tokens * tokens
  return 2 * weights * tokens + 2 * shape.hiddenSize * shape.vocabSize + attention
}

export function configOf(shape: ModelShape): object {
  return {
    architectures: ['Qwen3ForCausalLM'],
    attention_bias: false,
    attention_dropout: 0,
    bos_token_id: shape.vocabSize - 2,
    eos_token_id: shape.vocabSize - 1,
    head_dim: shape.headDim,
    hidden_act: 'silu',
    hidden_size: shape.hiddenSize,
    initializer_range: 0.02,
    intermediate_size: shape.intermediateSize,
    max_position_embeddings: 40960,
    max_window_layers: shape.layerCount,
    model_type: 'qwen3',
    num_attention_heads: shape.headCount,
    num_hidden_layers: shape.layerCount,
    num_key_value_heads: shape.kvHeadCount,
    rms_norm_eps: 1e-6,
    rope_scaling: null,
    rope_theta: 1000000,
    sliding_window: null,
    tie_word_embeddings: shape.tied,
    torch_dtype: 'bfloat16',
    use_cache: true,
    use_sliding_window: false,
    vocab_size: shape.vocabSize,
  }
}
