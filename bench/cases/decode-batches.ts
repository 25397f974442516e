// Several sequences in one decode step: the weights are read once for all of them.
import { alternateInTime, goalsApply, type Reporter } from '../support/case'
import { type HeddleContender } from '../support/contenders'
import { type BenchOptions } from '../support/options'
import { randomIds } from '../support/random'
import { ratios, result } from '../support/statistics'

const defaultBatches = [1, 2, 4, 8]
const skippedTokens = 4
const goalBatch = 8
const goal = { least: 5 }

export async function compareBatches(contender: HeddleContender, tp: number, options: BenchOptions, report: Reporter): Promise<void> {
  const batches = options.batches ?? defaultBatches
  if (!report.hasTime(`decode of ${batches.join(', ')} sequences, tp=${tp}`)) return
  const rates = new Map(batches.map((batch) => [batch, [] as number[]]))
  const measure = async (batch: number, seed: number) => {
    const rows = Array.from({ length: batch }, (_, row) => randomIds(options.contextTokens, options.shape.vocabSize, seed * 64 + row))
    return batch / (await contender.decodeBatch(rows, skippedTokens, options.decodeTokens))
  }
  await measure(batches[batches.length - 1], 0)
  await alternateInTime(report, `decode of ${batches.join(', ')} sequences, tp=${tp}`, options.repeats, batches, async (batch, round) => { rates.get(batch)!.push(await measure(batch, round + 1)) })
  for (const [batch, samples] of rates) {
    const facts = { metric: 'rate', phase: 'decode', tp, batch, tokens: options.contextTokens } as const
    report.add(result(`decode tp=${tp}, ${batch} sequences`, 'tok/s', samples), facts)
  }
  const single = rates.get(1)
  for (const [batch, samples] of rates) {
    if (batch === 1 || !single) continue
    const judged = goalsApply(options) && tp === 2 && batch === goalBatch
    report.add(result(`decode tp=${tp}, ${batch} sequences / 1`, 'x', ratios(samples, single), judged ? goal : undefined))
  }
}
