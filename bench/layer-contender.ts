// Layers as one contender of the bench: a process that holds TPMLP or TPAttention of one shape, split over one group or as one rank's shard
// in groups of one, and times steps through several of them: so many that their weights are cold.
import { KVCaches, openGroup, Program, Recorder, TPAttention, TPMLP, type Group, type Value, type Weight } from 'heddle'
import { answerLines } from './support/answer-lines'
import { linearsOf, type ModelShape } from './support/model-shapes'
import { normalTable, XorShift } from './support/random'

const coldBytes = 256 << 20 // beyond any cache
const mostCopies = 64
const blockSize = 16
const deviation = 0.02
const least = 1e-9 // seconds, where noise hides layers that cost next to nothing

export interface LoadLayers {
  shape: ModelShape
  layer: 'attention' | 'mlp'
  tp: number
  /** one group of `tp` ranks, or this many groups of one rank that each hold the shard of one rank */
  groups: 'whole' | number
  device: 'cpu' | 'cuda'
  devices: number[]
}

export interface TimeLayers {
  rows: number
  /** each row is the next token of a sequence with this many tokens in the cache; none: the rows are one prompt */
  context?: number
  /** runs, of which the median counts */
  runs: number
}

type TimedLayer = TPAttention | TPMLP

interface Loaded {
  group: Group
  layers: TimedLayer[]
}

let shape: ModelShape
let loaded: Loaded[] = []
let bits: Uint16Array<ArrayBuffer> = new Uint16Array(0)

async function load({ shape: asked, layer, tp, groups, device, devices }: LoadLayers): Promise<object> {
  await close()
  shape = asked
  const whole = groups === 'whole'
  const local = whole ? shape : shardOf(shape, tp)
  for (let i = 0; i < (whole ? 1 : groups); i++) {
    const ranks = whole ? tp : 1
    const on = device === 'cuda' ? { devices: whole ? devices.slice(0, tp) : [devices[i]] } : {}
    const group = await openGroup({ size: ranks, device, dtype: 'bfloat16', ...on })
    const one: Loaded = { group, layers: [] }
    loaded.push(one)
    for (let copy = 0; copy < copiesOf(layer, tp); copy++) one.layers.push(await loadLayer(group, layer, local))
  }
  return { copies: loaded[0].layers.length }
}

function copiesOf(layer: LoadLayers['layer'], tp: number): number {
  const names = layer === 'mlp' ? ['gate_up', 'up', 'down'] : ['qkv', 'o']
  const linears = linearsOf(shape, tp).filter(({ name }) => names.includes(name))
  const bytes = linears.reduce((sum, { inFeatures, outFeatures }) => sum + 2 * inFeatures * outFeatures, 0)
  return Math.min(mostCopies, Math.ceil(coldBytes / bytes))
}

function shardOf(shape: ModelShape, tp: number): ModelShape {
  return {
    ...shape, headCount: shape.headCount / tp, kvHeadCount: Math.max(shape.kvHeadCount / tp, 1), intermediateSize: shape.intermediateSize / tp,
  }
}

async function loadLayer(group: Group, kind: LoadLayers['layer'], local: ModelShape): Promise<TimedLayer> {
  const { gated, queryKeyNorm, rope } = local.layersOnly ?? { gated: true, queryKeyNorm: true, rope: true }
  const { hiddenSize, headCount, kvHeadCount, headDim, intermediateSize } = local
  const layer: TimedLayer = kind === 'mlp'
    ? new TPMLP(group, { hiddenSize, intermediateSize, gated, activation: gated ? 'silu' : 'gelu' })
    : new TPAttention(group, { hiddenSize, headCount, kvHeadCount, headDim, queryKeyNorm, ...(rope && { rope: {} }) })
  await layer.load(Object.fromEntries(layer.weights.map(({ name, shape }) => [name, randomWeight(shape)])))
  return layer
}

// Every tensor starts elsewhere in the same random bits.
function randomWeight(shape: number[]): Weight {
  const count = shape.reduce((product, size) => product * size, 1)
  if (bits.length < count) bits = randomBits(count)
  const start = (count * 7919) % (bits.length - count + 1)
  return { dtype: 'bfloat16', shape, source: { data: bits.subarray(start, start + count) }, offset: 0 }
}

function randomBits(count: number): Uint16Array<ArrayBuffer> {
  const table = normalTable(deviation, 1)
  const random = new XorShift(2)
  const filled = new Uint16Array(count)
  const part = Math.min(count, (1 << 22) - 3)
  for (let i = 0; i < part; i++) filled[i] = table[random.next() & 0xffff]
  for (let done = part; done < count; done += part) filled.copyWithin(done, 0, Math.min(part, count - done))
  return filled
}

/** Seconds of one layer with its residual addition: a step through all copies, less a step that only moves the rows in and the last out. */
async function time({ rows, context, runs }: TimeLayers): Promise<object> {
  const work = await timeProgram(rows, context, runs, (x, layers) => layers.reduce((y, layer) => y.add(layer.forward(y)), x))
  const frame = await timeProgram(rows, context, runs, (x) => x)
  const copies = loaded[0].layers.length
  return { seconds: Math.max(work - frame, least) / copies }
}

async function timeProgram(
  rows: number, context: number | undefined, runs: number, record: (x: Value, layers: TimedLayer[]) => Value,
): Promise<number> {
  const sequences = context === undefined ? 1 : rows
  const blocks = Math.ceil((context === undefined ? rows : context + 1) / blockSize)
  const prepared = await Promise.all(loaded.map(async ({ group, layers }) => {
    const caches = new KVCaches(group, sequences * blocks, blockSize)
    const program = await Program.create(group, { maxTokens: rows, maxSequences: sequences, caches }, (g: Recorder) =>
      g.output('last', record(g.input('x', shape.hiddenSize), layers).lastRows()))
    return { program, caches }
  }))
  try {
    const step = stepOf(rows, context, sequences, blocks)
    const seconds: number[] = []
    for (let run = -1; run < runs; run++) {
      const start = performance.now()
      await Promise.all(prepared.map(({ program }) => program.run(step)))
      if (run >= 0) seconds.push((performance.now() - start) / 1000)
    }
    return seconds.sort((a, b) => a - b)[seconds.length >> 1]
  } finally {
    for (const { program, caches } of prepared) {
      program.dispose()
      caches.dispose()
    }
  }
}

function stepOf(rows: number, context: number | undefined, sequences: number, blocks: number): Parameters<Program['run']>[0] {
  const random = new XorShift(3)
  return {
    tokens: new Int32Array(rows),
    positions: Int32Array.from({ length: rows }, (_, row) => context ?? row),
    sequenceStarts: context === undefined ? Int32Array.of(0, rows) : Int32Array.from({ length: rows + 1 }, (_, row) => row),
    slots: Int32Array.from({ length: sequences }, (_, slot) => slot),
    blockTable: Int32Array.from({ length: sequences * blocks }, (_, block) => block),
    inputs: { x: { data: Float32Array.from({ length: rows * shape.hiddenSize }, () => 2 * random.unit() - 1), shape: [rows, shape.hiddenSize] } },
  }
}

async function close(): Promise<object> {
  for (const { group } of loaded) await group.close()
  loaded = []
  return {}
}

answerLines({ load, time, close }).finally(close)
