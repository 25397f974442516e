// Slice arithmetic against hand-computed values and against its own invariants.
import { heldLength, lengthOf, piece, rounded, rowsOf, splitBalanced, splitContraction, splitEvenly, splitHeads, splitPadded, splitWidth, validSizes } from '../../lib/shard'

test('valid sizes divide every dimension', () => {
  expect(validSizes(12)).toEqual([1, 2, 3, 4, 6, 12])
  expect(validSizes(12, 8)).toEqual([1, 2, 4])
})

test('an even split covers the dimension once; one that does not divide says what would', () => {
  expect(splitEvenly('X', 'width', 6, { size: 3 })).toEqual([
    { start: 0, end: 2 },
    { start: 2, end: 4 },
    { start: 4, end: 6 }
  ])
  expect(() => splitEvenly('X', 'width', 10, { size: 4 })).toThrow('X: width 10 is not divisible by group size 4; valid sizes: 1, 2, 5, 10')
  expect(() => splitEvenly('X', 'width', 10, { size: 4 })).toThrow(
    expect.objectContaining({ details: { dimension: 'width', value: 10, size: 4, validSizes: [1, 2, 5, 10] } })
  )
})

test('a strict split that fails in a reproducible group names the sizes that it can have', () => {
  const ranks = { size: 8, reproducible: true }
  const details = expect.objectContaining({ validSizes: [1, 2, 4] })
  expect(() => splitContraction('X', 'width', 12, ranks, true)).toThrow(expect.objectContaining({ details }))
  expect(() => splitHeads('X', 12, 12, ranks, true)).toThrow('X: headCount 12 is not divisible by group size 8; valid sizes: 1, 2, 4')
})

test('a padded split covers the dimension once, ranks at the end may hold nothing', () => {
  expect(splitPadded(101, 4)).toEqual({
    localLength: 26,
    ranges: [
      { start: 0, end: 26 },
      { start: 26, end: 52 },
      { start: 52, end: 78 },
      { start: 78, end: 101, padding: 3 }
    ]
  })
  expect(splitPadded(5, 8).ranges.map(lengthOf)).toEqual([1, 1, 1, 1, 1, 0, 0, 0])
  expect(splitPadded(5, 8).ranges.map(heldLength)).toEqual(Array(8).fill(1))
})

test('a balanced split: lengths differ by one at most, empty ones come last', () => {
  expect(splitBalanced(7, 3).map(lengthOf)).toEqual([2, 2, 3])
  expect(splitBalanced(3, 5).map(lengthOf)).toEqual([1, 1, 1, 0, 0])
})

describe('a width', () => {
  const lengths = (value: number, size: number) => splitWidth('X', 'width', value, size).map(lengthOf)

  test('is split equally where it divides, in units of 16, 8 or 1 where it does not, and padded where it does not suffice', () => {
    expect(lengths(176, 8)).toEqual(Array(8).fill(22))
    expect(lengths(176, 3)).toEqual([48, 64, 64])
    expect(lengths(100, 8)).toEqual([8, 16, 8, 16, 16, 8, 16, 12])
    expect(lengths(100, 3)).toEqual([32, 32, 36])
    expect(lengths(20, 8)).toEqual([2, 3, 2, 3, 2, 3, 2, 3])
    expect(splitWidth('X', 'width', 2, 3)).toEqual([{ start: 0, end: 1 }, { start: 1, end: 2 }, { start: 2, end: 2, padding: 1 }])
  })

  test('of any length is covered once, by parts that start on a unit and are even to within one', () => {
    for (let value = 1; value <= 300; value++) {
      for (let size = 1; size <= 9; size++) {
        const ranges = splitWidth('X', 'width', value, size)
        expect([ranges[0]!.start, ranges.at(-1)!.end]).toEqual([0, value])
        expect(ranges.slice(1).every(({ start }, rank) => start === ranges[rank]!.end)).toBe(true)
        expect(Math.min(...ranges.map(heldLength))).toBeGreaterThan(0)
        if (value % size === 0) continue
        const unit = value >= 16 * size ? 16 : value >= 8 * size ? 8 : 1
        expect(ranges.every(({ start }) => start % unit === 0 || start === value)).toBe(true)
        expect(Math.max(...ranges.map(lengthOf)) - Math.min(...ranges.map(lengthOf))).toBeLessThan(2 * unit)
      }
    }
  })

  test('strict refuses what does not divide', () => {
    expect(splitWidth('X', 'width', 10, 5, true)).toEqual(splitEvenly('X', 'width', 10, { size: 5 }))
    expect(() => splitWidth('X', 'width', 10, 4, true)).toThrow('X: width 10 is not divisible by group size 4; valid sizes: 1, 2, 5, 10')
  })
})

test('every query head finds its KV head, at every size', () => {
  for (const [headCount, kvHeadCount] of [
    [24, 24],
    [24, 8],
    [24, 3],
    [24, 1],
    [12, 4],
    [32, 8]
  ] as const) {
    for (let size = 1; size <= headCount; size++) {
      const shards = splitHeads('X', headCount, kvHeadCount, { size })
      const seen = shards.flatMap((shard) => shard.kvHeadOfQuery.map((local) => shard.keyValues.start + local))
      expect(seen).toEqual(Array.from({ length: headCount }, (_, query) => Math.floor(query / (headCount / kvHeadCount))))
      const share = kvHeadCount % size === 0 ? kvHeadCount / size : undefined
      if (share !== undefined) expect(shards.map((shard) => lengthOf(shard.keyValues))).toEqual(Array(size).fill(share))
      const counts = shards.map(({ queries }) => lengthOf(queries))
      const group = headCount / kvHeadCount
      expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(size <= kvHeadCount ? group : 1)
      // up to the KV heads each is on one rank; beyond, a rank holds those that its queries touch
      if (size <= kvHeadCount) expect(shards.reduce((sum, { keyValues }) => sum + lengthOf(keyValues), 0)).toBe(kvHeadCount)
      for (const { keyValues, kvHeadOfQuery } of shards) expect(new Set(kvHeadOfQuery).size).toBe(lengthOf(keyValues))
    }
    expect(() => splitHeads('X', headCount, kvHeadCount, { size: headCount + 1 })).toThrow(
      expect.objectContaining({
        message: expect.stringMatching(`^X: headCount ${headCount} is less than group size ${headCount + 1}; valid sizes: 1, .*, ${headCount}$`),
        details: { dimension: 'headCount', value: headCount, size: headCount + 1, validSizes: Array.from({ length: headCount }, (_, i) => i + 1) }
      })
    )
  }
})

test('heads by hand: whole groups up to the KV heads, queries beyond; strict takes divisors alone', () => {
  const queries = (size: number) => splitHeads('X', 12, 4, { size }).map((shard) => lengthOf(shard.queries))
  expect(queries(3)).toEqual([3, 3, 6])
  expect(queries(5)).toEqual([2, 2, 3, 2, 3])
  const [, second] = splitHeads('X', 12, 4, { size: 5 })
  expect(second).toEqual({ queries: { start: 2, end: 4 }, keyValues: { start: 0, end: 2 }, kvHeadOfQuery: [0, 1] })
  expect(splitHeads('X', 12, 4, { size: 3 }, true)).toEqual(splitHeads('X', 12, 4, { size: 3 }))
  expect(() => splitHeads('X', 12, 4, { size: 5 }, true)).toThrow('X: headCount 12 is not divisible by group size 5; valid sizes: 1, 2, 3, 4, 6, 12')
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
