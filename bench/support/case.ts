// A bench case: what it measures, told as data to run.ts, which owns printing and the file. Cases assert nothing; tests do.
import { type BenchOptions } from './options'
import { type Facts } from './facts'
import { type Result } from './statistics'

/** Figures that belong side by side: printed with aligned columns, kept in the file, shown in the report. */
export interface Table {
  title: string
  columns: { key: string; title: string; unit?: string }[]
  rows: Record<string, number | string | undefined>[]
}

export interface Reporter {
  note(text: string): void
  add(result: Result, facts?: Facts): void
  table(table: Table): void
  /** Says that something cannot be measured here and why; not a failure. */
  skip(what: string, why: string): void
  /**
   * Whether the case's time budget still allows `what`, which takes about `seconds`; where it does not, says that it was trimmed. Always
   * true with --full, and for one short thing that nothing was measured before.
   */
  hasTime(what: string, seconds?: number): boolean
}

export interface Case {
  name: string
  about: string
  weight?: number // its share of the run's time beside the others; 1 where absent
  run(options: BenchOptions, report: Reporter): Promise<void>
}

// Goals hold for the shape they were set for; a smaller one only shows that the bench works.
export function goalsApply(options: BenchOptions): boolean {
  return options.shapeName === 'qwen3-0.6b' && options.device === 'cpu'
}

// Every other round runs backwards, so that no contender always follows the same one.
export async function alternate<T>(
  repeats: number,
  contenders: readonly T[],
  turn: (contender: T, round: number) => Promise<void>,
): Promise<void> {
  for (let round = 0; round < repeats; round++) {
    const order = round % 2 === 0 ? contenders : [...contenders].reverse()
    for (const contender of order) await turn(contender, round)
  }
}

// The same, for as many whole rounds as the time budget allows; the first always.
export async function alternateInTime<T>(
  report: Reporter,
  what: string,
  repeats: number,
  contenders: readonly T[],
  turn: (contender: T, round: number) => Promise<void>,
): Promise<void> {
  for (let round = 0; round < repeats; round++) {
    if (round > 0 && !report.hasTime(`${what}, repeats from ${round + 1} on`)) return
    const order = round % 2 === 0 ? contenders : [...contenders].reverse()
    for (const contender of order) await turn(contender, round)
  }
}

// Runs `body` with resources that are closed whatever happens.
export async function withClosing<T extends { close(): Promise<void> }>(resources: T[], body: () => Promise<void>): Promise<void> {
  try {
    await body()
  } finally {
    for (const resource of resources) await resource.close()
  }
}
