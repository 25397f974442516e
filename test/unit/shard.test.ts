// Slice arithmetic against hand-computed values and against its own invariants.
import { lengthOf, piece, rounded, rowsOf, splitEvenly, splitHeads, splitPadded, validSizes } from '../../lib/shard'

test('valid sizes divide every dimension', () => {
  expect(validSizes(12)).toEqual([1, 2, 3, 4, 6, 12])
  expect(validSizes(12, 8)).toEqual([1, 2, 4])
})

test('an even split covers the dimension once; one that does not divide says what would', () => {
  expect(splitEvenly('X', 'width', 6, 3)).toEqual([
    { start: 0, end: 2 },
    { start: 2, end: 4 },
    { start: 4, end: 6 }
  ])
  expect(() => splitEvenly('X', 'width', 10, 4)).toThrow('X: width 10 is not divisible by group size 4; valid sizes: 1, 2, 5, 10')
  expect(() => splitEvenly('X', 'width', 10, 4)).toThrow(
    expect.objectContaining({ details: { dimension: 'width', value: 10, size: 4, validSizes: [1, 2, 5, 10] } })
  )
})

test('a padded split covers the dimension once, ranks at the end may hold nothing', () => {
  expect(splitPadded(101, 4)).toEqual({
    localLength: 26,
    ranges: [
      { start: 0, end: 26 },
      { start: 26, end: 52 },
      { start: 52, end: 78 },
      { start: 78, end: 101 }
    ]
  })
  expect(splitPadded(5, 8).ranges.map(lengthOf)).toEqual([1, 1, 1, 1, 1, 0, 0, 0])
})

test('every query head finds its KV head, at every size that divides', () => {
  for (const [headCount, kvHeadCount] of [
    [24, 24],
    [24, 8],
    [24, 3],
    [24, 1],
    [12, 4],
    [32, 8]
  ] as const) {
    for (const size of validSizes(headCount)) {
      const shards = splitHeads('X', headCount, kvHeadCount, size)
      const seen = shards.flatMap((shard) => shard.kvHeadOfQuery.map((local) => shard.keyValues.start + local))
      expect(seen).toEqual(Array.from({ length: headCount }, (_, query) => Math.floor(query / (headCount / kvHeadCount))))
      const share = kvHeadCount % size === 0 ? kvHeadCount / size : undefined
      if (share !== undefined) expect(shards.map((shard) => lengthOf(shard.keyValues))).toEqual(Array(size).fill(share))
    }
  }
})

test('numbers are rounded to the nearest of a data type, ties to even', () => {
  expect(rounded(Math.sqrt(2560), 'bfloat16')).toBe(50.5)
  expect(rounded(Math.sqrt(2560), 'float16')).toBe(50.59375)
  expect(rounded(Math.sqrt(2560), 'float32')).toBe(Math.fround(Math.sqrt(2560)))
  expect([257, 259, 258.5, 8, 1 / 3].map((value) => rounded(value, 'bfloat16'))).toEqual([256, 260, 258, 8, 0.333984375])
})

describe('pieces', () => {
  const source = { path: 'weights' }

  test('whole rows are one contiguous run', () => {
    expect(piece({ dtype: 'bfloat16', shape: [8, 6], source, offset: 100 }, { start: 2, end: 4 }, { start: 0, end: 6 }, 3, 6)).toEqual({
      source,
      dtype: 'bfloat16',
      offset: 100 + 2 * 6 * 2,
      rows: 1,
      rowElements: 12,
      rowStride: 24,
      targetOffset: 18,
      targetStride: 12
    })
  })

  test('columns are one run per row', () => {
    expect(piece({ dtype: 'float32', shape: [8, 6], source, offset: 0 }, { start: 0, end: 8 }, { start: 4, end: 6 }, 0, 2)).toEqual({
      source,
      dtype: 'float32',
      offset: 16,
      rows: 8,
      rowElements: 2,
      rowStride: 24,
      targetOffset: 0,
      targetStride: 2
    })
  })

  test('of a matrix that is stored by columns: lines are its columns', () => {
    const weight = { dtype: 'float32', shape: [8, 6], source, offset: 4, transposed: true } as const
    expect(piece({ ...weight, shape: [8, 6] }, { start: 2, end: 5 }, { start: 1, end: 6 }, 3, 5)).toEqual({
      source,
      dtype: 'float32',
      offset: 4 + (1 * 8 + 2) * 4,
      rows: 3,
      rowElements: 5,
      rowStride: 32,
      targetOffset: 15,
      targetStride: 5,
      transposed: true
    })
  })

  test('rows of a fused tensor are a tensor of their own, stored as rows or as columns', () => {
    const fused = { dtype: 'bfloat16' as const, shape: [12, 6], source, offset: 10 }
    expect(rowsOf(fused, 4, 8)).toEqual({ ...fused, shape: [8, 6], offset: 10 + 4 * 6 * 2 })
    expect(rowsOf({ ...fused, shape: [12] }, 4, 8)).toEqual({ ...fused, shape: [8], offset: 10 + 4 * 2 })
    const stored = rowsOf({ ...fused, transposed: true }, 4, 8)
    expect(stored).toEqual({ ...fused, shape: [8, 6], offset: 10 + 4 * 2, transposed: true, stride: 12 })
    expect(piece(stored, { start: 2, end: 4 }, { start: 3, end: 6 }, 0, 3)).toMatchObject({
      offset: 10 + (3 * 12 + 4 + 2) * 2,
      rowStride: 24
    })
  })

  test('a vector is a matrix of one column', () => {
    expect(piece({ dtype: 'float32', shape: [8], source, offset: 4 }, { start: 6, end: 8 }, { start: 0, end: 1 }, 0, 1)).toMatchObject({
      offset: 28,
      rows: 1,
      rowElements: 2
    })
  })
})
