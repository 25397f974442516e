// What the families call their tensors. The decoder's own names are those of Llama's checkpoints; this says where others differ.

export interface TensorNames {
  /** what all names of the model begin with: the first of these that the checkpoint has */
  roots: readonly string[]
  embedding: string
  /** the table of positions, where they are learned */
  positions?: string
  /** of the layers, followed by a number */
  layers: string
  attentionNorm: string
  attention: string
  /** a norm of what attention gives, before it is added */
  attentionOutputNorm?: string
  mlpNorm: string
  mlp: string
  mlpOutputNorm?: string
  /** a mixture of experts, where it is not called as the MLP: the first of these that the checkpoint has */
  experts?: readonly string[]
  norm: string
  /** outside the root */
  head: string
  /** a module's own name, by ours */
  modules?: Readonly<Record<string, string>>
  /** modules that hold others below each other, in this order */
  fused?: Readonly<Record<string, readonly string[]>>
  /** matrices of linear layers are stored [in, out] */
  transposed?: boolean
}

export const llamaNames: TensorNames = {
  roots: ['model.'],
  embedding: 'embed_tokens',
  layers: 'layers.',
  attentionNorm: 'input_layernorm',
  attention: 'self_attn',
  mlpNorm: 'post_attention_layernorm',
  mlp: 'mlp',
  norm: 'norm',
  head: 'lm_head'
}

export const phi3Names: TensorNames = {
  ...llamaNames,
  fused: { qkv_proj: ['q_proj', 'k_proj', 'v_proj'], gate_up_proj: ['gate_proj', 'up_proj'] }
}

export const mixtralNames: TensorNames = {
  ...llamaNames,
  experts: ['block_sparse_moe', 'mlp'],
  modules: { gate_proj: 'w1', up_proj: 'w3', down_proj: 'w2' }
}

export const gemma3Names: TensorNames = {
  ...llamaNames,
  roots: ['model.', 'model.language_model.', 'language_model.model.'],
  attentionOutputNorm: 'post_attention_layernorm',
  mlpNorm: 'pre_feedforward_layernorm',
  mlpOutputNorm: 'post_feedforward_layernorm'
}

export const gpt2Names: TensorNames = {
  roots: ['transformer.', ''],
  embedding: 'wte',
  positions: 'wpe',
  layers: 'h.',
  attentionNorm: 'ln_1',
  attention: 'attn',
  mlpNorm: 'ln_2',
  mlp: 'mlp',
  norm: 'ln_f',
  head: 'lm_head',
  modules: { o_proj: 'c_proj', fc1: 'c_fc', fc2: 'c_proj' },
  fused: { c_attn: ['q_proj', 'k_proj', 'v_proj'] },
  transposed: true
}

/** What a family calls a weight: its module's name, and the weight's, whose own module may be called otherwise. */
export function familyWeightName({ modules = {} }: TensorNames, module: string, weight: string): string {
  const path = weight.split('.')
  const own = path.at(-2)
  const renamed = own !== undefined && Object.hasOwn(modules, own) ? [...path.slice(0, -2), modules[own]!, path.at(-1)!] : path
  return `${module}.${renamed.join('.')}`
}
