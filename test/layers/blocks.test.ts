// Attention, MLP, embedding, head and norms equal their unsharded references at every size.
import { openGroup } from '../../lib/group'
import type { Group } from '../../lib/group'
import { TPAttention } from '../../lib/layers/attention'
import type { AttentionOptions } from '../../lib/layers/attention'
import { ParallelLMHead, VocabParallelEmbedding } from '../../lib/layers/embedding'
import { TPMLP } from '../../lib/layers/mlp'
import { LayerNorm, RMSNorm } from '../../lib/layers/norm'
import { RotaryEmbedding } from '../../lib/layers/rotary-embedding'
import type { RotaryOptions } from '../../lib/layers/rotary-embedding'
import type { HostTensor } from '../../lib/native'
import { Random } from '../support/random'
import * as reference from '../support/reference'

const sizes = [1, 2, 3, 4, 5, 8]
const groups = new Map<number, Group>()

beforeAll(async () => {
  for (const size of sizes) groups.set(size, await openGroup({ size, device: 'cpu' }))
})
afterAll(async () => {
  for (const group of groups.values()) await group.close()
})

const hiddenSize = 32
const tokens = 37 // more than two cache blocks

describe.each(sizes)('TPMLP at size %i', (size) => {
  const cases = (['gelu', 'gelu_tanh', 'relu', 'silu'] as const).flatMap((activation) =>
    [true, false].flatMap((gated) => [true, false].map((bias) => ({ activation, gated, bias, intermediateSize: 48 })))
  )
  // widths that do not divide, of which the last is too small for some of the sizes
  const odd = [100, 21, 3].flatMap((intermediateSize) => [true, false].map((gated) => ({ activation: 'gelu', gated, bias: true, intermediateSize }) as const))
  test.each([...cases, ...odd])('%o', async ({ activation, gated, bias, intermediateSize }) => {
    const random = new Random(17)
    const x = random.matrix(7, hiddenSize)
    const matrix = (name: string, out: number, width: number) => ({
      [`${name}.weight`]: random.matrix(out, width, 0.3),
      ...(bias && { [`${name}.bias`]: { data: random.array(out), shape: [out] } })
    })
    const weights: Record<string, HostTensor> = {
      ...(gated
        ? { ...matrix('gate_proj', intermediateSize, hiddenSize), ...matrix('up_proj', intermediateSize, hiddenSize) }
        : matrix('fc1', intermediateSize, hiddenSize)),
      ...matrix(gated ? 'down_proj' : 'fc2', hiddenSize, intermediateSize)
    }
    const layer = new TPMLP(groups.get(size)!, { hiddenSize, intermediateSize, activation, gated, bias })
    await layer.load(weights)
    const product = (input: reference.Matrix, name: string) =>
      reference.linear(input, weights[`${name}.weight`]!, weights[`${name}.bias`]?.data)
    const act = reference.activations[activation]
    const input = reference.toMatrix(x)
    const inner = gated
      ? reference.map2(product(input, 'gate_proj'), product(input, 'up_proj'), (gate, up) => act(gate) * up)
      : product(input, 'fc1').map((row) => row.map(act))
    expect(reference.relativeError(await layer.run(x), product(inner, gated ? 'down_proj' : 'fc2'))).toBeLessThan(1e-4)
    layer.dispose()
  })
})

