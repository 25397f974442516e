// Mixtures of experts equal their unsharded reference, with a part of every expert on each rank and with whole experts.
import { openGroup } from '../../lib/group'
import type { Group } from '../../lib/group'
import { TPMoE } from '../../lib/layers/moe'
import type { MoEOptions } from '../../lib/layers/moe'
import type { HostTensor } from '../../lib/native'
import { Random } from '../support/random'
import * as reference from '../support/reference'

const sizes = [1, 2, 3, 4, 5, 8, 11]
const groups = new Map<number, Group>()

beforeAll(async () => {
  for (const size of sizes) groups.set(size, await openGroup({ size, device: 'cpu' }))
})
afterAll(async () => {
  for (const group of groups.values()) await group.close()
})

const [hiddenSize, intermediateSize, expertCount] = [32, 24, 9]

function randomWeights(random: Random): Record<string, HostTensor> {
  const experts = Array.from({ length: expertCount }, (_, expert) => ({
    [`experts.${expert}.gate_proj.weight`]: random.matrix(intermediateSize, hiddenSize, 0.3),
    [`experts.${expert}.up_proj.weight`]: random.matrix(intermediateSize, hiddenSize, 0.3),
    [`experts.${expert}.down_proj.weight`]: random.matrix(hiddenSize, intermediateSize, 0.3)
  }))
  return Object.assign({ 'gate.weight': random.matrix(expertCount, hiddenSize) }, ...experts) as Record<string, HostTensor>
}

/** From the definition: softmax, the best `count`, and what each of them makes of the row. */
function expected(x: reference.Matrix, weights: Record<string, HostTensor>, { expertsPerToken, normalized, activation }: MoEOptions) {
  const act = reference.activations[activation ?? 'silu']
  return x.map((row) => {
    const logits = reference.linear([row], weights['gate.weight']!)[0]!
    const best = logits.map((logit, expert) => ({ logit, expert })).toSorted((a, b) => b.logit - a.logit)
    const total = (normalized === false ? best : best.slice(0, expertsPerToken)).reduce((sum, { logit }) => sum + Math.exp(logit), 0)
    const y = new Array<number>(hiddenSize).fill(0)
    for (const { logit, expert } of best.slice(0, expertsPerToken)) {
      const product = (input: number[], name: string) => reference.linear([input], weights[`experts.${expert}.${name}.weight`]!)[0]!
      const up = product(row, 'up_proj')
      const inner = product(row, 'gate_proj').map((gate, i) => act(gate) * up[i]!)
      product(inner, 'down_proj').forEach((value, i) => (y[i]! += (Math.exp(logit) / total) * value))
    }
    return y
  })
}

describe.each(sizes)('TPMoE at size %i', (size) => {
  const cases: [string, Partial<MoEOptions>][] = [
    ['one expert a token', { expertsPerToken: 1 }],
    ['weights that add up to one', { expertsPerToken: 3 }],
    ['probabilities among all', { expertsPerToken: 3, normalized: false, activation: 'gelu_tanh' }],
    ['every expert', { expertsPerToken: expertCount }]
  ]
  test.each(cases.flatMap(([name, options]) => [false, true].map((expertParallel) => ({ name, ...options, expertParallel }))))(
    '$name, expertParallel $expertParallel',
    async ({ name: _, ...options }) => {
      const random = new Random(31)
      const weights = randomWeights(random)
      const all: MoEOptions = { hiddenSize, intermediateSize, expertCount, expertsPerToken: 1, ...options }
      const layer = new TPMoE(groups.get(size)!, all)
      await layer.load(weights)
      for (const rows of [1, 21]) {
        const x = random.matrix(rows, hiddenSize)
        expect(reference.relativeError(await layer.run(x), expected(reference.toMatrix(x), weights, all))).toBeLessThan(1e-4)
      }
      layer.dispose()
    }
  )

  test('a rank holds its part of the experts and the whole router', () => {
    const options = { hiddenSize, intermediateSize, expertCount, expertsPerToken: 2 }
    const bytes = (expertParallel: boolean) => {
      const layer = new TPMoE(groups.get(size)!, { ...options, expertParallel })
      return Array.from({ length: size }, (_, rank) => layer.localBytes(rank))
    }
    const expert = 3 * hiddenSize * intermediateSize * 4
    const router = expertCount * hiddenSize * 4
    if (intermediateSize % size === 0) expect(bytes(false)).toEqual(Array(size).fill(router + (expertCount * expert) / size))
    expect(bytes(false).reduce((sum, each) => sum + each, 0)).toBe(size * router + expertCount * expert)
    expect(bytes(true).every((each) => each >= router + Math.floor(expertCount / size) * expert)).toBe(true)
    const idle = Math.max(0, size - expertCount) * 3 * hiddenSize * 4 // one column of zeros of gate, up and down
    expect(bytes(true).reduce((sum, each) => sum + each, 0)).toBe(size * router + expertCount * expert + idle)
  })
})

test('an inner width that is less than the size', async () => {
  const random = new Random(37)
  const options: MoEOptions = { hiddenSize, intermediateSize: 3, expertCount: 2, expertsPerToken: 2 }
  const weights: Record<string, HostTensor> = { 'gate.weight': random.matrix(2, hiddenSize) }
  for (const expert of [0, 1]) {
    for (const name of ['gate_proj', 'up_proj']) weights[`experts.${expert}.${name}.weight`] = random.matrix(3, hiddenSize, 0.3)
    weights[`experts.${expert}.down_proj.weight`] = random.matrix(hiddenSize, 3, 0.3)
  }
  const layer = new TPMoE(groups.get(8)!, options)
  await layer.load(weights)
  const x = random.matrix(4, hiddenSize)
  expect(reference.relativeError(await layer.run(x), expected(reference.toMatrix(x), weights, options))).toBeLessThan(1e-4)
})

test.each<[Partial<MoEOptions>, RegExp]>([
  [{ expertsPerToken: 10 }, /expertsPerToken of at most expertCount 9, got 10/],
  [{ expertCount: 0 }, /expertCount: expected a positive integer/],
  [{ activation: 'mish' as never }, /TPMoE: expected activation/],
  [{ expertParallel: 1 as never }, /expertParallel: expected true or false/],
  [{ intermediateSize: 20, strict: true }, /intermediateSize 20 is not divisible by group size 8/],
  [{ expertParallel: true, expertCount: 7, expertsPerToken: 1, strict: true }, /expertCount of at least the group size 8, got 7/]
])('%j is refused', (options, message) => {
  const all = { hiddenSize, intermediateSize, expertCount, expertsPerToken: 2, ...options }
  expect(() => new TPMoE(groups.get(8)!, all)).toThrow(expect.objectContaining({ code: 'invalid_argument', message: expect.stringMatching(message) }))
})
