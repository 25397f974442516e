// What attention takes of a decode step: steps behind a short and behind long contexts, in alternation. All that grows with the context
// is attention, and it grows in proportion, so the part of it that the short context has already is known too.
import { alternateInTime, goalsApply, type Reporter } from '../support/case'
import { type Contender } from '../support/contenders'
import { attentionShare } from '../support/derived'
import { type BenchOptions } from '../support/options'
import { randomIds } from '../support/random'
import { result } from '../support/statistics'

const skippedTokens = 2
const goalContext = 4096
const shareGoal = { most: 100 / 3 }
const tokensPerSecond = 300 // a guess at prompts, for the time budget alone

export async function compareContexts(contender: Contender, tp: number, options: BenchOptions, report: Reporter): Promise<void> {
  const [shortest, ...longer] = [...options.contexts].sort((a, b) => a - b)
  for (const context of longer) {
    const repeats = Math.min(options.repeats, 5)
    const what = `decode behind ${context} tokens, tp=${tp}`
    if (!report.hasTime(what, context / tokensPerSecond)) continue
    const seconds = new Map([shortest, context].map((tokens) => [tokens, [] as number[]]))
    await alternateInTime(report, what, repeats, [shortest, context], async (tokens, round) => {
      const ids = randomIds(tokens, options.shape.vocabSize, 1000 + round)
      seconds.get(tokens)!.push(await contender.decode(ids, skippedTokens, options.decodeTokens))
    })
    for (const [tokens, steps] of seconds) {
      report.add(result(`decode tp=${tp}, context ${tokens}`, 'tok/s', steps.map((one) => 1 / one)), { metric: 'rate', phase: 'decode', tp, batch: 1, tokens })
    }
    const shares = seconds.get(context)!.map((long, round) => attentionShare(seconds.get(shortest)![round], long, shortest, context))
    const goal = goalsApply(options) && context === goalContext && tp === 2 ? shareGoal : undefined
    report.add(result(`decode tp=${tp}, context ${context}, attention of the step`, '%', shares, goal))
  }
}
