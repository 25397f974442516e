// What the bench counts by: shapes of shards, operations, bytes, and the table of all-reduce times behind modelled figures.
import { attainable, attentionShare, efficiency } from '../../bench/support/derived'
import { divides, linearBytes, linearOperations, linearsOf, shapeOf } from '../../bench/support/model-shapes'
import { wires } from '../../bench/support/wire-table'

const weightBytes = (model: string) => {
  const shape = shapeOf(model)
  const linears = linearsOf(shape, 1)
  const inLayers = linears.filter(({ name }) => name !== 'head').reduce((sum, linear) => sum + linear.inFeatures * linear.outFeatures, 0)
  return 2 * (shape.layerCount * inLayers + shape.hiddenSize * shape.vocabSize)
}

// Bytes that a decode step reads in bfloat16; norms are less than a thousandth. Published sizes: 174.6 B parameters (GPT-3, 175B with
// learned positions), 70.6 B (Llama 3.1), 32.8 B and 8.2 B (Qwen3), the untied embedding taken off.
test.each([
  ['gpt3-175b', 349.2e9], ['llama-70b', 139.0e9], ['qwen3-32b', 63.97e9], ['qwen3-8b', 15.14e9],
])('%s has the size that is published', (model, bytes) => {
  expect(weightBytes(model) / bytes).toBeCloseTo(1, 2)
})

test('the linears of a rank are the shards that the layers make', () => {
  const of = (model: string, tp: number) => Object.fromEntries(linearsOf(shapeOf(model), tp).map((one) => [one.name, [one.inFeatures, one.outFeatures]]))
  expect(of('gpt3-175b', 8)).toEqual({ qkv: [12288, 4608], o: [1536, 12288], up: [12288, 6144], down: [6144, 12288], head: [12288, 6283] })
  expect(of('qwen3-8b', 2)).toEqual({ qkv: [4096, 3072], o: [2048, 4096], gate_up: [4096, 12288], down: [6144, 4096], head: [4096, 75968] })
})

test('KV heads are replicated where there are more ranks than heads', () => {
  const qkv = linearsOf(shapeOf('qwen3-0.6b'), 16)[0]
  expect(qkv.outFeatures).toBe(128 + 2 * 128)
})

test('a size that does not divide is known', () => {
  expect([1, 2, 3, 4, 8].map((tp) => divides(shapeOf('qwen3-8b'), tp))).toEqual([true, true, false, true, true])
  expect(() => linearsOf(shapeOf('qwen3-8b'), 3)).toThrow('divides')
})

test('operations and bytes of a product, by hand', () => {
  const linear = { name: 'o' as const, inFeatures: 1000, outFeatures: 3000 }
  expect(linearOperations(linear, 10)).toBe(60e6)
  expect(linearBytes(linear, 10, 4)).toBe(6e6 + 4 * 40_000)
})

test('the table of the wire gives its own points back, grows with the message, and says what it is', () => {
  for (const wire of Object.values(wires)) {
    for (const [ranks, points] of wire.table) {
      for (const [bytes, microseconds] of points) expect(wire.microseconds(ranks, bytes)).toBeCloseTo(microseconds, 6)
      const times = [1, 1024, 5000, 1e5, 3e6, 1e8, 1e9].map((bytes) => wire.microseconds(ranks, bytes))
      expect(times).toEqual([...times].sort((a, b) => a - b))
    }
    expect(wire.source.length).toBeGreaterThan(20)
  }
})

test('beyond its last point the wire is as fast as there; between points it is interpolated on both logarithms', () => {
  const { local } = wires
  const [bytes, microseconds] = local.table.get(2)!.at(-1)!
  expect(local.microseconds(2, 2 * bytes)).toBeCloseTo(2 * microseconds, 6)
  expect(local.microseconds(2, 32 * 1024)).toBeCloseTo(Math.sqrt(0.9 * 2.6), 6)
})

test('among more ranks of one process each moves 2 (n - 1) / n of the bytes', () => {
  const { local } = wires
  expect(local.microseconds(4, 1 << 20) / local.microseconds(2, 1 << 20)).toBeCloseTo(1.5, 6)
  expect(local.microseconds(8, 1 << 20) / local.microseconds(2, 1 << 20)).toBeCloseTo(1.75, 6)
  expect(local.microseconds(1, 1 << 20)).toBe(0)
  expect([local.covers(6), wires.nvlink.covers(6), wires.nvlink.covers(8)]).toEqual([true, false, true])
})

test('roofline: memory limits below the balance of the machine, arithmetic above it', () => {
  expect(attainable(1, 400e9, 20e9)).toBe(20e9)
  expect(attainable(20, 400e9, 20e9)).toBe(400e9)
  expect(attainable(1000, 400e9, 20e9)).toBe(400e9)
})

test('efficiency is the share of an N-fold speed-up', () => {
  expect(efficiency(8, 4, 2)).toBe(100)
  expect(efficiency(8, 4, 4)).toBe(50)
  for (const seconds of [0.1, 1 / 3, 7e-7]) expect(efficiency(seconds, 1, seconds)).toBe(100)
})

// 10 ms of linears and 1 µs of attention for each cached token: 10.1 and 14.0 ms.
test('attention of a step is found from two contexts', () => {
  expect(attentionShare(10.1, 14, 100, 4000)).toBeCloseTo((100 * 4) / 14, 9)
  expect(attentionShare(12, 12, 100, 4000)).toBe(0)
})
