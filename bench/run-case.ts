// The process of one case: `run-case.js NAME SECONDS [arguments of the bench]`. It tells run.ts event by event what it finds, and ends.
// Rule: when run.ts is gone, so is this process with everything that it started.
import { allCases } from './cases'
import { type Reporter } from './support/case'
import { type CaseEvent } from './support/case-record'
import { parseCommandLine } from './support/options'
import { type Result } from './support/statistics'

const [name, seconds, ...args] = process.argv.slice(2)
const end = performance.now() + 1000 * Number(seconds) // Infinity with --full
const shortSeconds = 20
let granted = false
let sent = Promise.resolve() // everything so far has left this process

function send(event: CaseEvent): void {
  sent = new Promise((resolve) => process.send!(event, undefined, undefined, () => resolve()))
}

const reporter: Reporter = {
  note: (text) => send({ kind: 'note', text }),
  add: (result, facts) => send({ kind: 'result', result: finite({ ...result, ...(facts && { facts }) }) }),
  table: (table) => send({ kind: 'table', table }),
  skip: (what, why) => send({ kind: 'skipped', what, why }),
  // Something short is always measured: a small budget gives little rather than nothing.
  hasTime(what, seconds = 0) {
    const has = performance.now() + 1000 * seconds < end || (!granted && seconds <= shortSeconds)
    granted ||= has
    if (!has) send({ kind: 'trimmed', what })
    return has
  },
}

function finite(result: Result): Result {
  if (result.samples.every(Number.isFinite)) return result
  throw new Error(`${result.name}: expected finite samples, got ${result.samples.join(', ')}`)
}

async function main(): Promise<void> {
  const one = allCases.find((candidate) => candidate.name === name)
  if (!one) throw new Error(`run-case: expected the name of a case, got ${name}`)
  const { options } = parseCommandLine(args)
  await one.run({ ...options, budgetSeconds: Number(seconds) }, reporter)
}

// This process leads a process group, so that its own children can be ended with it.
process.once('disconnect', () => {
  process.once('SIGTERM', () => {})
  process.kill(-process.pid, 'SIGTERM')
  setTimeout(() => process.kill(-process.pid, 'SIGKILL'), 2000)
})
main()
  .catch((error: Error) => send({ kind: 'failed', message: error.message }))
  .then(() => sent)
  .finally(() => process.exit(0))
