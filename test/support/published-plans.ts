// The tensor-parallel plans that transformers 5.23.0 has for the families; test/process/compare-with-transformers.test.ts asks it for them.

export const attention = {
  'layers.*.self_attn.q_proj': 'colwise',
  'layers.*.self_attn.k_proj': 'colwise',
  'layers.*.self_attn.v_proj': 'colwise',
  'layers.*.self_attn.o_proj': 'rowwise'
}
export const norms = {
  'layers.*.self_attn.q_norm': 'replicated_with_grad_allreduce',
  'layers.*.self_attn.k_norm': 'replicated_with_grad_allreduce'
}
export const mlp = { 'layers.*.mlp.gate_proj': 'colwise', 'layers.*.mlp.up_proj': 'colwise', 'layers.*.mlp.down_proj': 'rowwise' }
export const experts = {
  'layers.*.mlp.experts.gate_up_proj': 'packed_colwise',
  'layers.*.mlp.experts.down_proj': 'rowwise',
  'layers.*.mlp.experts': 'moe_tp_experts'
}
export const head = { lm_head: 'colwise_gather_output' }

/** By a reference case of the family: base_model_tp_plan with the head's _tp_plan. */
export const publishedPlans: [string, Record<string, string>][] = [
  ['llama', { ...attention, ...mlp, ...head }],
  ['mistral-sliding', { ...attention, ...mlp, ...head }],
  ['qwen2-bias', { ...attention, ...mlp, ...head }],
  ['qwen3', { ...attention, ...norms, ...mlp, ...head }],
  ['gemma3', { ...attention, ...norms, ...mlp, ...head }],
  ['mixtral', { ...attention, ...experts, ...head }],
  ['qwen3-moe-mixed', { ...attention, ...norms, ...experts, ...mlp, ...head }],
  [
    'phi3',
    {
      'layers.*.self_attn.qkv_proj': 'colwise_gather_output',
      'layers.*.self_attn.o_proj': 'rowwise_split_input',
      'layers.*.mlp.gate_up_proj': 'colwise_gather_output',
      'layers.*.mlp.down_proj': 'rowwise_split_input',
      ...head
    }
  ]
]

/** base_model_ep_plan of mixtral and qwen3_moe. */
export const publishedExpertPlan = {
  'layers.*.mlp.experts.gate_up_proj': 'grouped_gemm',
  'layers.*.mlp.experts.down_proj': 'grouped_gemm',
  'layers.*.mlp.experts': 'ep_dispatch_experts'
}
