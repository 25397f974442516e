// `npm run bench`: runs the named cases one after another and prints medians with quartiles. Rule: whatever is timed runs in a fresh
// process; this one only asks, adds up and prints.
import { writeFileSync } from 'node:fs'
import { allReduce } from './cases/all-reduce'
import { boundary } from './cases/boundary'
import { decode } from './cases/decode'
import { gpu } from './cases/gpu'
import { load } from './cases/load'
import { peers } from './cases/peers'
import { prefill } from './cases/prefill'
import { type Case, type Table } from './support/case'
import { type Facts } from './support/facts'
import { describeMachine } from './support/machine'
import { parseCommandLine, usage, type CommandLine } from './support/options'
import { header, line, tableText } from './support/report'
import { type Result } from './support/statistics'

const cases: Case[] = [decode, prefill, allReduce, boundary, load, peers]
// Only when it is named: it needs a GPU, and as it stands a checkpoint of 16 GB.
const casesByName: Case[] = [...cases, gpu]

interface CaseRecord {
  name: string
  results: Result[]
  notes: string[]
  tables: Table[]
  error?: string
}

async function runCase(one: Case, { options }: CommandLine): Promise<CaseRecord> {
  const record: CaseRecord = { name: one.name, results: [], notes: [], tables: [] }
  const end = performance.now() + 1000 * options.budgetSeconds
  print(`\n${one.name}: ${one.about}`)
  const note = (text: string) => {
    record.notes.push(text)
    print(`  ${text}`)
  }
  const add = (result: Result, facts?: Facts) => {
    record.results.push({ ...result, ...(facts && { facts }) })
    print(line(result))
  }
  const table = (one: Table) => {
    record.tables.push(one)
    print(tableText(one))
  }
  const skip = (what: string, why: string) => note(`skipped: ${what}: ${why}`)
  const hasTime = (what: string) => {
    if (performance.now() < end) return true
    note(`trimmed: ${what} (budget ${options.budgetSeconds} s a case; --full measures it)`)
    return false
  }
  try {
    await one.run(options, { note, add, table, skip, hasTime })
  } catch (error) {
    record.error = (error as Error).message
    process.stderr.write(`  ${one.name} failed: ${record.error}\n`)
  }
  return record
}

function chosenCases(names: string[]): Case[] {
  const unknown = names.find((name) => !casesByName.some((one) => one.name === name))
  if (unknown) throw new Error(`bench: expected cases among ${casesByName.map((one) => one.name).join(', ')}, got ${unknown}`)
  return names.length === 0 ? cases : casesByName.filter((one) => names.includes(one.name))
}

async function main(args: string[]): Promise<number> {
  let commandLine: CommandLine
  let chosen: Case[]
  try {
    commandLine = parseCommandLine(args)
    chosen = chosenCases(commandLine.cases)
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n${usage}\n`)
    return 2
  }
  if (commandLine.help) {
    print([usage, 'cases:', ...casesByName.map((one) => `  ${one.name.padEnd(10)} ${one.about}`)].join('\n'))
    return 0
  }
  const machine = describeMachine()
  print(header(machine))
  const records: CaseRecord[] = []
  for (const one of chosen) records.push(await runCase(one, commandLine))
  const { jsonFile, options } = commandLine
  if (jsonFile) writeFileSync(jsonFile, `${JSON.stringify({ machine, options, cases: records }, null, 2)}\n`)
  return records.some((record) => record.error) ? 1 : 0
}

function print(text: string): void {
  process.stdout.write(`${text}\n`)
}

main(process.argv.slice(2)).then((status) => { process.exitCode = status })
