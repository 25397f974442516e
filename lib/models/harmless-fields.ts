// Fields of config.json that change no logit at inference, whatever they hold: of training, of generation's defaults (which
// generation_config.json gives), of other heads, and what tools note down. All others must be understood.

const names = new Set([
  // what the file is
  'architectures', 'model_type', 'dtype', 'torch_dtype', 'auto_map', 'tokenizer_class', 'processor_class', 'custom_pipelines',
  // special tokens
  'bos_token_id', 'pad_token_id', 'sep_token_id', 'cls_token_id', 'mask_token_id', 'unk_token_id', 'decoder_start_token_id',
  'forced_bos_token_id', 'forced_eos_token_id', 'image_token_index', 'boi_token_index', 'eoi_token_index',
  // training and execution
  'initializer_range', 'router_aux_loss_coef', 'router_jitter_noise', 'use_cache', 'pretraining_tp', 'attn_implementation',
  'cache_implementation', 'reorder_and_upcast_attn', 'return_dict', 'torchscript', 'chunk_size_feed_forward', 'gradient_checkpointing',
  'is_decoder', 'n_ctx', 'max_window_layers', 'sliding_window_pattern', 'model_max_length', 'max_sequence_length', 'neftune_noise_alpha',
  'use_flash_attn', 'is_llama_config', 'full_attn_mod', 'interpolate_factor', 'transformers.js_config',
  // spelled twice: in rope_parameters and outside
  'rope_theta', 'rope_scaling', 'rope_local_base_freq', 'original_max_position_embeddings',
  // other heads
  'id2label', 'label2id', 'num_labels', 'problem_type', 'task_specific_params', 'finetuning_task', 'summary_type', 'summary_activation',
  'summary_use_proj', 'summary_proj_to_labels',
  // generation
  'max_length', 'min_length', 'max_new_tokens', 'do_sample', 'early_stopping', 'num_beams', 'num_beam_groups', 'num_return_sequences',
  'temperature', 'top_k', 'top_p', 'typical_p', 'repetition_penalty', 'length_penalty', 'diversity_penalty', 'no_repeat_ngram_size',
  'encoder_no_repeat_ngram_size', 'bad_words_ids', 'begin_suppress_tokens', 'suppress_tokens', 'exponential_decay_length_penalty',
  'remove_invalid_values', 'prefix'
])

const patterns = [/^_/, /version$/, /dropout$/, /^(attn|embd|resid)_pdrop$/, /^output_/, /^unsloth_/]

/** Unused `sliding_window` too: families whose windows have a meaning read it. */
export const isHarmless = (name: string): boolean =>
  names.has(name) || name === 'sliding_window' || patterns.some((pattern) => pattern.test(name))
