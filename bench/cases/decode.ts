// Decode: tokens a second, and the bytes of weights read a second as a share of the read bandwidth measured right before and after.
import { type DecodeAnswer } from '../support/contender-protocol'
import { alternateInTime, goalsApply, type Case, type Reporter } from '../support/case'
import { openHeddle, placementOf, type HeddleContender } from '../support/contenders'
import { decodeWeightBytes } from '../support/model-shapes'
import { openReadBandwidth } from '../support/native-programs'
import { type BenchOptions } from '../support/options'
import { randomIds } from '../support/random'
import { quantile, ratios, result } from '../support/statistics'
import { compareBatches } from './decode-batches'
import { compareContexts } from './decode-contexts'

const skippedTokens = 4
const percentGoal = { least: 90 }
const scalingGoal = { least: 1.8 }

interface Series {
  size: number
  contender: HeddleContender
  tokensPerSecond: number[]
  gaps: number[] // seconds between tokens, over all repeats
  gigabytesPerSecond: number[]
  readGigabytesPerSecond: number[]
}

export const decode: Case = {
  name: 'decode',
  about: 'tokens/s by group size, context and number of sequences; of one sequence also its share of the read bandwidth',
  weight: 2,
  async run(options, report) {
    const folder = options.folder(options.shapeName)
    const series: Series[] = []
    try {
      for (const size of options.sizes) series.push(await open(folder, size, options))
      if (options.device === 'cuda') report.skip('share of the read bandwidth', "the program beside a decode reads the CPU's memory; gemm measures the GPU's")
      await measureAll(series, options, report)
      addAll(series, options, report)
      // the largest group first: it is what users run
      for (const { contender, size } of [...series].reverse()) {
        await compareBatches(contender, size, options, report)
        await compareContexts(contender, size, options, report)
      }
    } finally {
      for (const { contender } of series) await contender.close()
    }
  },
}

async function measureAll(series: Series[], options: BenchOptions, report: Reporter): Promise<void> {
  const bandwidth = options.device === 'cpu' ? await openReadBandwidth(options.cores) : undefined // of the CPU's memory
  try {
    for (const one of series) await measure(one, options, 0)
    await alternateInTime(report, 'decode', options.repeats, series, async (one, round) => {
      const before = await bandwidth?.measure(one.size)
      const { secondsPerToken, gaps } = await measure(one, options, round + 1)
      const after = await bandwidth?.measure(one.size)
      one.tokensPerSecond.push(1 / secondsPerToken)
      one.gaps.push(...gaps)
      one.gigabytesPerSecond.push(decodeWeightBytes(options.shape) / secondsPerToken / 1e9)
      if (before !== undefined && after !== undefined) one.readGigabytesPerSecond.push((before + after) / 2)
    })
  } finally {
    await bandwidth?.close()
  }
}

function addAll(series: Series[], options: BenchOptions, report: Reporter): void {
  for (const one of series) {
    const facts = { metric: 'rate', phase: 'decode', tp: one.size, batch: 1, tokens: options.contextTokens } as const
    report.add(result(`decode tp=${one.size}`, 'tok/s', one.tokensPerSecond), facts)
    for (const percentile of [50, 99]) {
      report.add(result(`decode tp=${one.size} p${percentile} of a token`, 'ms', [1000 * quantile(one.gaps, percentile / 100)]))
    }
    report.add(result(`decode tp=${one.size} weights read`, 'GB/s', one.gigabytesPerSecond))
    if (one.readGigabytesPerSecond.length === 0) continue
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
    if (one.readGigabytesPerSecond.length === 0) continue
    // What the memory itself gains from more threads: no decode can scale further.
    report.add(result(`read bandwidth ${name}`, 'x', ratios(one.readGigabytesPerSecond, against.readGigabytesPerSecond)))
  }
}

async function open(folder: string, size: number, options: BenchOptions): Promise<Series> {
  const contender = await openHeddle(folder, size, placementOf(options, size))
  return { size, contender, tokensPerSecond: [], gaps: [], gigabytesPerSecond: [], readGigabytesPerSecond: [] }
}

function measure({ contender }: Series, options: BenchOptions, seed: number): Promise<DecodeAnswer> {
  const ids = randomIds(options.contextTokens, options.shape.vocabSize, seed)
  return contender.decodeTimes(ids, skippedTokens, options.decodeTokens)
}
