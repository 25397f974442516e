// What it costs that results do not depend on the number of ranks: decode and prompts with and without it, in turns. What is timed is compared
// bit for bit between the sizes: the logits of every prompt, every token of every answer, and the logits behind it.
import { alternateInTime, withClosing, type Case, type Reporter } from '../support/case'
import { openHeddle, placementOf, type HeddleContender } from '../support/contenders'
import { type BenchOptions } from '../support/options'
import { randomIds } from '../support/random'
import { ratios, result } from '../support/statistics'

const skippedTokens = 4

interface Side {
  size: number
  reproducible: boolean
  contender: HeddleContender
}

/** The rates of one kind of work on each side, and what came out of it in each round, as text. */
interface Series { side: Side; rates: number[]; outcomes: string[] }

type Work = (contender: HeddleContender, round: number) => Promise<{ rate: number; outcome: string }>

export const reproducible: Case = {
  name: 'reproducible',
  about: 'decode and prompts with and without `reproducible`, compared bit for bit between group sizes',
  async run(options, report) {
    const folder = options.folder(options.shapeName)
    const contenders: HeddleContender[] = []
    await withClosing(contenders, async () => {
      const sides: Side[] = []
      for (const size of options.sizes) {
        for (const reproducible of [false, true]) {
          const contender = await openHeddle(folder, size, placementOf(options, size), reproducible)
          contenders.push(contender)
          sides.push({ size, reproducible, contender })
        }
      }
      const ids = (count: number, seed: number): number[] => randomIds(count, options.shape.vocabSize, seed)
      await compare('decode', sides, options, report, (contender, round) => decode(contender, ids(options.contextTokens, round), options))
      for (const count of options.prefillTokens) {
        if (!report.hasTime(`prefill ${count}`)) continue
        await compare(`prefill ${count}`, sides, options, report, (contender, round) => prefill(contender, ids(count, round)))
      }
    })
  },
}

async function decode(contender: HeddleContender, ids: number[], { decodeTokens }: BenchOptions): ReturnType<Work> {
  const { secondsPerToken, tokenIds } = await contender.decodeTimes(ids, skippedTokens, decodeTokens)
  const { digest } = await contender.logits([...ids, ...tokenIds])
  return { rate: 1 / secondsPerToken, outcome: `${tokenIds.join(' ')} ${digest}` }
}

async function prefill(contender: HeddleContender, ids: number[]): ReturnType<Work> {
  const { seconds, digest } = await contender.logits(ids)
  return { rate: ids.length / seconds, outcome: digest }
}

async function compare(what: string, sides: Side[], options: BenchOptions, report: Reporter, work: Work): Promise<void> {
  const series = sides.map((side): Series => ({ side, rates: [], outcomes: [] }))
  for (const { side } of series) await work(side.contender, 0)
  await alternateInTime(report, what, options.repeats, series, async ({ side, rates, outcomes }, round) => {
    const { rate, outcome } = await work(side.contender, round + 1)
    rates.push(rate)
    outcomes.push(outcome)
  })
  for (const { size, reproducible } of sides) {
    const ratesOf = (mode: boolean): number[] => series.find(({ side }) => side.size === size && side.reproducible === mode)!.rates
    report.add(result(`${what} tp=${size}${reproducible ? ' reproducible' : ''}`, 'tok/s', ratesOf(reproducible)))
    if (reproducible) report.add(result(`${what} tp=${size} reproducible / not`, 'x', ratios(ratesOf(true), ratesOf(false))))
  }
  checkBits(what, series, report)
}

/** Throws where a reproducible side differs from the first: what was timed would not be what is claimed. */
function checkBits(what: string, series: Series[], report: Reporter): void {
  const differing = (mode: boolean): number => {
    const [first, ...others] = series.filter(({ side }) => side.reproducible === mode)
    return first.outcomes.filter((outcome, round) => others.some(({ outcomes }) => outcomes[round] !== outcome)).length
  }
  const rounds = series[0].outcomes.length
  const sizes = [...new Set(series.map(({ side }) => side.size))].join(', ')
  if (differing(true) > 0) throw new Error(`${what}: expected the same bits at sizes ${sizes} with reproducible, got others in ${differing(true)} of ${rounds} rounds`)
  report.note(`${what}: ${rounds} rounds, the same bits at sizes ${sizes} with reproducible; without it others in ${differing(false)}`)
}
