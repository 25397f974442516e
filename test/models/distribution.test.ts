// What is drawn, through the whole of generate(): 20,000 first tokens of one prompt, with seeds that follow from a few, against the
// probabilities that forward()'s logits have by the words of each option.
import { AutoModelForCausalLM } from '../../lib/causal-lm'
import type { CausalLM } from '../../lib/causal-lm'
import type { GenerateOptions } from '../../lib/generation/options'
import { golden } from '../support/models'

const ids = [5, 17, 30, 42, 17, 9, 12, 5]
const draws = 20_000
const drawsOfCall = 1000

let model: CausalLM
let logits: number[]
beforeAll(async () => {
  model = await AutoModelForCausalLM.fromPretrained(golden('llama-linear-tied'), { tpSize: 2, dtype: 'float32' })
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
  const tokens: number[] = []
  for (let seed = 1; tokens.length < draws; seed++) {
    const answers = await model.generate(ids, { ...options, seed, maxNewTokens: 1, n: drawsOfCall })
    tokens.push(...answers.map(({ tokenIds }) => tokenIds[0]!))
  }
  return tokens
}

/**
 * Chi-square as deviations of a normal distribution (Wilson and Hilferty 1931), ids that are expected less than five times taken together;
 * Infinity for an id that cannot come.
 */
function misfit(tokens: number[], expected: number[]): number {
  const counts = new Map<number, number>()
  for (const id of tokens) counts.set(id, (counts.get(id) ?? 0) + 1)
  if ([...counts.keys()].some((id) => expected[id] === 0)) return Infinity
  const cells = expected.flatMap((probability, id) => (probability * draws >= 5 ? [[probability * draws, counts.get(id) ?? 0] as const] : []))
  const rest = [draws - cells.reduce((sum, [wanted]) => sum + wanted, 0), draws - cells.reduce((sum, [, count]) => sum + count, 0)] as const
  const all = rest[0] >= 5 ? [...cells, rest] : cells
  expect(all.length).toBeGreaterThan(2)
  const [freedom, chiSquare] = [all.length - 1, all.reduce((sum, [wanted, count]) => sum + (count - wanted) ** 2 / wanted, 0)]
  const spread = 2 / (9 * freedom)
  return (Math.cbrt(chiSquare / freedom) - (1 - spread)) / Math.sqrt(spread)
}

const cases: GenerateOptions[] = [
  { temperature: 2 },
  { temperature: 1.2 },
  { temperature: 2, topK: 4 },
  { temperature: 2, topP: 0.6 },
  { temperature: 2, minP: 0.4 },
  { temperature: 2.5, topK: 12, topP: 0.8, minP: 0.05 }
]

test.each(cases)('%j', async (options) => {
  const tokens = await drawn(options)
  expect(misfit(tokens, probabilities(options))).toBeLessThan(3.1) // one in a thousand
  for (const name of Object.keys(options) as (keyof GenerateOptions)[]) {
    const ignored: GenerateOptions = { ...options, [name]: undefined }
    if (Object.keys(options).length > 2 && String(probabilities(ignored)) === String(probabilities(options))) continue // another cuts deeper
    expect(misfit(tokens, probabilities(ignored))).toBeGreaterThan(6) // it would show
  }
})
