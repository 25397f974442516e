// GEMM: every linear of the named models as one rank of 1 to 8 computes it, from one row to thousands, beside the machine's ceilings.
import { freemem } from 'node:os'
import { cudaInfo } from 'heddle'
import { type Case, type Reporter, type Table } from '../support/case'
import { attainable } from '../support/derived'
import { LineProcess } from '../support/line-process'
import { divides, linearBytes, linearOperations, linearsOf, shapeOf, type LinearShape } from '../support/model-shapes'
import { buildNativeProgram } from '../support/native-programs'
import { type BenchOptions } from '../support/options'
import { median, ratios, result } from '../support/statistics'

const tellingRows = [1, 128, 16, 1024] // measured before the others
const spareBytes = 2 ** 28 // so that even the largest matrix moves on from call to call
const mostError = 2e-6 // of float32 sums: the share of the sum of the magnitudes
const mostSeconds = 2 // of the repeats of one product; a longer one is timed once

interface Ceilings {
  isa: string // of operationsPerSecond, the one in use
  device?: string // none: the CPU
  bytesPerSecond: number
  operationsPerSecond: Record<string, number>
}

/** The linears of one rank with one number of rows: what is measured or trimmed together. */
interface Unit {
  model: string
  tp: number
  rows: number
  linears: LinearShape[]
}

/** What the products run on: a program that times them, with its ceilings and the bytes of an activation. */
interface Target {
  device: string
  child: LineProcess
  ceilings: Ceilings
  activationBytes: number
}

export const gemm: Case = {
  name: 'gemm',
  about: 'every linear of large models as shards of 1 to 8: FLOP/s, bytes/s and their share of the measured ceilings',
  weight: 2,
  async run(options, report) {
    const units = unitsOf(options, report)
    const { usable, reason, devices } = cudaInfo(false)
    if (usable) await measureOn(startGpu(), 2, units.filter((unit) => fits(unit, devices[0].memoryBytes / 4)), options, report)
    else report.skip('linears on a GPU', reason)
    const onCpu = units.filter((unit) => fits(unit, freemem() / 2 - 2 * spareBytes))
    for (const model of options.layerShapes) {
      const large = units.filter((unit) => unit.model === model && !onCpu.includes(unit)).map(({ tp }) => tp)
      if (large.length > 0) report.skip(`${model} tp=${[...new Set(large)]} on the CPU`, 'a matrix would take more than half of the free memory')
    }
    if (onCpu.length > 0) await measureOn(startCpu(onCpu), 4, onCpu, options, report) // float32 between the CPU backend's operations
  },
}

function startCpu(units: Unit[]): LineProcess {
  const megabytes = Math.ceil((Math.max(...units.map(largestBytes)) + spareBytes) / 2 ** 20)
  return new LineProcess('linear bench', buildNativeProgram('heddle_linear_bench'), ['ask', String(megabytes)])
}

function startGpu(): LineProcess {
  return new LineProcess('linear bench on a GPU', buildNativeProgram('heddle_cuda_linear_asked'), [])
}

async function measureOn(child: LineProcess, activationBytes: number, units: Unit[], options: BenchOptions, report: Reporter): Promise<void> {
  try {
    const ceilings = await measureCeilings(child, report)
    await measureAll({ device: ceilings.device ?? 'cpu', child, ceilings, activationBytes }, units, options, report)
  } finally {
    await child.close()
  }
}

async function measureAll(target: Target, units: Unit[], options: BenchOptions, report: Reporter): Promise<void> {
  const tables = new Map<string, Table>()
  for (const unit of units) {
    const what = `${unit.model} tp=${unit.tp}, ${unit.rows} rows, ${target.device}`
    const seconds = unit.linears.reduce((sum, linear) => sum + estimate(linear, unit.rows, target, options.repeats).seconds, 0)
    if (!report.hasTime(what, seconds)) continue
    const table = tables.get(unit.model) ?? tables.set(unit.model, tableOf(unit.model, target)).get(unit.model)!
    for (const linear of unit.linears) table.rows.push(await measure(target, unit, linear, options, report))
  }
  for (const table of tables.values()) report.table(table)
}

async function measureCeilings(child: LineProcess, report: Reporter): Promise<Ceilings> {
  const ceilings = await child.ask<Ceilings>('ceilings')
  const { isa, device = 'cpu', bytesPerSecond, operationsPerSecond } = ceilings
  const unit = device === 'cpu' ? 'one core' : device
  report.note(`one rank is ${unit}; ${isa}, bfloat16 weights that no cache holds, random data, samples checked in double precision`)
  report.add(result(`read bandwidth, ${unit}`, 'B/s', [bytesPerSecond]), { metric: 'ceiling', device, of: 'memory' })
  for (const [name, rate] of Object.entries(operationsPerSecond)) {
    const facts = name === isa ? ({ metric: 'ceiling', device, of: 'arithmetic' } as const) : undefined
    report.add(result(`arithmetic peak, ${unit}, ${name}`, 'FLOP/s', [rate]), facts)
  }
  return ceilings
}

