// generation_config.json: the end tokens, the limits and the sampling that a model's makers suggest. The file is optional.
import path from 'node:path'
import { readConfigFields } from './config'
import type { ConfigFields } from './config-fields'

export interface GenerationConfig {
  eosTokenIds: number[]
  doSample: boolean
  temperature?: number
  topK?: number
  topP?: number
  minP?: number
  repetitionPenalty?: number
  maxNewTokens?: number
  minNewTokens?: number
  stopTexts?: string[]
}

export async function readGenerationConfig(folder: string): Promise<GenerationConfig> {
  const fields = await readConfigFields(path.join(folder, 'generation_config.json'))
  if (!fields) return { eosTokenIds: [], doSample: false }
  const optional = (name: string, max: number): number | undefined => (fields.has(name) ? fields.number(name, { min: 0, max }) : undefined)
  return {
    eosTokenIds: fields.tokenIds('eos_token_id'),
    doSample: fields.flag('do_sample', false),
    temperature: optional('temperature', 1000),
    topK: fields.has('top_k') ? fields.integer('top_k', { min: 0, max: 2 ** 31 - 1 }) : undefined,
    topP: fields.has('top_p') ? fields.number('top_p', { min: 1e-6, max: 1 }) : undefined,
    minP: optional('min_p', 1),
    repetitionPenalty: fields.has('repetition_penalty') ? fields.number('repetition_penalty', { min: 0.01, max: 100 }) : undefined,
    maxNewTokens: fields.has('max_new_tokens') ? fields.integer('max_new_tokens', { max: 2 ** 31 - 1 }) : undefined,
    minNewTokens: fields.has('min_new_tokens') ? fields.integer('min_new_tokens', { min: 0, max: 2 ** 31 - 1 }) : undefined,
    stopTexts: fields.has('stop_strings') ? stopTexts(fields) : undefined
  }
}

/** One text, or a list of them. */
function stopTexts(fields: ConfigFields): string[] {
  const value = fields.value('stop_strings')
  const texts = Array.isArray(value) ? value : [value]
  const isText = (text: unknown): text is string => typeof text === 'string' && text !== ''
  if (texts.length <= 1024 && texts.every(isText)) return texts
  throw fields.wrong('stop_strings', 'a text or a list of texts, none empty', value)
}
