// Decode: tokens a second, and the bytes of weights read a second as a share of the read bandwidth measured right before and after.
import { alternate, goalsApply, type Case } from '../support/case'
import { openHeddle, type Contender } from '../support/contenders'
import { decodeWeightBytes } from '../support/model-shapes'
import { openReadBandwidth } from '../support/native-programs'
import { type BenchOptions } from '../support/options'
import { randomIds } from '../support/random'
import { ratios, result } from '../support/statistics'

const skippedTokens = 4
const percentGoal = { least: 85 }
const scalingGoal = { least: 1.75 }

interface Series {
  size: number
  contender: Contender
  tokensPerSecond: number[]
  gigabytesPerSecond: number[]
  readGigabytesPerSecond: number[]
}

export const decode: Case = {
  name: 'decode',
  about: 'tokens/s of one sequence and its share of the read bandwidth, by group size',
  async run(options, report) {
    const folder = options.folder(options.shapeName)
    const bandwidth = await openReadBandwidth(options.cores)
    const series: Series[] = []
    try {
      for (const size of options.sizes) series.push(await open(folder, size))
      for (const one of series) await measure(one, options, 0)
      await alternate(options.repeats, series, async (one, round) => {
        const before = await bandwidth.measure(one.size)
        const secondsPerToken = await measure(one, options, round + 1)
        const after = await bandwidth.measure(one.size)
        one.tokensPerSecond.push(1 / secondsPerToken)
        one.gigabytesPerSecond.push(decodeWeightBytes(options.shape) / secondsPerToken / 1e9)
        one.readGigabytesPerSecond.push((before + after) / 2)
      })
    } finally {
      for (const { contender } of series) await contender.close()
      await bandwidth.close()
    }
    for (const one of series) {
      report.add(result(`decode tp=${one.size}`, 'tok/s', one.tokensPerSecond))
      report.add(result(`decode tp=${one.size} weights read`, 'GB/s', one.gigabytesPerSecond))
      report.add(result(`read bandwidth, ${Math.min(one.size, options.cores)} threads`, 'GB/s', one.readGigabytesPerSecond))
      const percent = ratios(one.gigabytesPerSecond, one.readGigabytesPerSecond).map((ratio) => 100 * ratio)
      const judged = goalsApply(options) && one.size === 2 && options.cores >= 2
      report.add(result(`decode tp=${one.size} of read bandwidth`, '%', percent, judged ? percentGoal : undefined))
    }
    for (const one of series.slice(1)) {
      const against = series[0]
      const name = `tp=${one.size} / tp=${against.size}`
      const judged = goalsApply(options) && one.size === 2 && against.size === 1 && options.cores >= 2
      report.add(result(`decode ${name}`, 'x', ratios(one.tokensPerSecond, against.tokensPerSecond), judged ? scalingGoal : undefined))
      // What the memory itself gains from more threads: no decode can scale further.
      report.add(result(`read bandwidth ${name}`, 'x', ratios(one.readGigabytesPerSecond, against.readGigabytesPerSecond)))
    }
  },
}

async function open(folder: string, size: number): Promise<Series> {
  const contender = await openHeddle(folder, size)
  return { size, contender, tokensPerSecond: [], gigabytesPerSecond: [], readGigabytesPerSecond: [] }
}

function measure({ contender }: Series, options: BenchOptions, seed: number): Promise<number> {
  const ids = randomIds(options.contextTokens, options.shape.vocabSize, seed)
  return contender.decode(ids, skippedTokens, options.decodeTokens)
}
