// The report as data: sections of texts, tables and figures. Rule: every format is written from this one document, so all say the same.
import { type Table } from '../support/case'
import { type CaseRecord } from '../support/case-record'
import { shown, suitableUnit } from '../support/numbers'
import { goalText } from '../support/report'
import { type BenchRun } from '../support/run-file'
import { type Result } from '../support/statistics'
import { busBandwidths } from './bus-bandwidth'
import { layerEfficiency, ratesBySize } from './by-size'
import { slug, type Figure } from './figure'
import { peerBars } from './peer-bars'
import { rooflines } from './roofline'

export type Block =
  | { kind: 'text'; text: string; tone?: 'bad' }
  | { kind: 'list'; title: string; items: string[]; folded: boolean }
  | { kind: 'table'; table: Table; folded: boolean }
  | { kind: 'figure'; figure: Figure }

export interface Section {
  id: string
  title: string
  about?: string
  blocks: Block[]
}

export interface Report {
  title: string
  command: string
  facts: { name: string; value: string }[] // machine and versions
  tallies: { name: string; value: string; bad: boolean }[]
  sections: Section[]
}

export const notMet = 'NOT met'
const longTable = 30 // rows; longer ones start folded
const longList = 8

export function makeReport(run: BenchRun): Report {
  return {
    title: 'heddle bench',
    command: run.command,
    facts: machineFacts(run),
    tallies: tallies(run),
    sections: [...goals(run), ...charts(run), ...run.cases.map(caseSection)],
  }
}

function machineFacts({ machine, options, seconds }: BenchRun): Report['facts'] {
  const tuned = Object.entries(options).filter(([key]) => key !== 'shape').map(([key, value]) => `${key} ${String(value)}`)
  return [
    { name: 'processor', value: `${machine.cpu}, ${machine.cores} cores` },
    { name: 'instructions', value: machine.isa.join(' ') || 'unknown' },
    { name: 'GPUs', value: machine.gpus.join('; ') || 'none' },
    { name: 'memory', value: `${machine.memoryGigabytes} GB` },
    { name: 'system', value: `${machine.system}; node ${machine.node}` },
    { name: 'heddle', value: `${machine.heddle}, commit ${machine.commit}` },
    { name: 'when', value: `${machine.date.slice(0, 16).replace('T', ' ')} UTC, ${duration(seconds)}; load average before the run ${machine.loadAverage.toFixed(2)}` },
    { name: 'options', value: tuned.join(', ') },
    { name: 'figures', value: 'medians of alternating repeats after a warm-up, [quartiles]; random weights and inputs' },
  ]
}

function tallies({ cases, interrupted }: BenchRun): Report['tallies'] {
  const count = (of: (record: CaseRecord) => unknown[]) => cases.reduce((sum, record) => sum + of(record).length, 0)
  const judged = cases.flatMap(({ results }) => results).filter(({ goal }) => goal)
  const met = judged.filter((one) => one.met).length
  const failed = cases.filter(({ error }) => error).length
  return [
    { name: 'cases', value: `${cases.length}${interrupted ? ', interrupted' : ''}`, bad: interrupted === true },
    { name: 'results', value: String(count(({ results }) => results)), bad: false },
    { name: 'goals met', value: `${met} of ${judged.length}`, bad: met < judged.length },
    { name: 'skipped', value: String(count(({ skipped }) => skipped)), bad: false },
    { name: 'trimmed', value: String(count(({ trimmed }) => trimmed)), bad: false },
    { name: 'failed', value: String(failed), bad: failed > 0 },
  ]
}

function goals({ cases }: BenchRun): Section[] {
  const rows = cases.flatMap(({ name, results }) => results.filter(({ goal }) => goal).map((one) => ({
    ...resultRow(one), case: name, verdict: one.met ? 'met' : notMet,
  })))
  if (rows.length === 0) return []
  const columns = [
    { key: 'case', title: 'case' }, { key: 'name', title: 'result' }, { key: 'median', title: 'median' }, { key: 'spread', title: 'quartiles' },
    { key: 'unit', title: 'unit' }, { key: 'goal', title: 'goal' }, { key: 'verdict', title: 'verdict' },
  ]
  return [{ id: 'goals', title: 'Goals', blocks: [{ kind: 'table', table: { title: 'Goals', columns, rows }, folded: false }] }]
}

function charts(run: BenchRun): Section[] {
  const subjects = [
    { title: 'Tokens a second', of: ratesBySize },
    { title: 'Beside the peers', of: peerBars },
    { title: 'GEMMs', of: rooflines },
    { title: 'Layers', of: layerEfficiency },
    { title: 'Collectives', of: busBandwidths },
  ]
  return subjects.map(({ title, of }) => {
    const { figures, missing } = of(run)
    const blocks: Block[] = figures.map((figure) => ({ kind: 'figure', figure }))
    return { id: slug(title), title, blocks: missing ? [{ kind: 'text', text: missing }] : blocks }
  })
}

function caseSection(record: CaseRecord): Section {
  const { name, about, seconds, budgetSeconds, error, tables, results, notes, skipped, trimmed } = record
  const budget = budgetSeconds === undefined ? '' : ` of ${duration(budgetSeconds)}`
  const list = (title: string, items: string[]): Block[] => (items.length > 0 ? [{ kind: 'list', title, items, folded: items.length > longList }] : [])
  return {
    id: `case-${slug(name)}`,
    title: `Case ${name}`,
    about: `${about} (${duration(seconds)}${budget})`,
    blocks: [
      ...(error ? [{ kind: 'text', text: `Failed: ${error}`, tone: 'bad' } as const] : []),
      ...list('Notes', notes),
      ...list('Skipped', skipped.map(({ what, why }) => `${what}: ${why}`)),
      ...list('Trimmed for want of time; --full measures it', trimmed),
      ...tables.map((table): Block => ({ kind: 'table', table, folded: table.rows.length > longTable })),
      ...(results.length > 0 ? [{ kind: 'table', table: resultTable(results), folded: results.length > longTable } as const] : []),
    ],
  }
}

function resultTable(results: Result[]): Table {
  const columns = [
    { key: 'name', title: 'result' }, { key: 'median', title: 'median' }, { key: 'spread', title: 'quartiles' }, { key: 'unit', title: 'unit' },
    { key: 'samples', title: 'samples' },
    ...(results.some(({ goal }) => goal) ? [{ key: 'goal', title: 'goal' }, { key: 'verdict', title: 'verdict' }] : []),
  ]
  return { title: 'Results', columns, rows: results.map(resultRow) }
}

function resultRow(one: Result): Record<string, string | undefined> {
  const { unit, divisor } = suitableUnit(one.median, one.unit)
  return {
    name: one.name,
    median: shown(one.median / divisor),
    spread: one.samples.length > 1 ? `${shown(one.low / divisor)} – ${shown(one.high / divisor)}` : '',
    unit,
    samples: String(one.samples.length),
    goal: one.goal && goalText(one.goal),
    verdict: one.goal && (one.met ? 'met' : notMet),
  }
}

function duration(seconds: number): string {
  return seconds < 100 ? `${seconds.toFixed(0)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`
}
