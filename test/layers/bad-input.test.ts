// What a caller may get wrong with layers: an `invalid_argument` that says where, never a TypeError, and the group goes on.
import { openGroup } from '../../lib/group'
import type { Group } from '../../lib/group'
import { KVCaches } from '../../lib/kv-caches'
import { TPAttention } from '../../lib/layers/attention'
import { ParallelLMHead, VocabParallelEmbedding } from '../../lib/layers/embedding'
import type { Layer } from '../../lib/layers/layer'
import { ColumnParallelLinear, RowParallelLinear } from '../../lib/layers/linear'
import { TPMLP } from '../../lib/layers/mlp'
import { TPMoE } from '../../lib/layers/moe'
import { LayerNorm, RMSNorm } from '../../lib/layers/norm'
import { Program } from '../../lib/program'

const values = (count: number) => Float32Array.from({ length: count }, (_, i) => i)

/** Each layer from its options, with sizes that are sound. */
const layers: [string, (group: Group, options: object) => Layer][] = [
  ['ColumnParallelLinear', (group, options) => new ColumnParallelLinear(group, 4, 4, options)],
  ['RowParallelLinear', (group, options) => new RowParallelLinear(group, 4, 4, options)],
  ['TPMLP', (group, options) => new TPMLP(group, options && { hiddenSize: 4, intermediateSize: 4, ...options })],
  [
    'TPMoE',
    (group, options) =>
      new TPMoE(group, options && { hiddenSize: 4, intermediateSize: 4, expertCount: 2, expertsPerToken: 1, ...options })
  ],
  ['TPAttention', (group, options) => new TPAttention(group, options && { hiddenSize: 4, headCount: 2, ...options })],
  ['VocabParallelEmbedding', (group, options) => new VocabParallelEmbedding(group, 4, 4, options)],
  ['ParallelLMHead', (group, options) => new ParallelLMHead(group, 4, 4, options)],
  ['RMSNorm', (group, options) => new RMSNorm(group, 4, options)],
  ['LayerNorm', (group, options) => new LayerNorm(group, 4, options)]
]

let group: Group
beforeAll(async () => {
  group = await openGroup({ size: 2 })
})
afterAll(() => group.close())
afterEach(async () => {
  const layer = new ColumnParallelLinear(group, 2, 2, { bias: false })
  await layer.load({ weight: Float32Array.of(1, 2, 3, 4) })
  expect((await layer.run({ data: Float32Array.of(1, 1), shape: [1, 2] })).data).toEqual(Float32Array.of(3, 7))
  layer.dispose()
})

const invalid = (pattern: RegExp) =>
  expect.objectContaining({ name: 'HeddleError', code: 'invalid_argument', message: expect.stringMatching(pattern) })

describe.each(layers)('%s', (name, create) => {
  test('takes `strict`', () => {
    for (const strict of [true, false]) expect(create(group, { strict }).group).toBe(group)
  })

  test('a misspelled option, a flag that is none, no options at all', () => {
    expect(() => create(group, { gather_output: true })).toThrow(invalid(new RegExp(`^${name}: expected options .*, got gather_output$`)))
    expect(() => create(group, { strict: 'no' })).toThrow(invalid(new RegExp(`^${name}: strict: expected true or false, got "no"$`)))
    expect(() => create(group, null as never)).toThrow(invalid(new RegExp(`^${name}: options: expected an object`)))
  })

  test.each([undefined, null, 5, {}])('a group that is none: %p', (other) => {
    expect(() => create(other as never, {})).toThrow(invalid(new RegExp(`^${name}: group: expected a group of openGroup`)))
  })
})

test.each([NaN, -1, Infinity, '1e-6'])('an eps of %p', (eps) => {
  const options = { eps } as never
  expect(() => new RMSNorm(group, 4, options)).toThrow(invalid(/^RMSNorm: eps/))
  expect(() => new LayerNorm(group, 4, options)).toThrow(invalid(/^LayerNorm: eps/))
  expect(() => new TPAttention(group, { hiddenSize: 4, headCount: 2, queryKeyNorm: options })).toThrow(invalid(/^TPAttention: .*eps/))
})

const noTensors: [string, unknown][] = [
  ['undefined', undefined],
  ['null', null],
  ['a number', 5],
  ['a text', 'x'],
  ['a list', [1, 2, 3, 4]],
  ['float64', new Float64Array(16)],
  ['no data', { shape: [4, 4] }],
  ['a list as data', { data: new Array(16).fill(0), shape: [4, 4] }],
  ['no shape', { data: values(16) }],
  ['a source that is none', { source: 1, shape: [4, 4] }]
]

describe.each(noTensors)('%s', (_, value) => {
  test('as a weight, and as all weights', async () => {
    const layer = new ColumnParallelLinear(group, 4, 4, { bias: false })
    await expect(layer.load({ weight: value } as never)).rejects.toEqual(invalid(/^ColumnParallelLinear\.load: weight: expected/))
    await expect(layer.load(value as never)).rejects.toEqual(invalid(/^ColumnParallelLinear\.load: /))
  })

  test('as the input of run', async () => {
    const linear = new ColumnParallelLinear(group, 4, 4, { bias: false })
    await linear.load({ weight: values(16) })
    const attention = new TPAttention(group, { hiddenSize: 4, headCount: 2, maxTokens: 3 })
    for (const layer of [linear, attention]) await expect(layer.run(value as never)).rejects.toEqual(invalid(/^input: /))
  })
})

