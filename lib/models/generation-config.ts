// generation_config.json: the end tokens, the limits, the sampling and the changes to logits that a model's makers suggest, as generate() of
// `transformers` takes them. The file is optional. Rule: a field that may change the text and that nothing here honours is named.
import path from 'node:path'
import { readConfigFields } from './config'
import type { ConfigFields } from './config-fields'
import type { JsonValue } from './strict-json'

export interface GenerationConfig {
  eosTokenIds: number[]
  doSample: boolean
  temperature?: number
  topK?: number
  topP?: number
  minP?: number
  repetitionPenalty?: number
  maxNewTokens?: number
  /** tokens of prompt and answer, where there is no maxNewTokens */
  maxLength?: number
  minNewTokens?: number
  /** tokens of prompt and answer, where there is no minNewTokens */
  minLength?: number
  stopTexts?: string[]
  /** added to the logits of ids */
  tokenBias?: ReadonlyMap<number, number>
  /** added to the logit of the last of several ids where a text ends with the others; words of several ids that never come have -Infinity */
  runBias?: { ids: number[]; bias: number }[]
  /** runs of so many ids come only once */
  noRepeatNgramSize?: number
  /** ids that never come */
  suppressedIds?: number[]
  /** words of one id; they never come, unless they end the answer */
  badIds?: number[]
  /** ids that do not begin the answer */
  beginSuppressedIds?: number[]
  /** one of these is the last token of an answer that is as long as it may be */
  forcedEosIds?: number[]
  /** fields that may change the text, and are not honoured */
  ignored?: string[]
}

const maxInteger = 2 ** 31 - 1
const maxEntries = 100_000

/** `vocabSize` bounds ids. */
export async function readGenerationConfig(folder: string, vocabSize = maxInteger): Promise<GenerationConfig> {
  const fields = await readConfigFields(path.join(folder, 'generation_config.json'))
  if (!fields) return { eosTokenIds: [], doSample: false }
  const number = (name: string, min: number, max: number): number | undefined => (fields.has(name) ? fields.number(name, { min, max }) : undefined)
  const integer = (name: string, min: number): number | undefined => (fields.has(name) ? fields.integer(name, { min, max: maxInteger }) : undefined)
  const biases = sequenceBias(fields, vocabSize)
  const words = badWords(fields, vocabSize)
  const runBias = [...biases, ...words.map((ids) => ({ ids, bias: -Infinity }))].filter(({ ids }) => ids.length > 1)
  const tokenBias = biases.filter(({ ids }) => ids.length === 1).map(({ ids, bias }) => [ids[0]!, bias] as const)
  const badIds = words.filter((ids) => ids.length === 1).map((ids) => ids[0]!)
  const config = {
    eosTokenIds: fields.tokenIds('eos_token_id'),
    doSample: fields.flag('do_sample', false),
    temperature: number('temperature', 0, 1000),
    topK: integer('top_k', 0),
    topP: number('top_p', 1e-6, 1),
    minP: number('min_p', 0, 1),
    repetitionPenalty: number('repetition_penalty', 0.01, 100),
    maxNewTokens: integer('max_new_tokens', 1),
    maxLength: integer('max_length', 1),
    minNewTokens: integer('min_new_tokens', 0),
    minLength: integer('min_length', 0),
    stopTexts: fields.has('stop_strings') ? stopTexts(fields) : undefined,
    tokenBias: tokenBias.length > 0 ? new Map(tokenBias) : undefined,
    runBias: runBias.length > 0 ? runBias : undefined,
    noRepeatNgramSize: integer('no_repeat_ngram_size', 0),
    suppressedIds: suppressed(fields, 'suppress_tokens', vocabSize),
    badIds: badIds.length > 0 ? badIds : undefined,
    beginSuppressedIds: suppressed(fields, 'begin_suppress_tokens', vocabSize),
    forcedEosIds: fields.has('forced_eos_token_id') ? fields.tokenIds('forced_eos_token_id') : undefined
  }
  const ignored = fields.unread(changesNoText)
  return { ...config, ...(ignored.length > 0 && { ignored }) }
}

