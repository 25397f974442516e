// Inverse frequencies follow the formulas of transformers (modeling_rope_utils.py) in float32; the golden cases prove them end to end.
import { inverseFrequencies, rotaryOptions } from '../../lib/models/rope'

test('default: theta ** (-2i / headDim), rounded to float32', () => {
  const frequencies = inverseFrequencies({ type: 'default', theta: 10000 }, 8)
  expect([...frequencies]).toEqual([1, 0.1, 0.01, 0.001].map((value) => expect.closeTo(value, 8)))
  expect(frequencies).toBeInstanceOf(Float32Array)
})

test('linear: divided by the factor', () => {
  const plain = inverseFrequencies({ type: 'default', theta: 10000 }, 64)
  expect(inverseFrequencies({ type: 'linear', theta: 10000, factor: 4 }, 64)).toEqual(plain.map((value) => value / 4))
})

test('dynamic: as default, since no sequence is longer than the positions of the model', () =>
  expect(inverseFrequencies({ type: 'dynamic', theta: 10000, factor: 4 }, 64)).toEqual(
    inverseFrequencies({ type: 'default', theta: 10000 }, 64)
  ))

test('a part of the head: the frequencies of that many dimensions', () =>
  expect(inverseFrequencies({ type: 'default', theta: 10000, dim: 12 }, 16)).toEqual(
    inverseFrequencies({ type: 'default', theta: 10000 }, 12)
  ))

test('longrope: divided by a factor for each dimension', () => {
  const shortFactor = Array.from({ length: 32 }, (_, i) => 1 + i / 8)
  const frequencies = inverseFrequencies({ type: 'longrope', theta: 10000, shortFactor, attentionFactor: 1.2 }, 64)
  const plain = inverseFrequencies({ type: 'default', theta: 10000 }, 64)
  frequencies.forEach((value, i) => expect(value).toBeCloseTo(plain[i]! / shortFactor[i]!, 6))
  expect(rotaryOptions({ type: 'longrope', theta: 10000, shortFactor, attentionFactor: 1.2 }, 64).scale).toBe(1.2)
})

describe('yarn', () => {
  const rope = {
    type: 'yarn',
    theta: 10000,
    factor: 8,
    originalMaxPositionEmbeddings: 4096,
    betaFast: 32,
    betaSlow: 1,
    attentionFactor: 1.25,
    truncate: true
  } as const
  const plain = inverseFrequencies({ type: 'default', theta: 10000 }, 128)

  test.each([true, false])('dimensions that turn often are kept, slow ones stretched, a ramp between; truncate %s', (truncate) => {
    const bound = (turns: number): number => (128 * Math.log(4096 / (turns * 2 * Math.PI))) / (2 * Math.log(10000))
    const [low, high] = truncate ? [Math.floor(bound(32)), Math.ceil(bound(1))] : [bound(32), bound(1)]
    expect([Math.floor(low!), Math.ceil(high!)]).toEqual([20, 46])
    inverseFrequencies({ ...rope, truncate }, 128).forEach((value, i) => {
      const ramp = Math.min(1, Math.max(0, (i - low!) / (high! - low!)))
      const expected = plain[i]! * (1 - ramp + ramp / 8)
      expect(Math.abs(value - expected)).toBeLessThanOrEqual(1e-6 * expected)
    })
  })

  test('cosine and sine have a factor', () => expect(rotaryOptions(rope, 128)).toMatchObject({ dim: 128, scale: 1.25 }))
})

describe('llama3', () => {
  const rope = {
    type: 'llama3',
    theta: 500000,
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositionEmbeddings: 8192
  } as const
  const plain = inverseFrequencies({ type: 'default', theta: 500000 }, 128)
  const scaled = inverseFrequencies(rope, 128)
  const wavelength = (index: number): number => (2 * Math.PI) / plain[index]!

  test('short wavelengths are kept, long ones stretched by the factor, those between lie between', () => {
    const kinds = { kept: 0, stretched: 0, between: 0 }
    scaled.forEach((value, index) => {
      if (wavelength(index) < 8192 / 4) {
        kinds.kept++
        expect(value).toBe(plain[index])
      } else if (wavelength(index) > 8192) {
        kinds.stretched++
        expect(value).toBe(Math.fround(plain[index]! / 8))
      } else {
        kinds.between++
        expect(value).toBeGreaterThan(plain[index]! / 8)
        expect(value).toBeLessThan(plain[index]!)
      }
    })
    expect(Math.min(...Object.values(kinds))).toBeGreaterThan(2)
  })

  test('the blend is that of the formula, to float32', () => {
    scaled.forEach((value, index) => {
      const smooth = Math.min(1, Math.max(0, (8192 / wavelength(index) - 1) / 3))
      const expected = ((1 - smooth) / 8 + smooth) * plain[index]!
      expect(Math.abs(value - expected)).toBeLessThanOrEqual(4e-7 * expected)
    })
  })
})
