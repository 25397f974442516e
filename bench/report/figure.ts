// A figure of the report: a chart, what it says in words, and the numbers behind it. Rule: figures choose results by their facts alone.
import { type Table } from '../support/case'
import { type Facts, type FactsOf } from '../support/facts'
import { type BenchRun } from '../support/run-file'
import { type Result } from '../support/statistics'
import { type BarChart } from './bar-chart'
import { type XyChart } from './xy-chart'

export interface Figure {
  id: string
  title: string
  caption: string
  chart: XyChart | BarChart
  table: Table
}

/** The figures of one subject, or why there are none. */
export interface Figures {
  figures: Figure[]
  missing?: string
}

export type Known<M extends Facts['metric']> = Omit<Result, 'facts'> & { facts: FactsOf<M> }

export function resultsOf<M extends Facts['metric']>(run: BenchRun, metric: M): Known<M>[] {
  const results = run.cases.flatMap((one) => one.results)
  return results.filter((one): one is Result & { facts: FactsOf<M> } => one.facts?.metric === metric)
}

/** Groups in the order in which their first member came. */
export function grouped<T>(items: readonly T[], key: (item: T) => string): { key: string; items: T[] }[] {
  const groups = new Map<string, T[]>()
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item])
  return [...groups].map(([key, items]) => ({ key, items }))
}

export function distinct<T>(values: readonly T[]): T[] {
  return [...new Set(values)]
}

export function ascending(values: readonly number[]): number[] {
  return distinct(values).sort((a, b) => a - b)
}

/** Letters, digits and hyphens of a text, for ids. */
export function slug(text: string): string {
  return text.toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '')
}

/** Why a subject has no chart: what the cases that give it said. */
export function whyMissing(run: BenchRun, subject: string, caseNames: string[]): string {
  const cases = run.cases.filter(({ name }) => caseNames.includes(name))
  const reasons = cases.flatMap(({ name, error, skipped, trimmed }) => [
    ...(error ? [`${name} failed: ${error}`] : []),
    ...skipped.map(({ what, why }) => `${name} skipped ${what}: ${why}`),
    ...trimmed.map((what) => `${name} had no time for ${what}`),
  ])
  const ran = cases.length > 0 ? `${caseNames.join(', ')} gave no figures for it` : `it takes the case ${caseNames.join(' or ')}, which was not run`
  return `No chart of ${subject}: ${[ran, ...reasons.slice(0, 3)].join('; ')}.`
}
