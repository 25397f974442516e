// Column- and row-parallel linear layers equal the unsharded product at every size, with every option.
import { openGroup } from '../../lib/group'
import type { Group } from '../../lib/group'
import { ColumnParallelLinear, RowParallelLinear } from '../../lib/layers/linear'
import { Random } from '../support/random'
import { activations, linear, relativeError, toMatrix } from '../support/reference'

const sizes = [1, 2, 3, 4, 5, 7, 8]
const [tokens, inFeatures, outFeatures] = [5, 48, 72]

async function withGroup(
  size: number,
  body: (group: Group) => Promise<void>,
  dtype: 'float32' | 'bfloat16' | 'float16' = 'float32'
): Promise<void> {
  const group = await openGroup({ size, device: 'cpu', dtype })
  try {
    await body(group)
  } finally {
    await group.close()
  }
}

const random = new Random(11)
const x = random.matrix(tokens, inFeatures)
const weight = random.matrix(outFeatures, inFeatures)
const bias = random.array(outFeatures)

describe.each(sizes)('size %i', (size) => {
  test.each([[true], [false]])('ColumnParallelLinear, bias %s', async (hasBias) => {
    await withGroup(size, async (group) => {
      for (const gatherOutput of [false, true]) {
        const layer = new ColumnParallelLinear(group, inFeatures, outFeatures, { bias: hasBias, gatherOutput })
        await layer.load(hasBias ? { weight, bias } : { weight })
        const y = await layer.run(x)
        expect(y.shape).toEqual([tokens, outFeatures])
        expect(relativeError(y, linear(toMatrix(x), weight, hasBias ? bias : undefined))).toBeLessThan(1e-5)
      }
    })
  })

  test.each([[true], [false]])('RowParallelLinear, bias %s: added once', async (hasBias) => {
    await withGroup(size, async (group) => {
      for (const inputIsParallel of [false, true]) {
        const layer = new RowParallelLinear(group, inFeatures, outFeatures, { bias: hasBias, inputIsParallel })
        await layer.load(hasBias ? { weight, bias } : { weight })
        expect(relativeError(await layer.run(x), linear(toMatrix(x), weight, hasBias ? bias : undefined))).toBeLessThan(1e-5)
      }
    })
  })

  test('parallel false: every rank holds and computes all, and nothing is summed', async () => {
    await withGroup(size, async (group) => {
      const expected = linear(toMatrix(x), weight, bias)
      for (const layer of [
        new ColumnParallelLinear(group, inFeatures, outFeatures, { parallel: false }),
        new ColumnParallelLinear(group, inFeatures, outFeatures, { parallel: false, gatherOutput: true }),
        new RowParallelLinear(group, inFeatures, outFeatures, { parallel: false }),
        new RowParallelLinear(group, inFeatures, outFeatures, { parallel: false, inputIsParallel: false })
      ]) {
        await layer.load({ weight, bias })
        expect(relativeError(await layer.run(x), expected)).toBeLessThan(1e-5)
        expect(layer.placements().map(({ localShapes }) => localShapes)).toEqual([
          Array(size).fill([outFeatures, inFeatures]),
          Array(size).fill([outFeatures])
        ])
      }
    })
  })

  test('a two-layer chain needs one all-reduce and equals the unsharded one', async () => {
    await withGroup(size, async (group) => {
      const up = new ColumnParallelLinear(group, inFeatures, outFeatures)
      const down = new RowParallelLinear(group, outFeatures, inFeatures)
      const second = { data: new Random(5).array(inFeatures * outFeatures), shape: [inFeatures, outFeatures] }
      const secondBias = new Random(6).array(inFeatures)
      await up.load({ weight, bias })
      await down.load({ weight: second, bias: secondBias })
      const y = await group.evaluate((g) => down.forward(up.forward(g.input(x)).activation('gelu')))
      const inner = linear(toMatrix(x), weight, bias).map((row) => row.map(activations.gelu))
      expect(relativeError(y, linear(inner, second, secondBias))).toBeLessThan(1e-5)
    })
  })

  test('an input counts as it was when it was handed over', () =>
    withGroup(size, async (group) => {
      const layer = new ColumnParallelLinear(group, 2, 8, { bias: false })
      await layer.load({ weight: new Float32Array(16).fill(1) })
      const x = Float32Array.of(1, 2)
      const y = layer.run({ data: x, shape: [1, 2] })
      x.fill(100)
      expect((await y).data).toEqual(new Float32Array(8).fill(3))
    }))

  test('skipBiasAdd leaves the bias to the caller', async () => {
    await withGroup(size, async (group) => {
      for (const gatherOutput of [false, true]) {
        const column = new ColumnParallelLinear(group, inFeatures, outFeatures, { skipBiasAdd: true, gatherOutput })
        await column.load({ weight, bias })
        expect(relativeError(await column.run(x), linear(toMatrix(x), weight))).toBeLessThan(1e-5)
        const added = await group.evaluate((g) => column.forward(g.input(x)).addBias(column.bias!))
        expect(relativeError(added, linear(toMatrix(x), weight, bias))).toBeLessThan(1e-5)
      }
      const row = new RowParallelLinear(group, inFeatures, outFeatures, { skipBiasAdd: true, inputIsParallel: false, reduceResults: false })
      await row.load({ weight, bias })
      const summed = await group.evaluate((g) => row.forward(g.input(x)).allReduce().addBias(row.bias!))
      expect(relativeError(summed, linear(toMatrix(x), weight, bias))).toBeLessThan(1e-5)
    })
  })
})

