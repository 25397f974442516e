// Configurations with the fields that published checkpoints of each family carry, harmless ones included: none may be refused.
import { parseModelConfig } from '../../lib/models/config'
import { ConfigFields } from '../../lib/models/config-fields'
import { parseStrictJsonObject } from '../../lib/models/strict-json'

const parse = (config: object) =>
  parseModelConfig(new ConfigFields(parseStrictJsonObject(new TextEncoder().encode(JSON.stringify(config)), 'config.json'), 'config.json'))

const common = {
  attention_dropout: 0.0,
  bos_token_id: 1,
  eos_token_id: 2,
  hidden_act: 'silu',
  initializer_range: 0.02,
  rms_norm_eps: 1e-5,
  torch_dtype: 'bfloat16',
  transformers_version: '4.43.0',
  use_cache: true,
  tie_word_embeddings: false
}
const llama = {
  ...common,
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  attention_bias: false,
  mlp_bias: false,
  pretraining_tp: 1,
  hidden_size: 4096,
  intermediate_size: 14336,
  max_position_embeddings: 131072,
  num_attention_heads: 32,
  num_hidden_layers: 32,
  num_key_value_heads: 8,
  rope_theta: 500000.0,
  vocab_size: 128256
}
const scaled = { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192, rope_type: 'llama3' }
const phi3 = {
  ...common,
  architectures: ['Phi3ForCausalLM'],
  model_type: 'phi3',
  attention_bias: false,
  auto_map: { AutoConfig: 'configuration_phi3.Phi3Config', AutoModelForCausalLM: 'modeling_phi3.Phi3ForCausalLM' },
  embd_pdrop: 0.0,
  resid_pdrop: 0.0,
  hidden_size: 3072,
  intermediate_size: 8192,
  max_position_embeddings: 4096,
  num_attention_heads: 32,
  num_hidden_layers: 32,
  num_key_value_heads: 32,
  original_max_position_embeddings: 4096,
  pad_token_id: 32000,
  rope_scaling: null,
  rope_theta: 10000.0,
  sliding_window: 2047,
  vocab_size: 32064
}
const longrope = { type: 'longrope', short_factor: Array(48).fill(1.05), long_factor: Array(48).fill(5.5) }
const qwen = {
  ...common,
  hidden_size: 2048,
  intermediate_size: 6144,
  max_position_embeddings: 40960,
  max_window_layers: 48,
  num_attention_heads: 32,
  num_hidden_layers: 48,
  num_key_value_heads: 4,
  rope_theta: 1000000.0,
  sliding_window: null,
  use_sliding_window: false,
  vocab_size: 151936
}

