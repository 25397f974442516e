// The model families that the one decoder serves: what sets each apart beyond its config.json, as data.
// Defaults are those of the configuration classes of `transformers`; tensor names are those of its checkpoints.
import { HeddleError } from '../errors'
import type { ConfigFields, FieldCustoms } from './config-fields'
import { alternatingLayers, everyLayer, flaggedEverywhere, flaggedLayers, namedLayers } from './layer-windows'
import type { LayerWindows } from './layer-windows'
import { gemma3Names, gpt2Names, llamaNames, mixtralNames, phi3Names } from './tensor-names'
import type { TensorNames } from './tensor-names'

export interface Family extends FieldCustoms {
  architecture: string
  tensors: TensorNames
  /** biases of the query, key and value projections, and of the output projection: as config.json's `attention_bias` says, or fixed */
  attentionBias?: 'configured' | 'queryKeyValue' | 'all'
  mlpBias?: 'configured' | 'all'
  /** RMS norm of every query and key head before the rotation */
  queryKeyNorm?: boolean
  /** which layers see only a window of the last positions */
  windows?: LayerWindows
  /** LayerNorm with a bias in place of RMS norm */
  layerNorm?: boolean
  /** RMS norms whose weights are stored less one */
  unitOffset?: boolean
  /** positions are a table that is added to the embeddings, in place of rotary embeddings */
  learnedPositions?: boolean
  /** `partial_rotary_factor` has a meaning */
  partialRotary?: boolean
  /** one base frequency for layers that see everything, another for those that see a window */
  twoRopes?: boolean
  /** two matrices with an activation between them, in place of a gated MLP */
  plainMLP?: boolean
  /** embeddings are multiplied by sqrt(hidden_size) */
  scaledEmbedding?: boolean
  /** scores are divided by the root of `query_pre_attn_scalar`, not of head_dim */
  queryScalar?: boolean
  /** mixture of experts: config.json's name of an expert's inner width, and whether chosen weights always add up to one */
  experts?: { intermediateSize: string; normalized?: boolean }
  /** the section of config.json that describes the language model, in a model that is more than one */
  textSection?: string
}

const gemma3: Family = {
  architecture: 'Gemma3ForCausalLM',
  tensors: gemma3Names,
  attentionBias: 'configured',
  queryKeyNorm: true,
  windows: alternatingLayers,
  unitOffset: true,
  twoRopes: true,
  scaledEmbedding: true,
  queryScalar: true,
  names: { hidden_act: 'hidden_activation' },
  defaults: {
    vocab_size: 262208,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 26,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    head_dim: 256,
    hidden_act: 'gelu_pytorch_tanh',
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-6,
    query_pre_attn_scalar: 256,
    sliding_window: 4096,
    tie_word_embeddings: true
  }
}

const gpt2: Family = {
  architecture: 'GPT2LMHeadModel',
  tensors: gpt2Names,
  attentionBias: 'all',
  mlpBias: 'all',
  layerNorm: true,
  learnedPositions: true,
  plainMLP: true,
  names: {
    hidden_size: 'n_embd',
    num_hidden_layers: 'n_layer',
    num_attention_heads: 'n_head',
    intermediate_size: 'n_inner',
    max_position_embeddings: 'n_positions',
    hidden_act: 'activation_function',
    rms_norm_eps: 'layer_norm_epsilon'
  },
  defaults: { hidden_act: 'gelu_new', rms_norm_eps: 1e-5, scale_attn_weights: true, tie_word_embeddings: true }
}

const families = new Map<string, Family>([
  ['llama', { architecture: 'LlamaForCausalLM', tensors: llamaNames, attentionBias: 'configured', mlpBias: 'configured' }],
  [
    'mistral',
    {
      architecture: 'MistralForCausalLM',
      tensors: llamaNames,
      windows: namedLayers,
      defaults: { num_key_value_heads: 8, sliding_window: 4096 }
    }
  ],
  [
    'qwen2',
    {
      architecture: 'Qwen2ForCausalLM',
      tensors: llamaNames,
      attentionBias: 'queryKeyValue',
      windows: flaggedLayers,
      defaults: { num_key_value_heads: 32, sliding_window: 4096 }
    }
  ],
  [
    'qwen3',
    {
      architecture: 'Qwen3ForCausalLM',
      tensors: llamaNames,
      attentionBias: 'configured',
      queryKeyNorm: true,
      windows: flaggedLayers,
      defaults: { num_key_value_heads: 32, head_dim: 128, sliding_window: 4096 }
    }
  ],
  [
    'phi3',
    {
      architecture: 'Phi3ForCausalLM',
      tensors: phi3Names,
      windows: everyLayer,
      partialRotary: true,
      defaults: { rms_norm_eps: 1e-5, original_max_position_embeddings: 4096 }
    }
  ],
  ['gpt2', gpt2],
  ['gemma3_text', gemma3],
  ['gemma3', { ...gemma3, architecture: 'Gemma3ForConditionalGeneration', textSection: 'text_config' }],
  [
    'mixtral',
    {
      architecture: 'MixtralForCausalLM',
      tensors: mixtralNames,
      windows: everyLayer,
      experts: { intermediateSize: 'intermediate_size', normalized: true },
      defaults: { num_key_value_heads: 8, rms_norm_eps: 1e-5, rope_theta: 1e6, num_local_experts: 8, num_experts_per_tok: 2 }
    }
  ],
  [
    'qwen3_moe',
    {
      architecture: 'Qwen3MoeForCausalLM',
      tensors: llamaNames,
      attentionBias: 'configured',
      queryKeyNorm: true,
      windows: flaggedEverywhere,
      experts: { intermediateSize: 'moe_intermediate_size' },
      defaults: { num_key_value_heads: 4, num_local_experts: 128, num_experts_per_tok: 8, sliding_window: 4096 }
    }
  ]
])

export function familyNamed(modelType: string): Family {
  return families.get(modelType)!
}

/** Both `model_type` and `architectures` must name the same known family: a checkpoint that names another head is another model. */
export function familyOf(fields: ConfigFields): { modelType: string; family: Family } {
  const modelType = fields.text('model_type')
  const family = modelType === undefined ? undefined : families.get(modelType)
  const architecture = readArchitecture(fields)
  if (!modelType || !family || (architecture !== undefined && architecture !== family.architecture)) {
    const named = [
      architecture && `architecture ${architecture.slice(0, 100)}`,
      modelType && `model_type ${modelType.slice(0, 100)}`
    ].filter(Boolean)
    throw new HeddleError(
      'unsupported_model',
      `${fields.where}: ${named.join(', ') || 'a config without model_type'} is not supported; ` +
        `supported: ${[...families].map(([type, { architecture: name }]) => `${name} (${type})`).join(', ')}`,
      { details: { modelType, architecture } }
    )
  }
  return { modelType, family }
}

function readArchitecture(fields: ConfigFields): string | undefined {
  const value = fields.value('architectures')
  if (value === undefined) return undefined
  if (!Array.isArray(value) || !value.every((name) => typeof name === 'string'))
    throw fields.wrong('architectures', 'a list of texts', value)
  return value[0]
}