test.each(['bfloat16', 'float16'] as const)('%s weights', async (dtype) => {
  await withGroup(
    2,
    async (group) => {
      const layer = new ColumnParallelLinear(group, inFeatures, outFeatures)
      await layer.load({ weight, bias })
      expect(relativeError(await layer.run(x), linear(toMatrix(x), weight, bias))).toBeLessThan(dtype === 'bfloat16' ? 1e-2 : 1e-3)
      expect(layer.localBytes(0)).toBe((outFeatures / 2) * inFeatures * 2 + (outFeatures / 2) * 4)
    },
    dtype
  )
})

test('loading again replaces the weights and frees the old ones', async () => {
  await withGroup(2, async (group) => {
    const layer = new ColumnParallelLinear(group, inFeatures, outFeatures, { bias: false })
    await layer.load({ weight })
    const bytes = group.info().ranks[0]!.weightBytes
    const other = new Random(3).matrix(outFeatures, inFeatures)
    await layer.load({ weight: other })
    expect(relativeError(await layer.run(x), linear(toMatrix(x), other))).toBeLessThan(1e-5)
    expect(group.info().ranks[0]!.weightBytes).toBe(bytes)
  })
})

describe.each(['float32', 'bfloat16'] as const)('%s features that do not divide', (dtype) => {
  test.each([[100, 8], [20, 8], [17, 2], [3, 8], [1, 5]])('%i over %i ranks: alone, gathered, and in a chain', async (features, size) => {
    await withGroup(
      size,
      async (group) => {
        const limit = dtype === 'float32' ? 1e-5 : 2e-2
        const random = new Random(features)
        const [input, up, down] = [random.matrix(tokens, 12), random.matrix(features, 12), random.matrix(12, features)]
        const upBias = random.array(features)
        const expected = linear(toMatrix(input), up, upBias)
        for (const gatherOutput of [false, true]) {
          const column = new ColumnParallelLinear(group, 12, features, { gatherOutput })
          await column.load({ weight: up, bias: upBias })
          const y = await column.run(input)
          expect(y.shape).toEqual([tokens, features])
          expect(relativeError(y, expected)).toBeLessThan(limit)
        }
        const column = new ColumnParallelLinear(group, 12, features)
        await column.load({ weight: up, bias: upBias })
        const row = new RowParallelLinear(group, features, 12, { bias: false })
        await row.load({ weight: down })
        const chain = await group.evaluate((g) => row.forward(column.forward(g.input(input)).activation('silu')))
        const inner = expected.map((each) => each.map(activations.silu))
        expect(relativeError(chain, linear(inner, down))).toBeLessThan(limit)
        const whole = random.matrix(tokens, features)
        for (const inputIsParallel of [false, true]) {
          const alone = new RowParallelLinear(group, features, 12, { bias: false, inputIsParallel })
          await alone.load({ weight: down })
          expect(relativeError(await alone.run(whole), linear(toMatrix(whole), down))).toBeLessThan(limit)
        }
      },
      dtype
    )
  })
})

