// generation_config.json: the end tokens and the sampling that a model's makers suggest. The file is optional.
import path from 'node:path'
import { readConfigFields } from './config'

export interface GenerationConfig {
  eosTokenIds: number[]
  doSample: boolean
  temperature?: number
  topK?: number
  topP?: number
  minP?: number
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
    minP: optional('min_p', 1)
  }
}
