// `npm run bench`: runs the named cases one after another and prints medians with quartiles. Rule: each case runs in a fresh process, and
// what it times in processes of its own; this one only starts them, prints and writes.
import { join } from 'node:path'
import { allCases, chosenCases } from './cases'
import { compare } from './compare'
import { report, writeReports } from './report/write'
import { type Case } from './support/case'
import { CaseProcess } from './support/case-process'
import { emptyRecord, type CaseEvent, type CaseRecord } from './support/case-record'
import { describeMachine } from './support/machine'
import { parseCommandLine, usage, type CommandLine } from './support/options'
import { header, line, tableText } from './support/report'
import { runFileVersion, writeRun, type BenchRun } from './support/run-file'

const caseScript = join(__dirname, 'run-case.js')
const graceSeconds = 900 // beyond its share: a first run builds programs and writes a checkpoint; what takes longer hangs

const failed = 1
const wrongUsage = 2
const signalNumbers = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 }
type EndSignal = keyof typeof signalNumbers

/** A run under way: what has been measured so far, and the process of the case that is measured now. */
class Run {
  readonly record: BenchRun
  private current?: CaseProcess
  endedBy?: EndSignal
  private readonly start = performance.now()

  constructor(private readonly args: string[], private readonly commandLine: CommandLine) {
    const { options, budgetSeconds } = commandLine
    const { folder: _, ...plain } = options
    this.record = {
      version: runFileVersion,
      command: ['npm run bench --', ...args.map(quoted)].join(' '),
      machine: describeMachine(),
      options: { ...plain, budgetSeconds: Number.isFinite(budgetSeconds) ? budgetSeconds : 'none' },
      seconds: 0,
      cases: [],
    }
  }

  async runAll(cases: Case[]): Promise<void> {
    for (const [i, one] of cases.entries()) {
      if (this.endedBy) break
      this.record.cases.push(await this.runCase(one, this.share(cases.slice(i))))
      this.record.seconds = this.elapsed()
      if (this.endedBy) this.record.interrupted = true
      this.write()
    }
  }

  /** Before the first case, so that a file that cannot be written is known then, and after every case: so much is kept whatever comes. */
  write(): void {
    const { jsonFile, htmlFile, markdownFile } = this.commandLine
    if (jsonFile) writeRun(jsonFile, this.record)
    writeReports(this.record, { html: htmlFile, markdown: markdownFile })
  }

  stop(signal: EndSignal): void {
    this.endedBy = signal
    this.current?.stop(`interrupted by ${signal}`)
  }

  /** Seconds for the first of these cases: what is left of the run, by weight. What one case leaves over goes to the next ones. */
  private share(waiting: Case[]): number {
    const weights = waiting.map(({ weight = 1 }) => weight)
    const left = Math.max(0, this.commandLine.budgetSeconds - this.elapsed())
    return (left * weights[0]) / weights.reduce((sum, weight) => sum + weight, 0)
  }

  private elapsed(): number {
    return (performance.now() - this.start) / 1000
  }

  private async runCase(one: Case, seconds: number): Promise<CaseRecord> {
    const limited = Number.isFinite(seconds)
    print(`\n${one.name}: ${one.about}${limited ? ` (${seconds.toFixed(0)} s)` : ''}`)
    const record = emptyRecord(one.name, one.about, limited ? seconds : undefined)
    this.current = new CaseProcess(caseScript, [one.name, String(seconds), ...this.args], seconds + graceSeconds)
    const printer = new EventPrinter(seconds)
    await this.current.run(record, (event) => printer.add(event))
    printer.end()
    if (record.error) process.stderr.write(`  ${one.name} failed: ${record.error}\n`)
    return record
  }
}

/** Prints what a case tells; what is trimmed in a row comes in one paragraph, since it may be hundreds of things. */
class EventPrinter {
  private trimmed: string[] = []

  constructor(private readonly seconds: number) {}

  add(event: CaseEvent): void {
    if (event.kind === 'trimmed') {
      this.trimmed.push(event.what)
      return
    }
    this.end()
    print(eventText(event))
  }

  end(): void {
    const [count, seconds] = [this.trimmed.length, this.seconds.toFixed(0)]
    if (count > 0) print(`  trimmed, ${count} (${seconds} s for this case; --full measures it): ${this.trimmed.join('; ')}`)
    this.trimmed = []
  }
}

function eventText(event: Exclude<CaseEvent, { kind: 'trimmed' }>): string {
  if (event.kind === 'result') return line(event.result)
  if (event.kind === 'table') return tableText(event.table)
  if (event.kind === 'note') return `  ${event.text}`
  if (event.kind === 'skipped') return `  skipped: ${event.what}: ${event.why}`
  return `  error: ${event.message}`
}

const tools: Record<string, (args: string[]) => string> = { compare, report }

function useTool(name: string, args: string[]): number {
  try {
    print(tools[name](args))
    return 0
  } catch (error) {
    process.stderr.write(`bench: ${(error as Error).message}\n${usage}\n`)
    return wrongUsage
  }
}

/** What the command line asks for; throws an Error on wrong usage and where a file cannot be written. */
function prepare(args: string[]): { help: boolean; cases: Case[]; run: Run } {
  const commandLine = parseCommandLine(args)
  const cases = chosenCases(commandLine.cases)
  const run = new Run(args, commandLine)
  if (!commandLine.help) run.write()
  return { help: commandLine.help, cases, run }
}

async function main(args: string[]): Promise<number> {
  if (Object.hasOwn(tools, args[0])) return useTool(args[0], args.slice(1))
  let prepared: ReturnType<typeof prepare>
  try {
    prepared = prepare(args)
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n${usage}\n`)
    return wrongUsage
  }
  const { help, cases, run } = prepared
  if (help) {
    print([usage, 'cases:', ...allCases.map((one) => `  ${one.name.padEnd(13)} ${one.about}`)].join('\n'))
    return 0
  }
  for (const signal of Object.keys(signalNumbers) as EndSignal[]) process.once(signal, () => run.stop(signal))
  print(header(run.record.machine))
  await run.runAll(cases)
  print(`\n${summary(run.record)}`)
  if (run.endedBy) return 128 + signalNumbers[run.endedBy]
  return run.record.cases.some((record) => record.error) ? failed : 0
}

function summary({ cases, seconds }: BenchRun): string {
  const count = (of: (record: CaseRecord) => unknown[]) => cases.reduce((sum, record) => sum + of(record).length, 0)
  const goals = cases.flatMap(({ results }) => results).filter(({ goal }) => goal)
  return [
    `${count((record) => record.results)} results of ${cases.length} cases in ${seconds.toFixed(0)} s`,
    `goals met: ${goals.filter(({ met }) => met).length} of ${goals.length}`,
    `skipped: ${count((record) => record.skipped)}`,
    `trimmed: ${count((record) => record.trimmed)}`,
    `failed: ${cases.filter(({ error }) => error).map(({ name }) => name).join(', ') || 'none'}`,
  ].join('; ')
}

function quoted(argument: string): string {
  return /^[\w@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", "'\\''")}'`
}

function print(text: string): void {
  process.stdout.write(`${text}\n`)
}

main(process.argv.slice(2)).then((status) => { process.exitCode = status })