describe.each(sizes)('TPAttention at size %i', (size) => {
  const cases: [string, Partial<AttentionOptions>][] = [
    ['multi-head', { kvHeadCount: 24 }],
    ['grouped queries', { kvHeadCount: 8 }],
    ['multi-query', { kvHeadCount: 1, rope: {} }],
    ['bias', { kvHeadCount: 4, bias: true, rope: { theta: 1e6 } }],
    ['bias without output bias', { kvHeadCount: 4, bias: true, outputBias: false }],
    ['query and key norm', { kvHeadCount: 3, queryKeyNorm: true, rope: {} }],
    ['sliding window', { kvHeadCount: 8, slidingWindow: 5, rope: {} }],
    ['not causal', { kvHeadCount: 8, causal: false }],
    ['a factor on the scores', { kvHeadCount: 8, scale: 0.7 }],
    ['a part of the head turns', { kvHeadCount: 8, rope: { dim: 4, theta: 100, scale: 1.25 } }],
    ['an eps of its own', { kvHeadCount: 8, queryKeyNorm: { eps: 0.5 }, rope: {} }],
    ['norms stored less one', { kvHeadCount: 8, queryKeyNorm: { unitOffset: true }, rope: {} }]
  ]
  test.each(cases)('%s', async (_, options) => {
    const random = new Random(23)
    const { kvHeadCount = 24, bias = false, outputBias = bias, queryKeyNorm, causal, slidingWindow, scale } = options
    const rope = options.rope as RotaryOptions | undefined
    const [headCount, headDim] = [24, 6]
    const x = random.matrix(tokens, hiddenSize)
    const matrix = (name: string, out: number, width: number, hasBias: boolean) => ({
      [`${name}.weight`]: random.matrix(out, width, 0.4),
      ...(hasBias && { [`${name}.bias`]: { data: random.array(out), shape: [out] } })
    })
    const weights: Record<string, HostTensor> = {
      ...matrix('q_proj', headCount * headDim, hiddenSize, bias),
      ...matrix('k_proj', kvHeadCount * headDim, hiddenSize, bias),
      ...matrix('v_proj', kvHeadCount * headDim, hiddenSize, bias),
      ...matrix('o_proj', hiddenSize, headCount * headDim, outputBias),
      ...(queryKeyNorm && {
        'q_norm.weight': { data: random.array(headDim), shape: [headDim] },
        'k_norm.weight': { data: random.array(headDim), shape: [headDim] }
      })
    }
    const layer = new TPAttention(groups.get(size)!, { hiddenSize, headCount, headDim, ...options })
    await layer.load(weights)
    const product = (input: reference.Matrix, name: string) =>
      reference.linear(input, weights[`${name}.weight`]!, weights[`${name}.bias`]?.data)
    const input = reference.toMatrix(x)
    const increment = typeof queryKeyNorm === 'object' && queryKeyNorm.unitOffset ? 1 : 0
    const norm = (name: string) => weights[name]?.data.map((value) => value + increment)
    const heads = reference.attention(product(input, 'q_proj'), product(input, 'k_proj'), product(input, 'v_proj'), {
      headCount,
      kvHeadCount,
      headDim,
      causal,
      slidingWindow,
      scale,
      theta: rope && (rope.theta ?? 10000),
      ropeDim: rope?.dim,
      ropeScale: rope?.scale,
      eps: typeof queryKeyNorm === 'object' ? queryKeyNorm.eps : undefined,
      queryNorm: norm('q_norm.weight'),
      keyNorm: norm('k_norm.weight')
    })
    expect(reference.relativeError(await layer.run(x), product(heads, 'o_proj'))).toBeLessThan(1e-4)
    layer.dispose()
  })

  test('layers share a table of frequencies, which ends with neither of them', async () => {
    const group = groups.get(size)!
    const rope = new RotaryEmbedding(group, 6, { theta: 500 })
    const options = { hiddenSize, headCount: 24, kvHeadCount: 8, headDim: 6 }
    const [own, ...sharing] = [{ theta: 500 }, rope, rope].map((each) => new TPAttention(group, { ...options, rope: each }))
    const random = new Random(29)
    const weights = Object.fromEntries(own!.weights.map(({ name, shape }) => [name, random.matrix(shape[0]!, shape[1]!, 0.4)]))
    const x = random.matrix(tokens, hiddenSize)
    for (const layer of [own!, ...sharing]) await layer.load(weights)
    const expected = await own!.run(x)
    for (const layer of sharing) {
      expect(await layer.run(x)).toEqual(expected)
      layer.dispose()
    }
    own!.dispose()
    await rope.tensor.read(size - 1) // rejects where it was disposed
    rope.tensor.dispose()
  })

  test('its KV heads are a share, whole ones while the size does not exceed them, else copies of those that its queries read', () => {
    const layer = new TPAttention(groups.get(size)!, { hiddenSize, headCount: 24, kvHeadCount: 4, headDim: 6 })
    const held = layer.shards.map((shard) => shard.keyValues.end - shard.keyValues.start)
    const expected: Record<number, number[]> = { 1: [4], 2: [2, 2], 3: [1, 1, 2], 4: [1, 1, 1, 1], 5: [1, 2, 2, 2, 1], 8: Array(8).fill(1) }
    expect(held).toEqual(expected[size])
  })
})

