// Log-probabilities as callers get them: taken apart by sequence, and computed from whole rows of logits.
import { logprobOf, tokenLogprobs } from '../../lib/generation/logprobs'
import { greedy } from '../../lib/generation/sampling'
import { Random } from '../support/random'

test('each sequence that asks gets its own; ids that do not exist are left out', () => {
  const logprobs = { ids: Int32Array.of(7, 9, 7, 3, 4, -1, -1), values: Float32Array.of(-1, -0.5, -1, -2, -2, -3, -3) }
  const sampling = [{ ...greedy, logprobs: 2 }, greedy, { ...greedy, logprobs: 0 }, { ...greedy, logprobs: 2 }]
  expect(tokenLogprobs(sampling, logprobs)).toEqual([
    { id: 7, logprob: -1, top: [{ id: 9, logprob: -0.5 }, { id: 7, logprob: -1 }] },
    undefined,
    { id: 3, logprob: -2, top: [] },
    { id: 4, logprob: -2, top: [] }
  ])
  expect(tokenLogprobs([greedy, greedy], undefined)).toEqual([undefined, undefined])
})

test('of a row of logits: a softmax in double precision, the best first, of equal ones the lowest id', () => {
  const random = new Random(2)
  for (const count of [0, 1, 5, 20]) {
    const row = Float32Array.from({ length: 50 }, () => random.integer(9) - 4)
    const total = row.reduce((sum, logit) => sum + Math.exp(logit), 0)
    const order = [...row.keys()].sort((a, b) => row[b]! - row[a]! || a - b).slice(0, count)
    const { id, logprob, top } = logprobOf(row, 11, count)
    expect(id).toBe(11)
    expect(logprob).toBeCloseTo(Math.log(Math.exp(row[11]!) / total), 10)
    expect(top.map((token) => token.id)).toEqual(order)
    for (const token of top) expect(token.logprob).toBeCloseTo(Math.log(Math.exp(row[token.id]!) / total), 10)
  }
})

test('of a row with logits that are no numbers, or too large for a sum of exponentials', () => {
  expect(logprobOf(Float32Array.of(NaN, 1000, -Infinity, 1000), 1, 4)).toEqual({
    id: 1,
    logprob: expect.closeTo(-Math.LN2, 6),
    top: [{ id: 1, logprob: expect.closeTo(-Math.LN2, 6) }, { id: 3, logprob: expect.closeTo(-Math.LN2, 6) }]
  })
})
