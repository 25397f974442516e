// Two runs side by side: which results changed beyond noise, in which direction, and what else was not the same. docs/performance.md
// derives the test.
import { type CaseRecord } from './case-record'
import { type Machine } from './machine'
import { leastP, rankSumP, ratioInterval } from './rank-sum'
import { type BenchRun } from './run-file'
import { type Result } from './statistics'

export interface Thresholds {
  alpha: number // largest p that counts as more than noise
  leastEffect: number // medians closer than a factor of 1 + leastEffect, up or down, are no change
}

export const defaultThresholds: Thresholds = { alpha: 0.01, leastEffect: 0.05 }

export type Verdict = 'better' | 'worse' | 'same' | 'undecided'

export interface Change {
  case: string
  name: string
  unit: string
  before: number // medians
  after: number
  ratio?: number // after / before, of positive medians
  interval?: [number, number] // of the ratio, at confidence 1 - alpha
  p: number
  verdict: Verdict
}

export interface Comparison {
  thresholds: Thresholds
  differences: string[] // of machine, versions and options
  changes: Change[]
  onlyBefore: string[]
  onlyAfter: string[]
}

export function compareRuns(before: BenchRun, after: BenchRun, thresholds = defaultThresholds): Comparison {
  const old = resultsByKey(before.cases)
  const now = resultsByKey(after.cases)
  return {
    thresholds,
    differences: [...machineDifferences(before.machine, after.machine), ...differences('option', before.options, after.options)],
    changes: [...old].flatMap(([key, { from, result }]) => {
      const other = now.get(key)
      return other ? [compareResults(from, result, other.result, thresholds)] : []
    }),
    onlyBefore: [...old.keys()].filter((key) => !now.has(key)),
    onlyAfter: [...now.keys()].filter((key) => !old.has(key)),
  }
}

export function compareResults(from: string, before: Result, after: Result, { alpha, leastEffect }: Thresholds): Change {
  const p = rankSumP(before.samples, after.samples)
  const positive = [...before.samples, ...after.samples].every((value) => value > 0)
  const ratio = before.median > 0 && after.median > 0 ? after.median / before.median : undefined
  const decided = leastP(before.samples.length, after.samples.length) <= alpha
  const large = ratio === undefined ? before.median !== after.median : Math.abs(Math.log(ratio)) >= Math.log(1 + leastEffect)
  const change = { case: from, name: before.name, unit: before.unit, before: before.median, after: after.median, ratio, p }
  return {
    ...change,
    interval: positive ? ratioInterval(before.samples, after.samples, alpha) : undefined,
    verdict: !decided ? 'undecided' : p <= alpha && large ? direction(before, after) : 'same',
  }
}

function direction(before: Result, after: Result): Verdict {
  return after.median > before.median === (betterWhen(after) === 'higher') ? 'better' : 'worse'
}

const lowerUnits = ['s', 'ms', 'µs', 'us', 'ns', 'B', 'KB', 'MB', 'GB', 'TB', 'KiB', 'MiB', 'GiB', '#wrong']

/** What a result says itself, else what its goal says, else its unit: times and sizes should be small, rates, shares and ratios large. */
export function betterWhen({ better, goal, unit }: Result): 'higher' | 'lower' {
  if (better) return better
  if (goal && (goal.least === undefined) !== (goal.most === undefined)) return goal.most === undefined ? 'higher' : 'lower'
  return lowerUnits.includes(unit) ? 'lower' : 'higher'
}

interface Keyed {
  from: string
  result: Result
}

// A name that a case gives twice is told apart by its order.
function resultsByKey(cases: readonly CaseRecord[]): Map<string, Keyed> {
  const keyed = new Map<string, Keyed>()
  for (const { name: from, results } of cases) {
    for (const result of results) {
      const key = `${from}: ${result.name} (${result.unit})`
      let unique = key
      for (let i = 2; keyed.has(unique); i++) unique = `${key} #${i}`
      keyed.set(unique, { from, result })
    }
  }
  return keyed
}

// When and under which load a run was made differs always and says little.
function machineDifferences(before: Machine, after: Machine): string[] {
  const { date: _, loadAverage: __, ...old } = before
  const { date: ___, loadAverage: ____, ...now } = after
  return differences('', old, now)
}

function differences(prefix: string, before: object, after: object): string[] {
  const old = before as Record<string, unknown>
  const now = after as Record<string, unknown>
  const keys = [...new Set([...Object.keys(old), ...Object.keys(now)])]
  return keys
    .map((key) => ({ key, from: JSON.stringify(old[key]) ?? 'absent', to: JSON.stringify(now[key]) ?? 'absent' }))
    .filter(({ from, to }) => from !== to)
    .map(({ key, from, to }) => `${prefix ? `${prefix} ` : ''}${key}: ${from} → ${to}`)
}
