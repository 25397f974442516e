// The reference cases: logits and greedy tokens of `transformers`, at every size that the head count allows.
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import ownCases from '../golden/own.json'
import { golden, withModel } from '../support/models'
import { floats, idRows, readSafetensors } from '../support/safetensors-file'

const cases: [string, number[]][] = [
  ['qwen3', [1, 2, 4, 8]],
  ['qwen3-tied-sharded', [1, 2, 4, 8]],
  ['llama', [1, 2, 4]],
  ['llama3-rope-gqa', [1, 2, 4]],
  ['mqa-llama', [1, 2, 4, 8]],
  ['qwen2-bias', [1, 2, 4, 8]],
  ['mistral-sliding', [1, 2, 4, 8]],
  ['phi3', [1, 2, 4, 8]],
  ['llama-yarn-odd-vocab', [1, 2, 4, 8]],
  ['gpt2', [1, 2, 4, 8]],
  ['gemma3', [1, 2, 4]],
  ['mixtral', [1, 2, 4, 8]],
  ['qwen3-moe', [1, 2, 4, 8]],
  ['qwen3-moe-mixed', [1, 2, 4, 8]],
  ...Object.keys(ownCases.cases).map((name): [string, number[]] => [name, [1, 2, 4]])
]
const tolerance = 2e-4

interface Expected {
  greedy: number[][]
  logits_positions: [number, number]
}

async function readExpected(name: string) {
  const tensors = await readSafetensors(path.join(golden(name), 'expected.safetensors'))
  const { greedy, logits_positions: positions } = JSON.parse(await readFile(path.join(golden(name), 'expected.json'), 'utf8')) as Expected
  return { ids: idRows(tensors.get('input_ids')!), logits: floats(tensors.get('logits')!), greedy, positions }
}

function largestDifference(actual: Float32Array, expected: Float32Array): number {
  expect(actual.length).toBe(expected.length)
  return actual.reduce((most, value, index) => Math.max(most, Math.abs(value - expected[index]!) || (value === value ? 0 : Infinity)), 0)
}

/** The last rows of every sequence of [batch, tokens, vocab]. */
function positionsOf(logits: Float32Array, [batch, tokens, vocab]: number[], [from, to]: [number, number]): Float32Array {
  const rows = Array.from({ length: batch! }, (_, index) =>
    logits.subarray((index * tokens! + from) * vocab!, (index * tokens! + to) * vocab!)
  )
  return Float32Array.from(rows.flatMap((row) => [...row]))
}

const runs = cases.flatMap(([name, sizes]) => sizes.map((size) => ({ name, size, expertParallel: false })))
/** Whole experts on each rank: more of them on some than on others at sizes that do not divide. */
const expertRuns = [
  { name: 'mixtral', size: 4 },
  { name: 'mixtral-fused', size: 2 },
  { name: 'qwen3-moe', size: 8 },
  { name: 'qwen3-moe-mixed', size: 2 },
  { name: 'qwen3-moe-probabilities', size: 4 }
].map((run) => ({ ...run, expertParallel: true }))

describe.each([...runs, ...expertRuns])('$name at size $size, expertParallel $expertParallel', ({ name, size, expertParallel }) => {
  test('logits, of all rows and of the last, and greedy tokens', async () => {
    const { ids, logits: expected, greedy, positions } = await readExpected(name)
    await withModel(golden(name), { tpSize: size, dtype: 'float32', expertParallel }, async (model) => {
      const { logits, shape } = await model.forward(ids)
      expect(shape).toEqual([ids.length, ids[0]!.length, model.config.vocabSize])
      expect(largestDifference(positionsOf(logits, shape, positions), expected)).toBeLessThanOrEqual(tolerance)

      const last = await model.forward(ids, { lastOnly: true })
      expect(last.shape).toEqual([ids.length, 1, model.config.vocabSize])
      expect(largestDifference(last.logits, positionsOf(logits, shape, [shape[1] - 1, shape[1]]))).toBeLessThanOrEqual(1e-5)

      for (const [row, tokens] of greedy.entries()) {
        const answer = await model.generate(ids[row]!, { maxNewTokens: tokens.length, ignoreEos: true })
        expect(answer).toMatchObject({
          text: '',
          tokenIds: tokens,
          finishReason: 'length',
          usage: { promptTokens: ids[row]!.length, completionTokens: tokens.length }
        })
      }
    })
  })
})
