// What a case found, as data: sent by the process of the case event by event, collected by run.ts, kept in the file, shown in reports.
import { type Table } from './case'
import { type Result } from './statistics'

export interface CaseRecord {
  name: string
  about: string
  seconds: number // the whole case, with warm-up and what it built or wrote
  budgetSeconds?: number // its share of the run's budget; absent with --full
  results: Result[]
  tables: Table[]
  notes: string[]
  skipped: { what: string; why: string }[] // cannot be measured here
  trimmed: string[] // left out for want of time
  error?: string
}

export type CaseEvent =
  | { kind: 'result'; result: Result }
  | { kind: 'table'; table: Table }
  | { kind: 'note'; text: string }
  | { kind: 'skipped'; what: string; why: string }
  | { kind: 'trimmed'; what: string }
  | { kind: 'failed'; message: string }

export function emptyRecord(name: string, about: string, budgetSeconds?: number): CaseRecord {
  return { name, about, seconds: 0, budgetSeconds, results: [], tables: [], notes: [], skipped: [], trimmed: [] }
}

export function collect(record: CaseRecord, event: CaseEvent): void {
  if (event.kind === 'result') record.results.push(event.result)
  else if (event.kind === 'table') record.tables.push(event.table)
  else if (event.kind === 'note') record.notes.push(event.text)
  else if (event.kind === 'skipped') record.skipped.push({ what: event.what, why: event.why })
  else if (event.kind === 'trimmed') record.trimmed.push(event.what)
  else record.error = event.message
}