describe.each(sizes)('embedding, head and norms at size %i', (size) => {
  const vocabSize = 101 // divides by none of the sizes but 1
  const random = new Random(31)
  const table = random.matrix(vocabSize, hiddenSize)
  const x = random.matrix(5, hiddenSize)

  test('VocabParallelEmbedding', async () => {
    const layer = new VocabParallelEmbedding(groups.get(size)!, vocabSize, hiddenSize)
    await layer.load({ weight: table })
    const ids = [0, 100, 50, 33, 67, 0, 99]
    const rows = reference.toMatrix(table)
    expect(reference.toMatrix(await layer.run(ids))).toEqual(ids.map((id) => rows[id]))
    await expect(layer.run([vocabSize])).rejects.toMatchObject({ code: 'invalid_argument' })
    await expect(layer.run([-1])).rejects.toMatchObject({ code: 'invalid_argument' })
    await expect(layer.run([])).rejects.toMatchObject({ code: 'invalid_argument' })
    expect(layer.localBytes(size - 1)).toBe(Math.ceil(vocabSize / size) * hiddenSize * 4)
  })

  test('an embedding that is scaled, and a table of positions added to it before one all-reduce', async () => {
    const group = groups.get(size)!
    const tokenTable = new VocabParallelEmbedding(group, vocabSize, hiddenSize, { scale: 2.5 })
    const positionTable = new VocabParallelEmbedding(group, 7, hiddenSize)
    const positions = random.matrix(7, hiddenSize)
    await tokenTable.load({ weight: table })
    await positionTable.load({ weight: positions })
    const ids = [0, 100, 50, 33, 67, 0, 99]
    const sum = await group.evaluate((g) => tokenTable.partial(g.tokens(ids)).add(positionTable.partial(g.positions())).allReduce())
    const [rows, places] = [reference.toMatrix(table), reference.toMatrix(positions)]
    const expected = ids.map((id, position) => rows[id]!.map((value, i) => value * 2.5 + places[position]![i]!))
    expect(reference.relativeError(sum, expected)).toBeLessThan(1e-6)
    const tooLong = group.evaluate((g) => tokenTable.partial(g.tokens([...ids, 1])).add(positionTable.partial(g.positions())).allReduce())
    await expect(tooLong).rejects.toMatchObject({ code: 'invalid_argument', message: expect.stringMatching(/at most 7 positions, got 8/) })
  })

  test.each([true, false])('ParallelLMHead, bias %s: padded rows never show', async (bias) => {
    const layer = new ParallelLMHead(groups.get(size)!, hiddenSize, vocabSize, { bias })
    const values = random.array(vocabSize)
    await layer.load({ weight: table, ...(bias && { bias: values }) })
    const y = await layer.run(x)
    expect(y.shape).toEqual([5, vocabSize])
    expect(reference.relativeError(y, reference.linear(reference.toMatrix(x), table, bias ? values : undefined))).toBeLessThan(1e-5)
  })

  test('a tied head shares the shard of the embedding', async () => {
    const group = groups.get(size)!
    const embedding = new VocabParallelEmbedding(group, vocabSize, hiddenSize)
    await embedding.load({ weight: table })
    const before = group.info().ranks[0]!.weightBytes
    const head = new ParallelLMHead(group, hiddenSize, vocabSize, { tiedTo: embedding })
    expect(head.weights).toEqual([])
    expect(reference.relativeError(await head.run(x), reference.linear(reference.toMatrix(x), table))).toBeLessThan(1e-5)
    expect(group.info().ranks[0]!.weightBytes).toBe(before)
  })

  test('RMSNorm and LayerNorm', async () => {
    const weight = random.array(hiddenSize)
    const bias = random.array(hiddenSize)
    const input = reference.toMatrix(x)
    const rms = new RMSNorm(groups.get(size)!, hiddenSize, { eps: 1e-5 })
    await rms.load({ weight })
    expect(reference.relativeError(await rms.run(x), reference.rmsNorm(input, weight, 1e-5))).toBeLessThan(1e-5)
    const offset = new RMSNorm(groups.get(size)!, hiddenSize, { eps: 1e-5, unitOffset: true })
    await offset.load({ weight })
    const whole = weight.map((value) => value + 1)
    expect(reference.relativeError(await offset.run(x), reference.rmsNorm(input, whole, 1e-5))).toBeLessThan(1e-5)
    for (const hasBias of [true, false]) {
      const layer = new LayerNorm(groups.get(size)!, hiddenSize, { bias: hasBias })
      await layer.load(hasBias ? { weight, bias } : { weight })
      expect(
        reference.relativeError(await layer.run(x), reference.layerNorm(input, weight, hasBias ? bias : undefined, 1e-5))
      ).toBeLessThan(1e-5)
    }
  })
})

test('shapes and options that cannot be are refused by the constructors', () => {
  const group = groups.get(8)!
  const invalid = expect.objectContaining({ code: 'invalid_argument' })
  expect(() => new TPAttention(group, { hiddenSize: 60, headCount: 12, strict: true })).toThrow(
    'TPAttention: headCount 12 is not divisible by group size 8; valid sizes: 1, 2, 3, 4, 6, 12'
  )
  expect(() => new TPAttention(group, { hiddenSize: 60, headCount: 6 })).toThrow(
    'TPAttention: headCount 6 is less than group size 8; valid sizes: 1, 2, 3, 4, 5, 6'
  )
  expect(() => new TPMLP(group, { hiddenSize: 8, intermediateSize: 20, strict: true })).toThrow(
    'TPMLP: intermediateSize 20 is not divisible by group size 8; valid sizes: 1, 2, 4, 5, 10, 20'
  )
  expect(() => new TPMLP(group, { hiddenSize: 8, intermediateSize: 16, activation: 'tanh' as never })).toThrow(invalid)
  expect(() => new TPAttention(group, { hiddenSize: 64, headCount: 8, kvHeadCount: 3 })).toThrow(invalid)
  expect(() => new TPAttention(group, { hiddenSize: 64, headCount: 8, slidingWindow: 0 })).toThrow(invalid)
  expect(() => new RMSNorm(group, NaN)).toThrow(invalid)
})