test.each<[string, object, object]>([
  ['Llama 3.1', { ...llama, rope_scaling: scaled, eos_token_id: [128001, 128008, 128009] }, { headDim: 128, kvHeadCount: 8 }],
  [
    'small Llamas, with what tools leave behind',
    { ...llama, is_llama_config: true, rope_interleaved: false, 'transformers.js_config': { dtype: {} }, _name_or_path: 'x', unsloth_fixed: true },
    { layerCount: 32 }
  ],
  ['older Llamas', { ...llama, rope_scaling: { type: 'dynamic', factor: 2.0 }, max_sequence_length: 2048, pad_token_id: 0 }, { modelType: 'llama' }],
  [
    'Mistral',
    { ...llama, mlp_bias: undefined, pretraining_tp: undefined, model_type: 'mistral', architectures: ['MistralForCausalLM'], sliding_window: 4096 },
    { attentionBias: false }
  ],
  [
    'Qwen2.5',
    { ...qwen, model_type: 'qwen2', architectures: ['Qwen2ForCausalLM'], sliding_window: 131072, use_mrope: false },
    { attentionBias: true, attentionOutputBias: false }
  ],
  [
    'Qwen3-MoE',
    {
      ...qwen,
      model_type: 'qwen3_moe',
      architectures: ['Qwen3MoeForCausalLM'],
      attention_bias: false,
      decoder_sparse_step: 1,
      head_dim: 128,
      mlp_only_layers: [],
      moe_intermediate_size: 768,
      norm_topk_prob: true,
      num_experts: 128,
      num_experts_per_tok: 8,
      output_router_logits: false,
      router_aux_loss_coef: 0.001
    },
    { experts: { expertCount: 128, expertsPerToken: 8, intermediateSize: 768, normalized: true } }
  ],
  [
    'Mixtral',
    {
      ...common,
      model_type: 'mixtral',
      architectures: ['MixtralForCausalLM'],
      hidden_size: 4096,
      intermediate_size: 14336,
      max_position_embeddings: 32768,
      num_attention_heads: 32,
      num_experts_per_tok: 2,
      num_hidden_layers: 32,
      num_key_value_heads: 8,
      num_local_experts: 8,
      output_router_logits: false,
      rope_theta: 1000000.0,
      router_aux_loss_coef: 0.02,
      sliding_window: null,
      vocab_size: 32000
    },
    { experts: { expertCount: 8, expertsPerToken: 2, intermediateSize: 14336, normalized: true } }
  ],
  ['Phi-3 of 4k', phi3, { maxPositionEmbeddings: 4096 }],
  ['Phi-3 of 128k', { ...phi3, max_position_embeddings: 131072, rope_scaling: longrope, sliding_window: 262144 }, { maxPositionEmbeddings: 4096 }],
  [
    'Phi-4-mini',
    {
      ...phi3,
      full_attn_mod: 1,
      interpolate_factor: 1,
      lm_head_bias: false,
      mlp_bias: false,
      num_attention_heads: 24,
      num_key_value_heads: 8,
      partial_rotary_factor: 0.75,
      max_position_embeddings: 131072,
      rope_scaling: { ...longrope },
      tie_word_embeddings: true,
      vocab_size: 200064
    },
    { tieWordEmbeddings: true, headDim: 128 }
  ],
  [
    'Gemma 3 1B',
    {
      architectures: ['Gemma3ForCausalLM'],
      attention_bias: false,
      attention_dropout: 0.0,
      attn_logit_softcapping: null,
      bos_token_id: 2,
      cache_implementation: 'hybrid',
      eos_token_id: [1, 106],
      final_logit_softcapping: null,
      head_dim: 256,
      hidden_activation: 'gelu_pytorch_tanh',
      hidden_size: 1152,
      initializer_range: 0.02,
      intermediate_size: 6912,
      max_position_embeddings: 32768,
      model_type: 'gemma3_text',
      num_attention_heads: 4,
      num_hidden_layers: 26,
      num_key_value_heads: 1,
      pad_token_id: 0,
      query_pre_attn_scalar: 256,
      rms_norm_eps: 1e-6,
      rope_local_base_freq: 10000,
      rope_scaling: null,
      rope_theta: 1000000,
      sliding_window: 512,
      sliding_window_pattern: 6,
      torch_dtype: 'bfloat16',
      transformers_version: '4.50.0.dev0',
      use_cache: true,
      vocab_size: 262144
    },
    { eosTokenIds: [1, 106], kvHeadCount: 1 }
  ],
  [
    'GPT-2',
    {
      activation_function: 'gelu_new',
      architectures: ['GPT2LMHeadModel'],
      attn_pdrop: 0.1,
      bos_token_id: 50256,
      embd_pdrop: 0.1,
      eos_token_id: 50256,
      initializer_range: 0.02,
      layer_norm_epsilon: 1e-5,
      model_type: 'gpt2',
      n_ctx: 1024,
      n_embd: 768,
      n_head: 12,
      n_layer: 12,
      n_positions: 1024,
      resid_pdrop: 0.1,
      summary_activation: null,
      summary_first_dropout: 0.1,
      summary_proj_to_labels: true,
      summary_type: 'cls_index',
      summary_use_proj: true,
      task_specific_params: { 'text-generation': { do_sample: true, max_length: 50 } },
      vocab_size: 50257
    },
    { intermediateSize: 3072, tieWordEmbeddings: true }
  ]
])('%s', (_, config, expected) => expect(parse(config)).toMatchObject(expected))
