// Peers: the same synthetic checkpoint, the same number of threads, in alternation: heddle, transformers, node-llama-cpp.
// A ratio is taken pair by pair within a round. A missing peer is reported and the others run.
import { alternate, goalsApply, type Case, type Reporter } from '../support/case'
import { openHeddle, openLlamaCpp, openTransformers, type Contender } from '../support/contenders'
import { describeMachine } from '../support/machine'
import { type BenchOptions } from '../support/options'
import { randomIds } from '../support/random'
import { ratios, result, type Goal } from '../support/statistics'

const skippedTokens = 4
const pauseMilliseconds = 100 // for the threads of the contender before to stop spinning

interface Entry {
  contender: Contender
  decodes: { name: string; decode: Contender['decode'] }[] // ways to decode; the best of them counts
}

export const peers: Case = {
  name: 'peers',
  about: 'heddle beside transformers and node-llama-cpp on the same weights and threads (bench/peers/install.sh)',
  async run(options, report) {
    const threads = Math.max(...options.sizes)
    const entries: Entry[] = []
    try {
      await openAll(entries, threads, options, report)
      await compareFirstTokens(entries, options, report)
      for (const count of options.prefillTokens) await comparePrefill(entries, count, options, report)
      await compareDecode(entries, options, report)
    } finally {
      for (const { contender } of entries) await contender.close()
    }
  },
}

async function openAll(entries: Entry[], threads: number, options: BenchOptions, report: Reporter): Promise<void> {
  const folder = options.folder(options.shapeName)
  const contextSize = Math.max(...options.prefillTokens, options.contextTokens) + options.decodeTokens + 64
  entries.push(plain(await openHeddle(folder, threads)))
  const openers = [
    async () => withGenerate(await openTransformers(folder, threads)),
    async () => plain(await openLlamaCpp(folder, threads, contextSize)),
  ]
  for (const open of openers) {
    try {
      entries.push(await open())
    } catch (error) {
      report.note(`left out: ${(error as Error).message}`)
    }
  }
  for (const { contender } of entries) report.note(`${contender.name}: ${contender.about}, ${threads} threads`)
}

function plain(contender: Contender): Entry {
  return { contender, decodes: [{ name: contender.name, decode: contender.decode }] }
}

function withGenerate(contender: Contender & { generate: Contender['decode'] }): Entry {
  return {
    contender,
    decodes: [
      { name: `${contender.name} forward`, decode: contender.decode },
      { name: `${contender.name} generate`, decode: contender.generate },
    ],
  }
}

// All contenders must run the same model. bfloat16 may flip a near tie, so agreement is shown, not required.
async function compareFirstTokens(entries: Entry[], options: BenchOptions, report: Reporter): Promise<void> {
  const agreed = entries.slice(1).map(() => 0)
  for (let round = 0; round < options.repeats; round++) {
    const ids = randomIds(options.contextTokens, options.shape.vocabSize, 100 + round)
    const [ours, ...theirs] = await inTurn(entries, ({ contender }) => contender.prefill(ids))
    theirs.forEach(({ token }, i) => { agreed[i] += Number(token === ours.token) })
  }
  agreed.forEach((count, i) => report.note(`first token as ${entries[i + 1].contender.name}: ${count} of ${options.repeats} prompts`))
}

async function comparePrefill(entries: Entry[], count: number, options: BenchOptions, report: Reporter): Promise<void> {
  const rates = new Map(entries.map((entry) => [entry, [] as number[]]))
  const ids = (seed: number) => randomIds(count, options.shape.vocabSize, seed)
  for (const { contender } of entries) await contender.prefill(ids(0))
  await alternate(options.repeats, entries, async (entry, round) => {
    await pause()
    const { seconds } = await entry.contender.prefill(ids(round + 1))
    rates.get(entry)!.push(count / seconds)
  })
  const all = entries.map((entry) => ({ name: entry.contender.name, rates: rates.get(entry)! }))
  for (const { name, rates } of all) report.add(result(`prefill ${count} ${name}`, 'tok/s', rates))
  for (const { name, rates } of all.slice(1)) {
    report.add(result(`prefill ${count} heddle / ${name}`, 'x', ratios(all[0].rates, rates), prefillGoal(name, options)))
  }
}

async function compareDecode(entries: Entry[], options: BenchOptions, report: Reporter): Promise<void> {
  const ways = entries.flatMap((entry) => entry.decodes.map((way) => ({ ...way, peer: entry.contender.name, rates: [] as number[] })))
  const measure = (way: (typeof ways)[number], seed: number) =>
    way.decode(randomIds(options.contextTokens, options.shape.vocabSize, seed), skippedTokens, options.decodeTokens)
  for (const way of ways) await measure(way, 0)
  await alternate(options.repeats, ways, async (way, round) => {
    await pause()
    way.rates.push(1 / (await measure(way, round + 1)))
  })
  for (const { name, rates } of ways) report.add(result(`decode ${name}`, 'tok/s', rates))
  for (const { contender } of entries.slice(1)) {
    const theirs = ways.filter((way) => way.peer === contender.name)
    const best = ways[0].rates.map((_, round) => Math.max(...theirs.map((way) => way.rates[round])))
    report.add(result(`decode heddle / ${contender.name}`, 'x', ratios(ways[0].rates, best), decodeGoal(contender.name, options)))
  }
}

function prefillGoal(peer: string, options: BenchOptions): Goal | undefined {
  if (!goalsApply(options)) return undefined
  if (peer === 'transformers') return { least: 1.1 }
  return describeMachine().isa.includes('amx_bf16') ? { least: 5 } : undefined // set for AMX, which that peer does not use
}

function decodeGoal(peer: string, options: BenchOptions): Goal | undefined {
  return goalsApply(options) && peer === 'node-llama-cpp' ? { least: 1.5 } : undefined
}

async function inTurn<T, R>(items: readonly T[], act: (item: T) => Promise<R>): Promise<R[]> {
  const answers: R[] = []
  for (const item of items) answers.push(await act(item))
  return answers
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, pauseMilliseconds))
}
