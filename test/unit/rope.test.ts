// Inverse frequencies follow the formulas of transformers (modeling_rope_utils.py) in float32; the golden cases prove them end to end.
import { inverseFrequencies } from '../../lib/models/rope'

test('default: theta ** (-2i / headDim), rounded to float32', () => {
  const frequencies = inverseFrequencies({ type: 'default', theta: 10000 }, 8)
  expect([...frequencies]).toEqual([1, 0.1, 0.01, 0.001].map((value) => expect.closeTo(value, 8)))
  expect(frequencies).toBeInstanceOf(Float32Array)
})

test('linear: divided by the factor', () => {
  const plain = inverseFrequencies({ type: 'default', theta: 10000 }, 64)
  expect(inverseFrequencies({ type: 'linear', theta: 10000, factor: 4 }, 64)).toEqual(plain.map((value) => value / 4))
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
