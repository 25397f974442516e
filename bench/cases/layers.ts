// Layers: TPMLP and TPAttention of large models: compute, communication and total by group size, and the efficiency T1 / (N · TN).
//
// Where there is a core (or GPU) for every rank, all three are measured: the total in a group of N ranks; the compute as N groups of one rank
// that hold a shard each and run at once, on the same cores and memory but without an all-reduce; communication is the difference, waiting for
// the slower rank included. With fewer, one shard is measured alone and the all-reduce comes from a stated table: modelled.
import { freemem } from 'node:os'
import { join } from 'node:path'
import { cudaInfo } from 'heddle'
import { type LoadLayers, type TimeLayers } from '../layer-contender'
import { type Case, type Reporter, type Table } from '../support/case'
import { efficiency } from '../support/derived'
import { LineProcess } from '../support/line-process'
import { divides, linearsOf, shapeOf, type LinearShape } from '../support/model-shapes'
import { type BenchOptions } from '../support/options'
import { median, result } from '../support/statistics'
import { wires, type Wire } from '../support/wire-table'

type LayerName = LoadLayers['layer']

const layerNames: LayerName[] = ['mlp', 'attention']
const steps: (TimeLayers & { name: string })[] = [
  { name: 'decode', rows: 1, context: 128, runs: 5 },
  { name: 'decode', rows: 32, context: 128, runs: 3 },
  { name: 'prefill', rows: 512, runs: 1 },
]
const roundsMost = 3
const linearNames: Record<LayerName, LinearShape['name'][]> = { mlp: ['gate_up', 'up', 'down'], attention: ['qkv', 'o'] }

interface Place {
  device: 'cpu' | 'cuda'
  devices: number[]
  workers: number // cores or GPUs: ranks that can really run side by side
  wire: Wire
  elementBytes: number // of what an all-reduce sums
}

interface Times {
  compute: number[]
  communication: number[]
  total: number[] // seconds, one for each round
  modelled: boolean
}

export const layers: Case = {
  name: 'layers',
  about: 'TPMLP and TPAttention of large models: compute, communication, total and efficiency by group size',
  weight: 2,
  async run(options, report) {
    const place = findPlace(options)
    report.note(describe(place))
    for (const model of [...options.layerShapes].reverse()) {
      for (const layer of layerNames) await measureLayer(model, layer, place, options, report)
    }
  },
}

function findPlace({ cores, devices }: BenchOptions): Place {
  const { usable, devices: found } = cudaInfo(false)
  if (!usable) return { device: 'cpu', devices: [], workers: cores, wire: wires.local, elementBytes: 4 }
  const gpus = devices.length > 1 ? devices : found.map(({ device }) => device)
  return { device: 'cuda', devices: gpus, workers: gpus.length, wire: wires.nvlink, elementBytes: 2 }
}

function describe({ device, workers, wire }: Place): string {
  const what = device === 'cpu' ? 'cores' : 'GPUs'
  return `${workers} ${what}: larger groups are modelled: one rank's shard measured alone, its all-reduce from a table: ${wire.source}`
}

async function measureLayer(model: string, layer: LayerName, place: Place, options: BenchOptions, report: Reporter): Promise<void> {
  const shape = shapeOf(model)
  const known = (tp: number) => tp <= place.workers || place.wire.covers(tp)
  const sizes = options.layerSizes.filter((tp) => divides(shape, tp) && known(tp))
  const left = options.layerSizes.filter((tp) => !sizes.includes(tp))
  if (left.length > 0) report.skip(`${model} ${layer} tp=${left}`, 'the shape does not divide, or no all-reduce of that size is known')
  if (sizes.length === 0) return
  const linears = linearsOf(shape, 1).filter(({ name }) => linearNames[layer].includes(name))
  // what the ranks hold, and the largest matrix once more in JavaScript and on its way to a rank
  const bytes = weightBytes(linears) + 2 * Math.max(...linears.map((linear) => weightBytes([linear])))
  if (place.device === 'cpu' && 2 * bytes > freemem()) return report.skip(`${model} ${layer}`, `needs ${(bytes / 1e9).toFixed(1)} GB, more than half of what is free`)
  if (!report.hasTime(`${model} ${layer}`, estimate(linears, sizes, place, options))) return
  const child = new LineProcess('layers', process.execPath, [join(__dirname, '..', 'layer-contender.js')])
  try {
    const bySize = new Map<number, Times[]>()
    for (const tp of sizes) bySize.set(tp, await measureSize(child, model, layer, tp, place, options))
    addAll(model, layer, bySize, report)
  } finally {
    await child.close()
  }
}

