// Peers: the same synthetic checkpoint, the same number of threads, in alternation: heddle, transformers (eager, compiled, and its own tensor
// parallelism), node-llama-cpp (bfloat16 and q8_0), transformers.js (float32). A ratio is taken pair by pair within a round. A missing peer is reported, the others run.
// HEDDLE_CPU_ISA=avx2 or avx512 holds heddle and node-llama-cpp to the same instructions.
import { alternateInTime, goalsApply, type Case, type Reporter } from '../support/case'
import {
  compileSeconds, openHeddle, openLlamaCpp, openTransformers, openTransformersJs, openTransformersRanks, type Contender, type GgufKind, type HeddleContender,
} from '../support/contenders'
import { type BenchOptions } from '../support/options'
import { randomIds } from '../support/random'
import { ratios, result, type Goal } from '../support/statistics'

const skippedTokens = 4
const pauseMilliseconds = 100 // for the threads of the contender before to stop spinning

// The build of node-llama-cpp's CPU backend that uses what a restricted heddle uses.
const llamaVariants: Record<string, string> = { avx2: 'haswell', avx512: 'skylakex' }
const judgedPrefill = 512
const llamaPrefillGoals: Record<string, Goal> = { amx: { least: 7 }, avx512bf16: { least: 2 }, avx512: { least: 2 }, avx2: { least: 1.2 } }

/** One line of a comparison: a contender in one way of running it. */
interface Way {
  name: string
  /** several ways of one contender that share a name: the best of each round counts */
  decodes: Contender['decode'][]
  prefill?: Contender['prefill']
  decodeGoal?: Goal
  prefillGoal?: Goal
}

const openSeconds = 40 // until all contenders have loaded their weights

export const peers: Case = {
  name: 'peers',
  about: 'heddle beside transformers and node-llama-cpp on the same weights and threads (bench/peers/install.sh)',
  weight: 6,
  async run(options, report) {
    if (!report.hasTime('all of it', openSeconds)) return
    const opened: Contender[] = []
    try {
      const ways = await openAll(opened, options, report)
      await compareFirstTokens(ways, options, report)
      await compareDecode(ways, options, report)
      for (const count of [...options.prefillTokens].sort((a, b) => b - a)) await comparePrefill(ways, count, options, report)
    } finally {
      for (const contender of opened) await contender.close()
    }
  },
}

async function openAll(opened: Contender[], options: BenchOptions, report: Reporter): Promise<Way[]> {
  const folder = options.folder(options.shapeName)
  const threads = Math.max(...options.sizes)
  const heddle = await openHeddle(folder, threads)
  opened.push(heddle)
  report.note(`${heddle.name}: ${heddle.about}, ${threads} threads`)
  const ways: Way[] = [{ name: heddle.name, decodes: [heddle.decode], prefill: heddle.prefill }]
  for (const [name, open] of Object.entries(openersOf(heddle, folder, threads, options, report))) {
    try {
      const { contender, ways: more } = await open()
      opened.push(contender)
      ways.push(...more)
      report.note(`${contender.name}: ${contender.about}, ${threads} threads`)
    } catch (error) {
      report.skip(name, (error as Error).message)
    }
  }
  return ways
}

type Opener = () => Promise<{ contender: Contender; ways: Way[] }>

function openersOf(heddle: HeddleContender, folder: string, threads: number, options: BenchOptions, report: Reporter): Record<string, Opener> {
  const { isa } = heddle.loaded.info
  const variant = process.env.HEDDLE_CPU_ISA ? llamaVariants[isa] : undefined
  const contextSize = Math.max(...options.prefillTokens, options.contextTokens) + options.decodeTokens + 64
  const goals = goalsApply(options)
  const llama = (kind: GgufKind): Opener => async () => {
    const contender = await openLlamaCpp(folder, threads, contextSize, kind, variant)
    const judged = goals && kind === 'bf16'
    return { contender, ways: [{
      name: contender.name, decodes: [contender.decode], prefill: contender.prefill,
      ...(judged && { decodeGoal: { least: 1.6 }, prefillGoal: llamaPrefillGoals[isa] }),
    }] }
  }
  const llamas = { 'node-llama-cpp': llama('bf16'), 'node-llama-cpp q8_0': llama('q8_0') }
  if (process.env.HEDDLE_CPU_ISA) {
    report.skip('transformers, transformers.js', `only node-llama-cpp is held to ${isa} here`)
    return llamas
  }
  return {
    transformers: () => transformersWays(folder, threads, goals, report),
    'transformers tp': () => transformersRanks(folder, threads, goals),
    ...llamas,
    async 'transformers.js'() {
      const contender = await openTransformersJs(folder, threads)
      return { contender, ways: [{ name: contender.name, decodes: [contender.decode], prefill: contender.prefill }] }
    },
  }
}