/** One text, or a list of them. */
function stopTexts(fields: ConfigFields): string[] {
  const value = fields.value('stop_strings')
  const texts = Array.isArray(value) ? value : [value]
  const isText = (text: unknown): text is string => typeof text === 'string' && text !== ''
  if (texts.length <= 1024 && texts.every(isText)) return texts
  throw fields.wrong('stop_strings', 'a text or a list of texts, none empty', value)
}

/** A list of lists of ids and the bias of the last one where the others come before it. */
function sequenceBias(fields: ConfigFields, vocabSize: number): { ids: number[]; bias: number }[] {
  const value = fields.value('sequence_bias')
  if (value === undefined) return []
  const isBias = (bias: JsonValue | undefined): bias is number => typeof bias === 'number' && Math.abs(bias) <= 1e9
  const entries = Array.isArray(value) && value.length <= maxEntries ? value.map((pair) => (Array.isArray(pair) ? pair : [])) : []
  if (entries.length === 0 || !entries.every(([ids, bias]) => isSequence(ids, vocabSize) && isBias(bias)))
    throw fields.wrong('sequence_bias', `a list of [[ids below ${vocabSize}], a number]`, value)
  return (entries as [number[], number][]).map(([ids, bias]) => ({ ids, bias }))
}

function badWords(fields: ConfigFields, vocabSize: number): number[][] {
  const value = fields.value('bad_words_ids') ?? []
  if (Array.isArray(value) && value.length <= maxEntries && value.every((word) => isSequence(word, vocabSize))) return value as number[][]
  throw fields.wrong('bad_words_ids', `a list of lists of ids below ${vocabSize}`, value)
}

function isSequence(value: JsonValue | undefined, vocabSize: number): value is number[] {
  const isId = (id: JsonValue): boolean => typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < vocabSize
  return Array.isArray(value) && value.length > 0 && value.length <= 1024 && value.every(isId)
}

/** As in `transformers`, ids that the vocabulary lacks have no effect. */
function suppressed(fields: ConfigFields, name: string, vocabSize: number): number[] | undefined {
  const value = fields.value(name)
  if (value === undefined) return undefined
  if (!Array.isArray(value) || value.length > maxEntries || !value.every((id) => typeof id === 'number' && Number.isInteger(id)))
    throw fields.wrong(name, 'a list of token ids', value)
  return (value as number[]).filter((id) => id >= 0 && id < vocabSize)
}

/** What is said of beams alone, of caches, of what is returned, of drafts that change no text, of special tokens, and notes. */
const harmless = new Set([
  'early_stopping', 'length_penalty', 'use_cache', 'cache_implementation', 'cache_config', 'max_cache_len', 'renormalize_logits',
  'remove_invalid_values', 'output_attentions', 'output_hidden_states', 'output_scores', 'output_logits', 'return_dict_in_generate',
  'return_legacy_cache', 'pad_token_id', 'bos_token_id', 'decoder_start_token_id', 'use_mtp', 'is_assistant', 'num_assistant_tokens',
  'num_assistant_tokens_schedule', 'assistant_confidence_threshold', 'prompt_lookup_num_tokens', 'max_matching_ngram_size',
  'assistant_early_exit', 'assistant_lookbehind', 'target_lookbehind', 'assistant_ensemble_weight', 'speculation_type', 'compile_config',
  'disable_compile', 'continuous_batching_config', 'low_memory', 'prefill_chunk_size', '_from_model_config', '_commit_hash',
  'transformers_version'
])

/** Where 1 says nothing. */
const offAtOne = new Set([
  'num_beams', 'num_beam_groups', 'num_return_sequences', 'typical_p', 'top_h', 'epsilon_cutoff', 'eta_cutoff', 'encoder_repetition_penalty',
  'guidance_scale'
])

const changesNoText = (name: string, value: JsonValue): boolean => harmless.has(name) || (value === 1 && offAtOne.has(name))
