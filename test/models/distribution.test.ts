// What is drawn, through the whole of generate(): 1000 first tokens of one prompt, with seeds that follow from one, against the
// probabilities that forward()'s logits have by the words of each option. The kernels' own tests draw 20,000 (native/tests/sample_test.cpp).
import { AutoModelForCausalLM } from '../../lib/causal-lm'
import type { CausalLM } from '../../lib/causal-lm'
import type { GenerateOptions } from '../../lib/generation/options'
import { tinyModel } from '../support/models'

const ids = [5, 17, 300, 42, 17, 9, 1200, 5]
const draws = 1000

let model: CausalLM
let logits: number[]
beforeAll(async () => {
  model = await AutoModelForCausalLM.fromPretrained(tinyModel, { tpSize: 2, dtype: 'float32' })
  logits = [...(await model.forward([ids], { lastOnly: true })).logits]
})
afterAll(() => model.close())

/** Of every id, after temperature, top-k, top-p and min-p in this order. */
function probabilities({ temperature = 1, topK = 0, topP = 1, minP = 0 }: GenerateOptions): number[] {
  const largest = Math.max(...logits)
  const weights = logits.map((logit) => Math.exp((logit - largest) / temperature))
  const order = [...weights.keys()].sort((a, b) => weights[b]! - weights[a]!).slice(0, topK || undefined)
  const total = order.reduce((sum, id) => sum + weights[id]!, 0)
  const kept = new Set<number>()
  let before = 0
  for (const id of order) {
    if (before < topP * total && weights[id]! >= minP) kept.add(id)
    before += weights[id]!
  }
  const left = [...kept].reduce((sum, id) => sum + weights[id]!, 0)
  return weights.map((weight, id) => (kept.has(id) ? weight / left : 0))
}

async function drawn(options: GenerateOptions): Promise<number[]> {
  const answers = await model.generate(ids, { ...options, seed: 2, maxNewTokens: 1, n: draws })
  return answers.map(({ tokenIds }) => tokenIds[0]!)
}

/** Chi-square per degree of freedom, ids that are expected less than five times taken together; Infinity for an id that cannot come. */
function misfit(tokens: number[], expected: number[]): number {
  const counts = new Map<number, number>()
  for (const id of tokens) counts.set(id, (counts.get(id) ?? 0) + 1)
  if ([...counts.keys()].some((id) => expected[id] === 0)) return Infinity
  const cells = expected.flatMap((probability, id) => (probability * draws >= 5 ? [[probability * draws, counts.get(id) ?? 0] as const] : []))
  const rest = [draws - cells.reduce((sum, [wanted]) => sum + wanted, 0), draws - cells.reduce((sum, [, count]) => sum + count, 0)] as const
  const all = rest[0] >= 5 ? [...cells, rest] : cells
  expect(all.length).toBeGreaterThan(2)
  return all.reduce((sum, [wanted, count]) => sum + (count - wanted) ** 2 / wanted, 0) / (all.length - 1)
}

const cases: GenerateOptions[] = [
  { temperature: 2 },
  { temperature: 1.2 },
  { temperature: 2, topK: 4 },
  { temperature: 2, topP: 0.6 },
  { temperature: 2, minP: 0.1 },
  { temperature: 2.5, topK: 12, topP: 0.8, minP: 0.05 }
]

test.each(cases)('%j', async (options) => {
  const tokens = await drawn(options)
  expect(misfit(tokens, probabilities(options))).toBeLessThan(2)
  for (const name of Object.keys(options) as (keyof GenerateOptions)[]) {
    const ignored: GenerateOptions = { ...options, [name]: undefined }
    if (JSON.stringify(probabilities(ignored)) === JSON.stringify(probabilities(options))) continue
    expect(misfit(tokens, probabilities(ignored))).toBeGreaterThan(2) // it would show
  }
})
