// Layers of a reproducible group give the same bits at every size, odd widths and heads that do not divide included, and about what they give
// without it.
import { openGroup } from '../../lib/group'
import type { Group } from '../../lib/group'
import { TPAttention } from '../../lib/layers/attention'
import { ParallelLMHead, VocabParallelEmbedding } from '../../lib/layers/embedding'
import type { Layer } from '../../lib/layers/layer'
import { ColumnParallelLinear, RowParallelLinear } from '../../lib/layers/linear'
import { TPMLP } from '../../lib/layers/mlp'
import { TPMoE } from '../../lib/layers/moe'
import type { HostTensor } from '../../lib/native'
import { Random } from '../support/random'

const sizes = [1, 2, 4, 8]
const dtypes = ['float32', 'bfloat16', 'float16'] as const
const groups = new Map<string, Group>()
const groupOf = (dtype: string, size: number): Group => groups.get(`${dtype} ${size}`)!

beforeAll(async () => {
  for (const dtype of dtypes) {
    for (const size of sizes) groups.set(`${dtype} ${size}`, await openGroup({ size, device: 'cpu', dtype, reproducible: true }))
    groups.set(`${dtype} plain`, await openGroup({ size: 1, device: 'cpu', dtype }))
  }
})
afterAll(async () => {
  for (const group of groups.values()) await group.close()
})

const hiddenSize = 32
const width = hiddenSize
const attention = { hiddenSize, headDim: 8, rope: {}, queryKeyNorm: true, bias: true }
const moe = { hiddenSize, expertCount: 9, expertsPerToken: 2 }

type Case = [name: string, make: (group: Group) => Layer, inputWidth?: number, largest?: number]
const cases: Case[] = [
  ...[48, 100, 21, 3].map((intermediateSize): Case => [`TPMLP of ${intermediateSize}`, (group) => new TPMLP(group, { hiddenSize, intermediateSize })]),
  ['TPMLP of two matrices', (group) => new TPMLP(group, { hiddenSize, intermediateSize: 80, gated: false, activation: 'gelu', bias: true })],
  ['TPAttention of 8 heads', (group) => new TPAttention(group, { ...attention, headCount: 8 })],
  ['TPAttention of 8 heads and one KV head', (group) => new TPAttention(group, { ...attention, headCount: 8, kvHeadCount: 1 })],
  ['TPAttention of 12 heads and 3 KV heads', (group) => new TPAttention(group, { ...attention, headCount: 12, kvHeadCount: 3 })],
  ['TPAttention of 6 heads and 3 KV heads', (group) => new TPAttention(group, { ...attention, headCount: 6, kvHeadCount: 3, slidingWindow: 5 }), width, 4],
  ['TPMoE', (group) => new TPMoE(group, { ...moe, intermediateSize: 24 })],
  ['TPMoE of 3', (group) => new TPMoE(group, { ...moe, intermediateSize: 3 })],
  ...[9, 8, 5, 2].map((expertCount): Case => [
    `TPMoE of ${expertCount} whole experts`,
    (group) => new TPMoE(group, { ...moe, intermediateSize: 24, expertCount, expertParallel: true })
  ]),
  ['RowParallelLinear', (group) => new RowParallelLinear(group, 70, 9), 70],
  ['RowParallelLinear of 5, which it splits', (group) => new RowParallelLinear(group, 5, 9, { inputIsParallel: false }), 5],
  ['ColumnParallelLinear', (group) => new ColumnParallelLinear(group, width, 19)],
  ['ParallelLMHead', (group) => new ParallelLMHead(group, width, 37)]
]

async function resultOf(group: Group, make: (group: Group) => Layer, input: HostTensor | number[]): Promise<Float32Array> {
  const layer = make(group)
  const random = new Random(3)
  const weights = layer.weights.map(({ name, shape }): [string, HostTensor] => [
    name,
    { data: random.array(shape.reduce((product, length) => product * length, 1), 0.4), shape }
  ])
  await layer.load(Object.fromEntries(weights))
  const { data } = await layer.run(input as HostTensor)
  layer.dispose()
  return data
}

const bits = (values: Float32Array): Buffer => Buffer.from(values.buffer, values.byteOffset, values.byteLength)

