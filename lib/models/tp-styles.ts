// The names of the styles of tensor-parallel plans, as `transformers` has them: those of v5 are ours, earlier and later ones are aliases.

/** What a plan may say of a module, by the name of `transformers` v5. */
export type TPStyle =
  | 'colwise'
  | 'colwise_gather_output'
  | 'rowwise'
  | 'rowwise_split_input'
  | 'packed_colwise'
  | 'packed_rowwise'
  | 'embedding_rowwise'
  | 'replicate'
  | 'all_reduce'
  | 'moe_tp_experts'
  | 'grouped_gemm'
  | 'ep_router'
  | 'sequence_parallel'
  | 'rowwise_reduce_scatter'
  | 'vocab_reduce_scatter'
  | 'colwise_loss_parallel'
  | 'module_allgather'
  | 'mla_kv_a_proj'
  | 'moe_identity_expert'

/** Every style and the other names that it has or had. */
const names: Record<TPStyle, readonly string[]> = {
  colwise: ['local_colwise'],
  colwise_gather_output: ['colwise_rep', 'colwise_allgather'],
  rowwise: ['rowwise_allreduce', 'local_rowwise', 'moe_tp_down_rowwise'],
  rowwise_split_input: ['rowwise_rep'],
  packed_colwise: ['moe_tp_gate_up_colwise'],
  packed_rowwise: ['local_packed_rowwise'],
  embedding_rowwise: ['embedding_colwise', 'vocab_allreduce'],
  replicate: ['replicated_with_grad_allreduce'],
  all_reduce: ['gather', 'moe_experts_allreduce'],
  moe_tp_experts: ['local', 'ep_dispatch_experts'],
  grouped_gemm: [],
  ep_router: [],
  sequence_parallel: ['activation', 'activation_seq_dim_2'],
  rowwise_reduce_scatter: [],
  vocab_reduce_scatter: [],
  colwise_loss_parallel: [],
  module_allgather: ['module_allgather_hidden_states', 'module_allgather_split'],
  mla_kv_a_proj: [],
  moe_identity_expert: []
}

const byName = new Map(Object.entries(names).flatMap(([style, others]) => [style, ...others].map((name) => [name, style as TPStyle] as const)))

/** All names that a plan may use, aliases behind their style. */
export const tpStyleNames: readonly string[] = [...byName.keys()]

export const styleNamed = (name: unknown): TPStyle | undefined => (typeof name === 'string' ? byName.get(name) : undefined)

/** Why no decoder honours a style, whichever module it is said of; nothing for the others. */
export function unavailableStyle(style: TPStyle): string | undefined {
  if (sequenceStyles.includes(style)) return 'activations are not split over the sequence in this build'
  if (style === 'mla_kv_a_proj') return 'no supported family has latent attention'
  if (style === 'moe_identity_expert') return 'no supported family has experts that pass their input on'
  return undefined
}

const sequenceStyles: readonly TPStyle[] = [
  'sequence_parallel',
  'rowwise_reduce_scatter',
  'vocab_reduce_scatter',
  'colwise_loss_parallel',
  'module_allgather'
]
