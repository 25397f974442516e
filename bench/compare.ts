// `npm run bench -- compare A.json B.json`: what changed from A to B beyond noise.
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { compareRuns, defaultThresholds, type Change, type Comparison, type Verdict } from './support/comparison'
import { shown, suitableUnit } from './support/numbers'
import { readRun } from './support/run-file'

/** Returns the comparison as text; throws an Error on wrong usage and on a file that is none of ours. */
export function compare(args: string[]): string {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      json: { type: 'string' },
      alpha: { type: 'string', default: String(defaultThresholds.alpha) },
      'least-effect': { type: 'string', default: String(100 * defaultThresholds.leastEffect) },
      all: { type: 'boolean', default: false },
    },
  })
  if (positionals.length !== 2) throw new Error(`compare: expected two files, got ${positionals.length}`)
  const thresholds = { alpha: share('--alpha', values.alpha, 1), leastEffect: share('--least-effect', values['least-effect'], 100) }
  const [before, after] = positionals.map(readRun)
  const comparison = compareRuns(before, after, thresholds)
  if (values.json) writeFileSync(values.json, `${JSON.stringify({ files: positionals, ...comparison }, null, 2)}\n`)
  const from = [before, after].map(({ machine }, i) => `${'AB'[i]}: ${positionals[i]}, ${machine.commit}, ${machine.date}`)
  return [...from, ...comparisonLines(comparison, values.all)].join('\n')
}

function share(name: string, text: string, whole: number): number {
  const value = Number(text) / whole
  if (!(value > 0 && value < 1)) throw new Error(`compare: ${name}: expected a number between 0 and ${whole}, got ${text}`)
  return value
}

function comparisonLines({ thresholds, differences, changes, onlyBefore, onlyAfter }: Comparison, all: boolean): string[] {
  const { alpha, leastEffect } = thresholds
  const of = (verdict: Verdict) => changes.filter((change) => change.verdict === verdict)
  const listed = (title: string, lines: string[]) => (lines.length > 0 ? ['', title, ...lines] : [])
  const decided = changes.length - of('undecided').length
  return [
    ...listed('not the same in both runs:', differences.map((text) => `  ${text}`)),
    ...listed('worse:', of('worse').map(changeLine)),
    ...listed('better:', of('better').map(changeLine)),
    ...(all ? listed('no change beyond noise:', of('same').map(changeLine)) : []),
    ...listed(`too few samples to tell at p ≤ ${alpha}:`, of('undecided').map(changeLine)),
    ...listed('only in A:', onlyBefore.map((text) => `  ${text}`)),
    ...listed('only in B:', onlyAfter.map((text) => `  ${text}`)),
    '',
    `${of('worse').length} worse, ${of('better').length} better, ${of('same').length} without change beyond noise, ` +
      `${of('undecided').length} with too few samples (rank-sum test at p ≤ ${alpha}, medians a factor of ${1 + leastEffect} or more apart)`,
    `by chance alone up to about ${Math.ceil(alpha * decided)} of ${decided} would pass the test; ` +
      'a machine that was busier throughout one run passes it too: repeat what matters',
  ]
}

function changeLine({ case: from, name, unit, before, after, ratio, interval, p }: Change): string {
  const { unit: suited, divisor } = suitableUnit(before, unit)
  const figures = `${shown(before / divisor)} → ${shown(after / divisor)} ${suited}`
  const range = interval ? ` [${interval.map(shown).join(' – ')}]` : ''
  const times = ratio === undefined ? '' : `${shown(ratio)}x${range}`
  return `  ${`${from}: ${name}`.padEnd(56)} ${figures.padStart(28)}  ${times.padEnd(22)} p = ${p.toPrecision(2)}`
}
