// Prefill: prompt tokens a second, from the call to the first token, by prompt length and group size.
import { alternateInTime, withClosing, type Case } from '../support/case'
import { openHeddle, placementOf, type Contender } from '../support/contenders'
import { randomIds } from '../support/random'
import { ratios, result } from '../support/statistics'

export const prefill: Case = {
  name: 'prefill',
  about: 'prompt tokens/s to the first token, by prompt length and group size',
  async run(options, report) {
    const folder = options.folder(options.shapeName)
    const contenders: Contender[] = []
    await withClosing(contenders, async () => {
      for (const size of options.sizes) contenders.push(await openHeddle(folder, size, placementOf(options, size)))
      for (const count of options.prefillTokens) {
        if (!report.hasTime(`prefill ${count}`)) continue
        const series = new Map(contenders.map((contender) => [contender, [] as number[]]))
        const ids = (seed: number) => randomIds(count, options.shape.vocabSize, seed)
        for (const contender of contenders) await contender.prefill(ids(0))
        await alternateInTime(report, `prefill ${count}`, options.repeats, contenders, async (contender, round) => {
          const { seconds } = await contender.prefill(ids(round + 1))
          series.get(contender)!.push(count / seconds)
        })
        const [first, ...others] = options.sizes.map((size, i) => ({ size, rates: series.get(contenders[i])! }))
        for (const { size, rates } of [first, ...others]) {
          const facts = { metric: 'rate', phase: 'prefill', tp: size, batch: 1, tokens: count } as const
          report.add(result(`prefill ${count} tp=${size}`, 'tok/s', rates), facts)
          report.add(result(`prefill ${count} tp=${size} time to first token`, 'ms', rates.map((rate) => (1000 * count) / rate)))
        }
        for (const { size, rates } of others) {
          report.add(result(`prefill ${count} tp=${size} / tp=${first.size}`, 'x', ratios(rates, first.rates)))
        }
      }
    })
  },
}