async function transformersWays(folder: string, threads: number, goals: boolean, report: Reporter): ReturnType<Opener> {
  const contender = await openTransformers(folder, threads)
  const decodeGoal = goals ? { least: 2.6 } : undefined
  const ways: Way[] = [{
    name: 'transformers', decodes: [contender.decode, contender.generate], prefill: contender.prefill, decodeGoal,
    ...(goals && { prefillGoal: { least: 1.3 } }),
  }]
  if (report.hasTime('transformers compiled', compileSeconds())) ways.push({ name: 'transformers compiled', decodes: [contender.compiled], decodeGoal })
  return { contender, ways }
}

async function transformersRanks(folder: string, ranks: number, goals: boolean): ReturnType<Opener> {
  if (ranks < 2) throw new Error('needs more than one thread')
  const contender = await openTransformersRanks(folder, ranks)
  return { contender, ways: [{
    name: contender.name, decodes: [contender.decode, contender.generate], prefill: contender.prefill, ...(goals && { decodeGoal: { least: 4.5 } }),
  }] }
}

// All contenders must run the same model. bfloat16 may flip a near tie, so agreement is shown, not required.
async function compareFirstTokens(ways: Way[], options: BenchOptions, report: Reporter): Promise<void> {
  const able = ways.filter((way) => way.prefill)
  const agreed = able.map(() => 0)
  for (let round = 0; round < options.repeats; round++) {
    const ids = randomIds(options.contextTokens, options.shape.vocabSize, 100 + round)
    const tokens: number[] = []
    for (const way of able) tokens.push((await way.prefill!(ids)).token)
    tokens.forEach((token, i) => { agreed[i] += Number(token === tokens[0]) })
  }
  agreed.slice(1).forEach((count, i) => report.note(`first token as ${able[i + 1].name}: ${count} of ${options.repeats} prompts`))
}

async function compareDecode(ways: Way[], options: BenchOptions, report: Reporter): Promise<void> {
  const best = async (way: Way, seed: number) => {
    const ids = randomIds(options.contextTokens, options.shape.vocabSize, seed)
    const rates: number[] = []
    for (const decode of way.decodes) {
      await pause()
      rates.push(1 / (await decode(ids, skippedTokens, options.decodeTokens)))
    }
    return Math.max(...rates)
  }
  await compare('decode', ways, best, (way) => way.decodeGoal, options, report)
}

async function comparePrefill(ways: Way[], count: number, options: BenchOptions, report: Reporter): Promise<void> {
  const rate = async (way: Way, seed: number) => {
    await pause()
    return count / (await way.prefill!(randomIds(count, options.shape.vocabSize, seed))).seconds
  }
  const goal = (way: Way) => (count === judgedPrefill ? way.prefillGoal : undefined)
  await compare(`prefill ${count}`, ways.filter((way) => way.prefill), rate, goal, options, report)
}

async function compare(
  phase: string, all: Way[], measure: (way: Way, seed: number) => Promise<number>, goal: (way: Way) => Goal | undefined,
  options: BenchOptions, report: Reporter,
): Promise<void> {
  const ways = await warmedUp(phase, all, measure, report)
  if (!ways) return
  const rates = new Map(ways.map((way) => [way, [] as number[]]))
  await alternateInTime(report, phase, options.repeats, ways, async (way, round) => { rates.get(way)!.push(await measure(way, round + 1)) })
  const [ours, ...theirs] = ways
  for (const way of ways) report.add(result(`${phase} ${way.name}`, 'tok/s', rates.get(way)!), { metric: 'peer', phase, contender: way.name })
  for (const way of theirs) {
    report.add(result(`${phase} heddle / ${way.name}`, 'x', ratios(rates.get(ours)!, rates.get(way)!), goal(way)),
      { metric: 'peer ratio', phase, contender: way.name })
  }
}

/** Those that can: the first run of a contender may compile, and fail. */
async function warmedUp(
  phase: string, all: Way[], measure: (way: Way, seed: number) => Promise<number>, report: Reporter,
): Promise<Way[] | undefined> {
  if (!report.hasTime(phase)) return undefined
  const ways: Way[] = []
  for (const way of all) {
    try {
      await measure(way, 0)
      ways.push(way)
    } catch (error) {
      if (ways.length === 0) throw error
      report.skip(`${phase} ${way.name}`, (error as Error).message)
    }
  }
  return ways
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, pauseMilliseconds))
}
