// The reference cases by name, and what transformers computes for them.
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import ownCases from '../golden/own.json'
import { golden } from './models'
import { floats, idRows, readSafetensors } from './safetensors-file'

export const goldenCases = [
  'qwen3',
  'qwen3-tied-sharded',
  'llama',
  'llama3-rope-gqa',
  'mqa-llama',
  'qwen2-bias',
  'mistral-sliding',
  'phi3',
  'llama-yarn-odd-vocab',
  'gpt2',
  'gemma3',
  'mixtral',
  'qwen3-moe',
  'qwen3-moe-mixed',
  ...Object.keys(ownCases.cases)
]

/** Of a float32 implementation, per logit. */
export const goldenTolerance = 2e-4

interface Expected {
  greedy: number[][]
  logits_positions: [number, number]
}

export async function readExpected(name: string) {
  const tensors = await readSafetensors(path.join(golden(name), 'expected.safetensors'))
  const { greedy, logits_positions: positions } = JSON.parse(await readFile(path.join(golden(name), 'expected.json'), 'utf8')) as Expected
  return { ids: idRows(tensors.get('input_ids')!), logits: floats(tensors.get('logits')!), greedy, positions }
}

export function largestDifference(actual: Float32Array, expected: Float32Array): number {
  expect(actual.length).toBe(expected.length)
  return actual.reduce((most, value, index) => Math.max(most, Math.abs(value - expected[index]!) || (value === value ? 0 : Infinity)), 0)
}

/** The last rows of every sequence of [batch, tokens, vocab]. */
export function positionsOf(logits: Float32Array, [batch, tokens, vocab]: number[], [from, to]: [number, number]): Float32Array {
  const rows = Array.from({ length: batch! }, (_, index) =>
    logits.subarray((index * tokens! + from) * vocab!, (index * tokens! + to) * vocab!)
  )
  return Float32Array.from(rows.flatMap((row) => [...row]))
}

export function headCountOf(name: string): number {
  const config = JSON.parse(readFileSync(path.join(golden(name), 'config.json'), 'utf8')) as Record<string, any>
  const { num_attention_heads: heads, n_head: gptHeads } = (config['text_config'] ?? config) as Record<string, number>
  return heads ?? gptHeads!
}
