// GEMM: every linear of the named models as one rank of 1 to 8 computes it, from one row to thousands, beside the machine's ceilings.
import { freemem } from 'node:os'
import { type Case, type Reporter, type Table } from '../support/case'
import { attainable } from '../support/derived'
import { LineProcess } from '../support/line-process'
import { divides, linearBytes, linearOperations, linearsOf, shapeOf, type LinearShape } from '../support/model-shapes'
import { buildNativeProgram } from '../support/native-programs'
import { type BenchOptions } from '../support/options'
import { median, result } from '../support/statistics'
import { gemmOnGpu } from './gemm-gpu'

const tellingRows = [1, 128, 16, 1024] // measured before the others
const activationBytes = 4 // float32 between the CPU backend's operations
const spareMegabytes = 256 // so that even the largest matrix moves on from call to call
const mostError = 2e-6 // of float32 sums: the share of the sum of the magnitudes
const mostSeconds = 2 // of the repeats of one product; a longer one is timed once

interface Ceilings {
  isa: string
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

export const gemm: Case = {
  name: 'gemm',
  about: 'every linear of large models as shards of 1 to 8: FLOP/s, bytes/s and their share of the measured ceilings',
  weight: 2,
  async run(options, report) {
    await gemmOnGpu(options, report)
    const units = unitsThatFit(options, report)
    const largest = Math.max(...units.flatMap(({ linears }) => linears.map(megabytesOf)))
    const child = new LineProcess('linear bench', buildNativeProgram('heddle_linear_bench'), ['ask', String(largest + spareMegabytes)])
    try {
      await measureAll(child, units, options, report)
    } finally {
      await child.close()
    }
  },
}

async function measureAll(child: LineProcess, units: Unit[], options: BenchOptions, report: Reporter): Promise<void> {
  const ceilings = await measureCeilings(child, report)
  const tables = new Map<string, Table>()
  for (const unit of units) {
    const what = `${unit.model} tp=${unit.tp}, ${unit.rows} rows`
    const seconds = unit.linears.reduce((sum, linear) => sum + estimate(linear, unit.rows, ceilings, options.repeats).seconds, 0)
    if (!report.hasTime(what, seconds)) continue
    const table = tables.get(unit.model) ?? tables.set(unit.model, tableOf(unit.model, ceilings)).get(unit.model)!
    for (const linear of unit.linears) table.rows.push(await measure(child, unit, linear, ceilings, options, report))
  }
  for (const table of tables.values()) report.table(table)
}

async function measureCeilings(child: LineProcess, report: Reporter): Promise<Ceilings> {
  const ceilings = await child.ask<Ceilings>('ceilings')
  const { isa, bytesPerSecond, operationsPerSecond } = ceilings
  report.note(`one rank is one core; ${isa}, bfloat16 weights that no cache holds, random data, samples checked in double precision`)
  report.add(result('read bandwidth, one core', 'B/s', [bytesPerSecond]), { metric: 'ceiling', device: 'cpu', of: 'memory' })
  for (const [name, rate] of Object.entries(operationsPerSecond)) {
    const facts = name === isa ? ({ metric: 'ceiling', device: 'cpu', of: 'arithmetic' } as const) : undefined
    report.add(result(`arithmetic peak, one core, ${name}`, 'FLOP/s', [rate]), facts)
  }
  return ceilings
}

async function measure(
  child: LineProcess, { model, tp, rows }: Unit, linear: LinearShape, ceilings: Ceilings, options: BenchOptions, report: Reporter,
): Promise<Table['rows'][number]> {
  const { name, inFeatures, outFeatures } = linear
  const { repeats, warm } = estimate(linear, rows, ceilings, options.repeats)
  const seconds: number[] = []
  for (let round = warm ? -1 : 0; round < repeats; round++) {
    const answer = await child.ask<{ seconds: number; worstError: number }>(`${inFeatures} ${outFeatures} ${rows}`)
    if (!(answer.worstError <= mostError)) throw new Error(`gemm: ${model} ${name} tp=${tp} M=${rows}: wrong result, ${answer.worstError}`)
    if (round >= 0) seconds.push(answer.seconds)
  }
  const operations = linearOperations(linear, rows)
  const bytes = linearBytes(linear, rows, activationBytes)
  const intensity = operations / bytes
  report.add(result(`${model} ${name} tp=${tp} M=${rows}`, 'FLOP/s', seconds.map((one) => operations / one)),
    { metric: 'gemm', device: 'cpu', model, linear: name, tp, rows, intensity })
  const middle = median(seconds)
  return {
    linear: name, tp, in: inFeatures, out: outFeatures, rows, time: 1e6 * middle, operations: operations / middle / 1e9,
    bytes: bytes / middle / 1e9, share: (100 * operations) / middle / attainable(intensity, ceilings.operationsPerSecond[ceilings.isa], ceilings.bytesPerSecond),
  }
}

/** A product that takes long is timed less often, and not warmed up. */
function estimate(linear: LinearShape, rows: number, { isa, bytesPerSecond, operationsPerSecond }: Ceilings, repeats: number) {
  const operations = linearOperations(linear, rows)
  const once = operations / attainable(operations / linearBytes(linear, rows, activationBytes), operationsPerSecond[isa], bytesPerSecond)
  const fitting = Math.max(1, Math.min(repeats, Math.floor(mostSeconds / once)))
  const warm = once < mostSeconds / 4
  return { repeats: fitting, warm, seconds: once * (fitting + Number(warm)) }
}

function unitsThatFit(options: BenchOptions, report: Reporter): Unit[] {
  const rowOrder = [...tellingRows.filter((rows) => options.rows.includes(rows)), ...options.rows.filter((rows) => !tellingRows.includes(rows))]
  const all = rowOrder.flatMap((rows) => options.layerShapes.flatMap((model) => options.layerSizes.flatMap((tp) => unitOf(model, tp, rows))))
  const free = freemem() / 2 ** 20
  const fits = (unit: Unit) => unit.linears.every((linear) => megabytesOf(linear) + 2 * spareMegabytes < free / 2)
  for (const model of options.layerShapes) {
    const sizes = options.layerSizes.filter((tp) => !divides(shapeOf(model), tp))
    if (sizes.length > 0) report.skip(`${model} tp=${sizes}`, 'the shape does not divide')
    const large = [...new Set(all.filter((unit) => unit.model === model && !fits(unit)).map(({ tp }) => tp))]
    if (large.length > 0) report.skip(`${model} tp=${large}`, `a matrix would take more than half of the free memory (${free.toFixed(0)} MB)`)
  }
  return all.filter(fits)
}

function unitOf(model: string, tp: number, rows: number): Unit[] {
  return divides(shapeOf(model), tp) ? [{ model, tp, rows, linears: linearsOf(shapeOf(model), tp) }] : []
}

function megabytesOf({ inFeatures, outFeatures }: LinearShape): number {
  return Math.ceil((2 * inFeatures * outFeatures) / 2 ** 20)
}

function tableOf(model: string, { isa }: Ceilings): Table {
  return {
    title: `${model}, one rank on one core, ${isa}; ceiling: the lower of arithmetic peak and intensity · read bandwidth`,
    columns: [
      { key: 'linear', title: 'linear' }, { key: 'tp', title: 'tp' }, { key: 'in', title: 'in' }, { key: 'out', title: 'out' },
      { key: 'rows', title: 'rows' }, { key: 'time', title: 'time', unit: 'µs' }, { key: 'operations', title: 'rate', unit: 'GFLOP/s' },
      { key: 'bytes', title: 'bytes', unit: 'GB/s' }, { key: 'share', title: 'of ceiling', unit: '%' },
    ],
    rows: [],
  }
}
