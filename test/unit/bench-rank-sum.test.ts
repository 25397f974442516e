// The rank-sum test that `bench compare` decides by, against counting every order by hand, drawing orders at random, and known distributions.
import { leastP, rankSumP, ratioInterval } from '../../bench/support/rank-sum'
import { compareResults, defaultThresholds } from '../../bench/support/comparison'
import { result } from '../../bench/support/statistics'
import { XorShift } from '../../bench/support/random'

/** Every choice of n of the indices below `all`. */
function choices(all: number, n: number): number[][] {
  if (n === 0) return [[]]
  return Array.from({ length: all }, (_, last) => last).flatMap((last) => choices(last, n - 1).map((rest) => [...rest, last]))
}

/** How many pairs the first series loses, a tie for half. */
function pairsLost(a: number[], b: number[]): number {
  return a.reduce((sum, x) => sum + b.reduce((lost, y) => lost + (y > x ? 1 : y === x ? 0.5 : 0), 0), 0)
}

/** p by its definition: the share of all ways to deal the values out that are as far from the middle. */
function pByCounting(a: number[], b: number[]): number {
  const values = [...a, ...b]
  const middle = (a.length * b.length) / 2
  const distance = Math.abs(pairsLost(a, b) - middle)
  const dealt = choices(values.length, a.length).map((chosen) => {
    const one = values.filter((_, i) => chosen.includes(i))
    return Math.abs(pairsLost(one, values.filter((_, i) => !chosen.includes(i))) - middle)
  })
  return dealt.filter((other) => other >= distance - 1e-9).length / dealt.length
}

function normals(random: XorShift, count: number, mean: number, deviation: number): number[] {
  return Array.from({ length: count }, () =>
    mean + deviation * Math.sqrt(-2 * Math.log(random.unit())) * Math.cos(2 * Math.PI * random.unit()))
}

test.each([
  ['three and three apart', [1, 2, 3], [4, 5, 6], 0.1],
  ['five and five apart', [1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 2 / 252],
  ['taking turns', [1, 3, 5], [2, 4, 6], 0.7],
  ['all the same', [7, 7, 7], [7, 7, 7], 1],
])('%s', (_, a, b, p) => {
  expect(rankSumP(a, b)).toBeCloseTo(p, 12)
  expect(rankSumP(b, a)).toBeCloseTo(p, 12)
})

test('agrees with counting every order, with and without ties', () => {
  const random = new XorShift(3)
  for (let round = 0; round < 40; round++) {
    const values = (count: number) => Array.from({ length: count }, () => (round % 2 ? random.below(5) : random.unit()))
    const [a, b] = [values(2 + random.below(4)), values(2 + random.below(4))]
    expect({ a, b, p: rankSumP(a, b) }).toEqual({ a, b, p: expect.closeTo(pByCounting(a, b), 10) })
  }
})

test('many samples: near to what orders drawn at random give', () => {
  const random = new XorShift(5)
  const a = normals(random, 40, 10, 1)
  const b = normals(random, 35, 10.45, 1)
  const middle = (a.length * b.length) / 2
  const distance = Math.abs(pairsLost(a, b) - middle)
  const values = [...a, ...b]
  let asFar = 0
  const rounds = 4000
  for (let round = 0; round < rounds; round++) {
    for (let i = values.length - 1; i > 0; i--) {
      const j = random.below(i + 1)
      ;[values[i], values[j]] = [values[j]!, values[i]!]
    }
    if (Math.abs(pairsLost(values.slice(0, a.length), values.slice(a.length)) - middle) >= distance) asFar++
  }
  expect(Math.abs(rankSumP(a, b) - asFar / rounds)).toBeLessThan(0.015)
})

test('the least p is that of series that do not overlap', () => {
  expect(leastP(5, 5)).toBeCloseTo(2 / 252, 12)
  expect(leastP(4, 4)).toBeCloseTo(2 / 70, 12)
  expect(leastP(1, 1)).toBe(1)
})

test('the interval of the ratio leaves out the outermost pairs, and there is none for too few samples', () => {
  // five and five at alpha 0.01: P(U = 0) = 1/252 is below 0.005, P(U ≤ 1) = 2/252 above: k = 1, the outermost pairs themselves
  expect(ratioInterval([1, 2, 4, 5, 10], [10, 20, 30, 40, 50], 0.01)).toEqual([1, 50])
  // four and four: not even the outermost pair is rare enough
  expect(ratioInterval([1, 2, 3, 4], [2, 3, 4, 5], 0.01)).toBeUndefined()
  // eight and eight at 0.05: 13 is the tabled critical value of U, so the 14th pair from either end
  const one = Array.from({ length: 8 }, (_, i) => 1 + i / 100)
  const ratios = one.flatMap((x) => one.map((y) => (2 * y) / x)).sort((x, y) => x - y)
  expect(ratioInterval(one, one.map((value) => 2 * value), 0.05)).toEqual([ratios[13], ratios[50]])
})

describe('verdicts on synthetic runs', () => {
  const trials = 2000
  const verdict = (a: number[], b: number[]) => compareResults('x', result('r', 'tok/s', a), result('r', 'tok/s', b), defaultThresholds).verdict

  test.each([['normal', (x: number) => x], ['skewed', (x: number) => Math.exp(x / 5)]])(
    'the same %s noise on both sides raises no more alarms than stated', (_, shape) => {
      const random = new XorShift(11)
      let passed = 0
      for (let i = 0; i < trials; i++) {
        const [a, b] = [0, 1].map(() => normals(random, 6, 10, 1).map(shape))
        if (rankSumP(a!, b!) <= defaultThresholds.alpha) passed++
      }
      const expected = defaultThresholds.alpha * trials
      expect(passed).toBeLessThan(expected + 3 * Math.sqrt(expected))
    })

  test('a shift of 10 % is found through noise of 2 %, in its direction', () => {
    const random = new XorShift(13)
    let found = 0
    for (let i = 0; i < 200; i++) {
      const [slow, fast] = [normals(random, 5, 100, 2), normals(random, 5, 110, 2)]
      if (verdict(slow, fast) === 'better' && verdict(fast, slow) === 'worse') found++
    }
    expect(found).toBeGreaterThan(180)
  })

  test('a shift of 1 % is no change, however sure', () => {
    expect(verdict([100, 100.1, 100.2, 100.3, 100.4], [101, 101.1, 101.2, 101.3, 101.4])).toBe('same')
  })

  test('three samples a side decide nothing', () => {
    expect(verdict([1, 1, 1], [2, 2, 2])).toBe('undecided')
  })
})