test.each([undefined, null, 5, 'x', {}, { data: 5 }])('token ids that are none: %p', async (ids) => {
  const layer = new VocabParallelEmbedding(group, 4, 4)
  await layer.load({ weight: values(16) })
  await expect(layer.run(ids as never)).rejects.toEqual(invalid(/expected/))
})

test.each([NaN, Infinity, '2'])('an embedding scaled by %p', (scale) => {
  expect(() => new VocabParallelEmbedding(group, 4, 4, { scale } as never)).toThrow(invalid(/^VocabParallelEmbedding: scale: expected a finite number/))
})

test('an embedding of something else than ids or positions', async () => {
  const layer = new VocabParallelEmbedding(group, 4, 4)
  await layer.load({ weight: values(16) })
  const evaluated = group.evaluate((g) => layer.forward(g.input({ data: values(4), shape: [1, 4] })))
  await expect(evaluated).rejects.toEqual(invalid(/^embed: expected the token ids of the step/))
  await expect(group.evaluate((g) => g.positions().activation('silu'))).rejects.toEqual(invalid(/expected activations, got positions/))
})

test('maxTokens bounds run', async () => {
  const layer = new TPAttention(group, { hiddenSize: 4, headCount: 2, maxTokens: 3 })
  const names = layer.weights.map(({ name }) => name)
  await layer.load(Object.fromEntries(names.map((name) => [name, values(16)])))
  expect((await layer.run({ data: values(12), shape: [3, 4] })).shape).toEqual([3, 4])
  await expect(layer.run({ data: values(16), shape: [4, 4] })).rejects.toEqual(invalid(/at most maxTokens 3 tokens, got 4/))
})

test.each([[0], [-1], [1.5], [undefined], ['4']])('a cache of %p blocks, or of blocks of so many tokens', (count) => {
  expect(() => new KVCaches(group, count as number)).toThrow(invalid(/^KVCaches: blockCount: expected a positive integer/))
  if (count !== undefined) expect(() => new KVCaches(group, 4, count as number)).toThrow(invalid(/^KVCaches: blockSize: expected a positive integer/))
  expect(() => new KVCaches({} as never, 4)).toThrow(invalid(/^KVCaches: group: expected a group of openGroup/))
})

test('a program of nothing', async () => {
  const caches = new KVCaches(group, 1)
  const sizes = { maxTokens: 4, maxSequences: 1, caches }
  const create = (...args: unknown[]) => (Program.create as (...args: unknown[]) => Promise<Program>)(...args)
  await expect(create(group, sizes)).rejects.toEqual(invalid(/^Program\.create: expected a function/))
  await expect(create(group)).rejects.toEqual(invalid(/^Program\.create: options: expected an object/))
  await expect(create(null, sizes, () => {})).rejects.toEqual(invalid(/^Program\.create: group: expected a group of openGroup/))
  await expect(create(group, { ...sizes, maxTokens: 0 }, () => {})).rejects.toEqual(invalid(/^Program\.create: maxTokens: expected a positive integer, got 0/))
  await expect(create(group, { ...sizes, caches: {} }, () => {})).rejects.toEqual(invalid(/^Program\.create: caches: expected KVCaches/))
  await expect(create(group, { ...sizes, maxRows: 1 }, () => {})).rejects.toEqual(invalid(/^Program\.create: expected options/))
})

test.each([undefined, null, 5, {}])('a step that is none: %p', async (step) => {
  using program = await Program.create(group, { maxTokens: 4, maxSequences: 1, caches: new KVCaches(group, 1) }, (g) => g.output('y', g.input({ data: values(4), shape: [1, 4] })))
  await expect(program.run(step as never)).rejects.toEqual(invalid(/expected/))
})

test.each(layers)('%s: forward of what is no value, or before load', async (name, create) => {
  const layer = create(group, {})
  const x = { data: values(4), shape: [1, 4] }
  const early = group.evaluate((g) => layer.forward(name === 'VocabParallelEmbedding' ? g.tokens([1]) : g.input(x)))
  await expect(early).rejects.toEqual(invalid(new RegExp(`^${name}: expected loaded weights, got none`)))
  for (const value of [undefined, null, 5, {}] as never[])
    await expect(group.evaluate(() => layer.forward(value))).rejects.toEqual(invalid(new RegExp(`^${name}\\.forward: expected a value of a recording`)))
})

test.each([undefined, null, 5, {}])('a forward pass of what is no value: %p', async (value) => {
  const linear = new ColumnParallelLinear(group, 4, 4, { bias: false })
  await linear.load({ weight: values(16) })
  await expect(group.evaluate((g) => g.input({ data: values(4), shape: [1, 4] }).add(value as never))).rejects.toEqual(invalid(/^add: expected a value/))
  await expect(group.evaluate((g) => { g.output('y', value as never); return g.input({ data: values(4), shape: [1, 4] }) })).rejects.toEqual(invalid(/^output y: expected a value/))
})