describe('bad input', () => {
  test('strict: a size that does not divide names the valid sizes', async () => {
    await withGroup(8, async (group) => {
      expect(() => new ColumnParallelLinear(group, 8, 100, { strict: true })).toThrow(
        'ColumnParallelLinear: outFeatures 100 is not divisible by group size 8; valid sizes: 1, 2, 4, 5, 10, 20, 25, 50'
      )
      expect(() => new RowParallelLinear(group, 100, 8, { strict: true })).toThrow(expect.objectContaining({ code: 'invalid_argument' }))
    })
  })

  test('wrong weights are refused before anything is loaded', async () => {
    await withGroup(2, async (group) => {
      const layer = new ColumnParallelLinear(group, 4, 6)
      const good = { weight: new Float32Array(24), bias: new Float32Array(6) }
      const invalid = { code: 'invalid_argument' }
      await expect(layer.run({ data: new Float32Array(4), shape: [1, 4] })).rejects.toMatchObject(invalid)
      await expect(layer.load({ weight: good.weight })).rejects.toMatchObject(invalid)
      await expect(layer.load({ ...good, extra: good.bias })).rejects.toMatchObject(invalid)
      await expect(layer.load({ ...good, weight: new Float32Array(23) })).rejects.toMatchObject(invalid)
      await expect(layer.load({ ...good, weight: { data: new Float32Array(24), shape: [4, 6] } })).rejects.toMatchObject(invalid)
      await layer.load(good)
      await expect(layer.run({ data: new Float32Array(5), shape: [1, 5] })).rejects.toMatchObject(invalid)
      await expect(layer.run({ data: new Float32Array(0), shape: [0, 4] })).rejects.toMatchObject(invalid)
      expect((await layer.run({ data: new Float32Array(4), shape: [1, 4] })).shape).toEqual([1, 6])
      layer.dispose()
      await expect(layer.run({ data: new Float32Array(4), shape: [1, 4] })).rejects.toMatchObject({ code: 'closed' })
    })
  })

  test('partial sums are no result', async () => {
    await withGroup(2, async (group) => {
      expect(() => new RowParallelLinear(group, 4, 4, { reduceResults: false })).toThrow(
        expect.objectContaining({ code: 'invalid_argument' })
      )
      const layer = new RowParallelLinear(group, 4, 4, { reduceResults: false, bias: false })
      await layer.load({ weight: new Float32Array(16) })
      await expect(layer.run({ data: new Float32Array(4), shape: [1, 4] })).rejects.toMatchObject({ code: 'invalid_argument' })
      await expect(group.evaluate((g) => layer.forward(g.input({ data: new Float32Array(4), shape: [1, 4] })))).rejects.toMatchObject({
        code: 'invalid_argument'
      })
    })
  })

  test('layers of another group are refused', async () => {
    await withGroup(2, async (group) =>
      withGroup(2, async (other) => {
        const layer = new ColumnParallelLinear(other, 4, 4, { bias: false })
        await layer.load({ weight: new Float32Array(16) })
        await expect(group.evaluate((g) => layer.forward(g.input({ data: new Float32Array(4), shape: [1, 4] })))).rejects.toMatchObject({
          code: 'invalid_argument'
        })
      })
    )
  })
})