async function measure(
  target: Target, { model, tp, rows }: Unit, linear: LinearShape, options: BenchOptions, report: Reporter,
): Promise<Table['rows'][number]> {
  const { name, inFeatures, outFeatures } = linear
  const { device, child, ceilings, activationBytes } = target
  const { repeats, warm } = estimate(linear, rows, target, options.repeats)
  const seconds: number[] = []
  const library: number[] = []
  for (let round = warm ? -1 : 0; round < repeats; round++) {
    const answer = await child.ask<{ seconds: number; worstError: number; librarySeconds?: number }>(`${inFeatures} ${outFeatures} ${rows}`)
    if (!(answer.worstError <= mostError)) throw new Error(`gemm: ${model} ${name} tp=${tp} M=${rows}: wrong result, ${answer.worstError}`)
    if (round < 0) continue
    seconds.push(answer.seconds)
    if (answer.librarySeconds) library.push(answer.librarySeconds)
  }
  const operations = linearOperations(linear, rows)
  const bytes = linearBytes(linear, rows, activationBytes)
  const intensity = operations / bytes
  const what = `${device === 'cpu' ? '' : `${device} `}${model} ${name} tp=${tp} M=${rows}`
  report.add(result(what, 'FLOP/s', seconds.map((one) => operations / one)), { metric: 'gemm', device, model, linear: name, tp, rows, intensity })
  if (library.length === seconds.length) report.add(result(`${what}, cuBLASLt / heddle time`, 'x', ratios(library, seconds)))
  const middle = median(seconds)
  return {
    linear: name, tp, in: inFeatures, out: outFeatures, rows, time: 1e6 * middle, operations: operations / middle / 1e9,
    bytes: bytes / middle / 1e9, share: (100 * operations) / middle / attainable(intensity, ceilings.operationsPerSecond[ceilings.isa], ceilings.bytesPerSecond),
  }
}

/** A product that takes long is timed less often, and not warmed up. */
function estimate(linear: LinearShape, rows: number, { ceilings, activationBytes }: Target, repeats: number) {
  const { isa, bytesPerSecond, operationsPerSecond } = ceilings
  const operations = linearOperations(linear, rows)
  const once = operations / attainable(operations / linearBytes(linear, rows, activationBytes), operationsPerSecond[isa], bytesPerSecond)
  const fitting = Math.max(1, Math.min(repeats, Math.floor(mostSeconds / once)))
  const warm = once < mostSeconds / 4
  return { repeats: fitting, warm, seconds: once * (fitting + Number(warm)) }
}

function unitsOf(options: BenchOptions, report: Reporter): Unit[] {
  const { rows, layerShapes, layerSizes } = options
  const rowOrder = [...tellingRows.filter((one) => rows.includes(one)), ...rows.filter((one) => !tellingRows.includes(one))]
  for (const model of layerShapes) {
    const sizes = layerSizes.filter((tp) => !divides(shapeOf(model), tp))
    if (sizes.length > 0) report.skip(`${model} tp=${sizes}`, 'the shape does not divide')
  }
  return rowOrder.flatMap((one) => layerShapes.flatMap((model) => layerSizes.flatMap((tp) => unitOf(model, tp, one))))
}

function unitOf(model: string, tp: number, rows: number): Unit[] {
  return divides(shapeOf(model), tp) ? [{ model, tp, rows, linears: linearsOf(shapeOf(model), tp) }] : []
}

function largestBytes({ linears }: Unit): number {
  return Math.max(...linears.map(({ inFeatures, outFeatures }) => 2 * inFeatures * outFeatures))
}

function fits(unit: Unit, bytes: number): boolean {
  return largestBytes(unit) <= bytes
}

function tableOf(model: string, { device, ceilings }: Target): Table {
  return {
    title: `${model}, one rank on ${device === 'cpu' ? 'one core' : device}, ${ceilings.isa}; ceiling: the lower of arithmetic peak and intensity · read bandwidth`,
    columns: [
      { key: 'linear', title: 'linear' }, { key: 'tp', title: 'tp' }, { key: 'in', title: 'in' }, { key: 'out', title: 'out' },
      { key: 'rows', title: 'rows' }, { key: 'time', title: 'time', unit: 'µs' }, { key: 'operations', title: 'rate', unit: 'GFLOP/s' },
      { key: 'bytes', title: 'bytes', unit: 'GB/s' }, { key: 'share', title: 'of ceiling', unit: '%' },
    ],
    rows: [],
  }
}