function weightBytes(linears: LinearShape[]): number {
  return linears.reduce((sum, { inFeatures, outFeatures }) => sum + 2 * inFeatures * outFeatures, 0)
}

/** Seconds, roughly, for the time budget alone: a slow core's rates, and seconds to start and to load. */
function estimate(linears: LinearShape[], sizes: number[], { device, workers }: Place, options: BenchOptions): number {
  const rates = device === 'cpu' ? { operations: 3e11, bytes: 1.5e10 } : { operations: 2e14, bytes: 1e12 }
  const bytes = weightBytes(linears)
  const rounds = Math.min(options.repeats, roundsMost)
  return sizes.reduce((sum, tp) => {
    const loads = tp > 1 && tp <= workers ? 2 : 1
    const stepSeconds = steps.map(({ rows, runs }) => rounds * (runs + 1) * Math.max((bytes * rows) / tp / rates.operations, bytes / tp / rates.bytes))
    return sum + loads * (2 + bytes / 1e9 + stepSeconds.reduce((all, one) => all + one, 0))
  }, 0)
}

/** The times of every step. */
async function measureSize(
  child: LineProcess, model: string, layer: LayerName, tp: number, place: Place, options: BenchOptions,
): Promise<Times[]> {
  const shape = shapeOf(model)
  const { device, devices } = place
  const load = (groups: LoadLayers['groups']) => child.ask({ do: 'load', shape, layer, tp, groups, device, devices })
  const modelled = tp > place.workers
  const rounds = Math.min(options.repeats, roundsMost)
  const measureSteps = async () => {
    const series: number[][] = []
    for (const { rows, context, runs } of steps) {
      const seconds: number[] = []
      for (let round = 0; round < rounds; round++) seconds.push((await child.ask<{ seconds: number }>({ do: 'time', rows, context, runs })).seconds)
      series.push(seconds)
    }
    return series
  }
  await load(modelled ? 1 : tp)
  const compute = await measureSteps()
  if (modelled) {
    return steps.map(({ rows }, i) => {
      const wire = place.wire.microseconds(tp, rows * shape.hiddenSize * place.elementBytes) / 1e6
      return { compute: compute[i], communication: compute[i].map(() => wire), total: compute[i].map((one) => one + wire), modelled }
    })
  }
  if (tp === 1) return compute.map((seconds) => ({ compute: seconds, communication: seconds.map(() => 0), total: seconds, modelled }))
  await load('whole')
  const total = await measureSteps()
  // two separate measurements: where the machine was disturbed in one of them, the difference may come out below nothing
  return steps.map((_, i) => ({
    compute: compute[i], total: total[i], communication: total[i].map((one, round) => Math.max(one - compute[i][round], 0)), modelled,
  }))
}

function addAll(model: string, layer: LayerName, bySize: Map<number, Times[]>, report: Reporter): void {
  const table: Table = { title: `${model} ${layer}, one layer and its residual`, columns, rows: [] }
  steps.forEach(({ name, rows }, i) => {
    for (const [tp, times] of bySize) {
      const { compute, communication, total, modelled } = times[i]
      const what = `${model} ${layer} ${name} M=${rows} tp=${tp}`
      const mark = modelled ? ', modelled' : ''
      const facts = { metric: 'layer', model, layer, tp, rows, modelled } as const
      const micro = (seconds: number[]) => seconds.map((one) => 1e6 * one)
      report.add(result(`${what} compute`, 'µs', micro(compute)), { ...facts, modelled: false, part: 'compute' })
      if (tp > 1) report.add(result(`${what} communication${mark}`, 'µs', micro(communication)), { ...facts, part: 'communication' })
      report.add(result(`${what} total${mark}`, 'µs', micro(total)), { ...facts, part: 'total' })
      const percent = bySize.get(1)?.[i].total.map((one, round) => efficiency(one, tp, total[round]))
      if (percent) report.add(result(`${what} efficiency${mark}`, '%', percent), { metric: 'efficiency', model, layer, tp, rows, modelled })
      table.rows.push({
        step: name, rows, tp, compute: 1e6 * median(compute), communication: 1e6 * median(communication), total: 1e6 * median(total),
        efficiency: percent && median(percent), kind: modelled ? 'modelled' : 'measured',
      })
    }
  })
  report.table(table)
}

const columns: Table['columns'] = [
  { key: 'step', title: 'step' }, { key: 'rows', title: 'rows' }, { key: 'tp', title: 'tp' }, { key: 'compute', title: 'compute', unit: 'µs' },
  { key: 'communication', title: 'communication', unit: 'µs' }, { key: 'total', title: 'total', unit: 'µs' },
  { key: 'efficiency', title: 'T1/(N·TN)', unit: '%' }, { key: 'kind', title: '' },
]