describe.each(dtypes)('in %s', (dtype) => {
  test.each(cases)('%s', async (_, make, inputWidth = width, largest = 8) => {
    for (const rows of [1, 37]) {
      const input = new Random(rows).matrix(rows, inputWidth)
      const one = await resultOf(groupOf(dtype, 1), make, input)
      for (const size of sizes.filter((size) => size <= largest)) {
        expect(bits(await resultOf(groupOf(dtype, size), make, input)).equals(bits(one))).toBe(true)
      }
      const plain = await resultOf(groups.get(`${dtype} plain`)!, make, input)
      const scale = Math.max(...plain.map(Math.abs))
      const off = plain.reduce((most, value, i) => Math.max(most, Math.abs(value - one[i]!)), 0)
      expect(off / scale).toBeLessThan(dtype === 'float32' ? 1e-5 : 2e-2)
    }
  })

  test('VocabParallelEmbedding', async () => {
    const make = (group: Group) => new VocabParallelEmbedding(group, 37, 8, { scale: 1.7 })
    const one = await resultOf(groupOf(dtype, 1), make, [0, 36, 17])
    for (const size of sizes) expect(bits(await resultOf(groupOf(dtype, size), make, [0, 36, 17])).equals(bits(one))).toBe(true)
  })
})

test('an embedding has no negative zero at any size', async () => {
  for (const size of sizes) {
    const layer = new VocabParallelEmbedding(groupOf('float32', size), 3, 2)
    await layer.load({ weight: Float32Array.of(-0, 1, 2, -0, -0, -0) })
    expect([...(await layer.run([0, 1, 2])).data]).toEqual([0, 1, 2, 0, 0, 0])
    layer.dispose()
  }
})

test('a linear in pieces is refused where they do not fit', async () => {
  const group = groupOf('float32', 1)
  const spec = { dtype: 'float32' as const, shape: [2, 4], role: 'weight' as const, pieces: [] }
  const weight = group.createTensor([spec], 'columns')
  for (const [chunks, message] of [[[3, 2], /sum of at most 4, got 5/], [[-1, 2], /at least 0, got -1/], [Array(9).fill(0), /at most 8 pieces/]] as const) {
    const run = group.evaluate((g) => g.input({ data: new Float32Array(4), shape: [1, 4] }).linear(weight, [[...chunks]]).allReduce())
    await expect(run).rejects.toMatchObject({ code: 'invalid_argument', message: expect.stringMatching(message) })
  }
  weight.dispose()
})

test('a sum over what is split is refused where nobody says its pieces: its bits would depend on the size', async () => {
  for (const size of [1, 2]) {
    const group = groupOf('float32', size)
    const spec = { dtype: 'float32' as const, shape: [2, 4], role: 'weight' as const, pieces: [] }
    const weight = group.createTensor(Array(size).fill(spec), 'columns')
    const whole = { data: new Float32Array(4 * size), shape: [1, 4 * size] }
    const columns = Array.from({ length: size }, (_, rank) => ({ start: 4 * rank, end: 4 * rank + 4 }))
    const run = group.evaluate((g) => g.input(whole).shard(columns).linear(weight).allReduce())
    await expect(run).rejects.toMatchObject({ code: 'invalid_argument', message: 'linear: expected pieces (chunks) in a reproducible group, got none' })
    weight.dispose()
  }
})

test('partial sums are added after their all-reduce: before, which sums meet first would depend on the size', async () => {
  const options = { bias: false, reduceResults: false }
  for (const size of [1, 2]) {
    const group = groupOf('float32', size)
    const [one, other] = [new RowParallelLinear(group, 8, 2, { ...options, inputIsParallel: false }), new RowParallelLinear(group, 8, 2, { ...options, inputIsParallel: false })]
    for (const layer of [one, other]) await layer.load({ weight: new Float32Array(16).fill(1) })
    const input = { data: new Float32Array(8).fill(1), shape: [1, 8] }
    await expect(group.evaluate((g) => one.forward(g.input(input)).add(other.forward(g.input(input))).allReduce())).rejects.toMatchObject({
      code: 'invalid_argument',
      message: 'add: expected sums over the ranks (allReduce()) in a reproducible group, got partial ones'
    })
    const { data } = await group.evaluate((g) => one.forward(g.input(input)).allReduce().add(other.forward(g.input(input)).allReduce()))
    expect([...data]).toEqual([16, 16])
    one.dispose()
    other.dispose()
  }
})

test.each([3, 5, 6, 7, 16])('a group of %i is refused', async (size) => {
  await expect(openGroup({ size, device: 'cpu', reproducible: true })).rejects.toMatchObject({
    code: 'invalid_argument',
    message: `openGroup: expected a size of 1, 2, 4, 8 with reproducible, got ${size}`,
    details: { size, validSizes: [1, 2, 4, 8] }
  })
})
