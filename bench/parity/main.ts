// `npm run compare-with-transformers`: the same checkpoints through transformers and heddle; models of the caller's, or random ones.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseCommandLine, usage, type CommandLine } from './command-line'
import { compareModel, type ModelParity } from './compare-model'
import { Reference } from './reference'
import { modelText, summaryText } from './report'

const differ = 1
const wrongUsage = 2

interface Outcome extends ModelParity {
  /** of a random checkpoint: what was thrown */
  fields?: Record<string, unknown>
}

class Comparison {
  readonly outcomes: Outcome[] = []

  constructor(private readonly commandLine: CommandLine, private readonly reference: Reference) {}

  async folders(): Promise<void> {
    for (const folder of this.commandLine.folders) this.add(folder, await compareModel(folder, this.reference, this.commandLine.options))
  }

  /** What does not agree stays on disk; every other checkpoint goes. */
  async random(): Promise<void> {
    const { random: { count, first, families }, options } = this.commandLine
    for (let number = first; number < first + count; number++) {
      const folder = mkdtempSync(join(tmpdir(), 'heddle-random-model-'))
      const family = families[number % families.length]
      const { fields, fileType } = await this.reference.randomModel(family, `${options.seed} ${number}`, folder)
      const outcome = await compareModel(folder, this.reference, { ...options, seed: options.seed + number })
      this.add(`#${number} ${family}`, { ...outcome, fields: { ...fields, fileType } })
      if (outcome.agrees) rmSync(folder, { recursive: true, force: true })
      else this.print(`  kept in ${folder}\n  ${JSON.stringify({ ...fields, fileType })}`)
    }
  }

  private add(name: string, outcome: Outcome): void {
    this.outcomes.push(outcome)
    this.print(modelText(name, outcome))
  }

  print(text: string): void {
    if (!this.commandLine.json) process.stdout.write(`${text}\n`)
  }
}

async function main(args: string[]): Promise<number> {
  let commandLine: CommandLine
  try {
    commandLine = parseCommandLine(args)
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n${usage}\n`)
    return wrongUsage
  }
  if (commandLine.help) {
    process.stdout.write(`${usage}\n`)
    return 0
  }
  return compare(commandLine)
}

async function compare(commandLine: CommandLine): Promise<number> {
  const reference = new Reference()
  try {
    const comparison = new Comparison(commandLine, reference)
    const versions = await reference.about()
    comparison.print(`transformers ${versions.transformers}, torch ${versions.torch}; ${commandLine.options.dtype}`)
    await comparison.folders()
    await comparison.random()
    const { outcomes } = comparison
    comparison.print(summaryText(outcomes))
    if (commandLine.json) process.stdout.write(`${JSON.stringify({ versions, dtype: commandLine.options.dtype, models: outcomes }, null, 2)}\n`)
    const named = outcomes.slice(0, commandLine.folders.length) // dice may throw what transformers does not run; a model that was named must run
    return outcomes.every(({ agrees }) => agrees) && !named.some(({ skipped }) => skipped) ? 0 : differ
  } finally {
    await reference.close()
  }
}

main(process.argv.slice(2)).then(
  (status) => { process.exitCode = status },
  (error: Error) => {
    process.stderr.write(`compare-with-transformers: ${error.message}\n`)
    process.exitCode = differ
  },
)
