// The file of a run: what `--json` writes and what `report` and `compare` read. Rule: a file is checked whole before anything uses it,
// since it may come from another version, another machine or an editor.
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { type CaseRecord } from './case-record'
import { fields, is, list, number, object, oneOf, record, shown, text, truth, type Check } from './checks'
import { type Facts, type FactsOf } from './facts'
import { type Machine } from './machine'

export const runFileVersion = 1

export interface BenchRun {
  version: typeof runFileVersion
  command: string
  machine: Machine
  options: Record<string, unknown> // as the cases saw them
  seconds: number
  interrupted?: boolean
  cases: CaseRecord[]
}

/** Writes beside the file and renames, so that nobody ever reads half of one. */
export function writeRun(file: string, run: BenchRun): void {
  writeFileSync(`${file}.part`, `${JSON.stringify(run, null, 2)}\n`)
  renameSync(`${file}.part`, file)
}

/** Throws an Error that names the file and the first field that is not as it should be. */
export function readRun(file: string): BenchRun {
  try {
    return checkRun(JSON.parse(readFileSync(file, 'utf8')))
  } catch (error) {
    throw new Error(`${file}: expected the JSON of a bench run: ${(error as Error).message}`)
  }
}

type FactChecks = { [M in Facts['metric']]: Record<Exclude<keyof FactsOf<M>, 'metric'>, Check> }

const factChecks: FactChecks = {
  gemm: { device: text, model: text, linear: text, tp: number, rows: number, intensity: number },
  ceiling: { device: text, of: oneOf('arithmetic', 'memory') },
  busbw: { collective: text, communicator: text, ranks: number, bytes: number, graph: truth },
  link: { line: text, collective: text, ranks: number },
  layer: { model: text, layer: text, tp: number, rows: number, part: text, modelled: truth },
  efficiency: { model: text, layer: text, tp: number, rows: number, modelled: truth },
  rate: { phase: text, tp: number, batch: number, tokens: number },
  peer: { phase: text, contender: text },
  'peer ratio': { phase: text, contender: text },
}

const facts: Check = (value, where) => {
  fields({ metric: oneOf(...Object.keys(factChecks)) })(value, where)
  fields(factChecks[(value as Facts).metric])(value, where)
}
const goal = fields({}, { least: number, most: number })
const result = fields(
  { name: text, unit: text, median: number, low: number, high: number, samples: list(number, 1) },
  { goal, met: truth, better: oneOf('higher', 'lower'), facts },
)
const cell = is('a text or a number', (value) => typeof value === 'string' || Number.isFinite(value))
const table = fields({ title: text, columns: list(fields({ key: text, title: text }, { unit: text })), rows: list(record(cell)) })
const skipped = fields({ what: text, why: text })
const caseRecord = fields(
  {
    name: text, about: text, seconds: number, results: list(result), tables: list(table), notes: list(text), skipped: list(skipped),
    trimmed: list(text),
  },
  { error: text, budgetSeconds: number },
)
const machine = fields({
  cpu: text, cores: number, isa: list(text), gpus: list(text), memoryGigabytes: number, system: text, node: text, heddle: text, commit: text,
  loadAverage: number, date: text,
})
const run = fields({ command: text, machine, options: object, seconds: number, cases: list(caseRecord) }, { interrupted: truth })

/** Returns the value as a run; throws an Error that names the first field that is not as it should be. */
export function checkRun(value: unknown): BenchRun {
  object(value, '')
  const { version } = value as Partial<BenchRun>
  if (version !== runFileVersion) throw new Error(`version: expected ${runFileVersion}, got ${shown(version)}`)
  run(value, '')
  return value as BenchRun
}
