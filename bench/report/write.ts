// Writes the report of a run in the formats that were asked for.
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { readRun, type BenchRun } from '../support/run-file'
import { makeReport } from './document'
import { htmlReport } from './html'
import { markdownReport } from './markdown'

export interface ReportFiles {
  html?: string
  markdown?: string
}

export function writeReports(run: BenchRun, { html, markdown }: ReportFiles): void {
  const report = makeReport(run)
  if (html) writeFileSync(html, htmlReport(report))
  if (markdown) writeFileSync(markdown, markdownReport(report))
}

/** `npm run bench -- report A.json`: the reports of an earlier run; throws an Error on wrong usage and on a file that is none of ours. */
export function report(args: string[]): string {
  const options = { html: { type: 'string' }, markdown: { type: 'string' } } as const
  const { values, positionals } = parseArgs({ args, allowPositionals: true, options })
  if (positionals.length !== 1) throw new Error(`report: expected one file, got ${positionals.length}`)
  const run = readRun(positionals[0])
  if (!values.html && !values.markdown) return markdownReport(makeReport(run))
  writeReports(run, values)
  return `written: ${[values.html, values.markdown].filter(Boolean).join(', ')}`
}
