// On GPUs: decode steps of several sequences and prompts, beside transformers, eager and compiled, in alternation in one run.
// npm run bench -- gpu --model-shape qwen3-8b --prefill-tokens 2048,8192
import { alternate, type Case, type Reporter } from '../support/case'
import { openHeddleOnGpu, openTransformersOnGpu, type Contender, type GpuContender } from '../support/contenders'
import { decodeWeightBytes, prefillOperations } from '../support/model-shapes'
import { type BenchOptions } from '../support/options'
import { randomIds } from '../support/random'
import { ratios, result, type Goal } from '../support/statistics'

const batches = [1, 8, 32]
const skippedTokens = 8
const goalShape = 'qwen3-8b'
const decodeGoal = { least: 235 } // tok/s of one sequence on one H200
const eagerGoal = { least: 6 }
const compiledGoal = { least: 1.4 }
const stepGoals = new Map([[8, { most: 1.2 }], [32, { most: 1.5 }]]) // times the step of one sequence
const prefillGoals = new Map([[2048, { least: 520 }], [8192, { least: 560 }]]) // TFLOP/s

interface Way {
  name: string
  decode: GpuContender['decodeBatch']
  steps: number[] // seconds
}

export const gpu: Case = {
  name: 'gpu',
  about: 'on GPUs: decode by batch and prompts, beside transformers eager and compiled',
  async run(options, report) {
    const folder = options.folder(options.shapeName)
    const size = Math.max(options.devices.length, ...options.sizes.slice(0, 1))
    const devices = Array.from({ length: size }, (_, rank) => options.devices[rank % options.devices.length])
    const contenders: Contender[] = []
    try {
      const heddle = await openHeddleOnGpu(folder, devices)
      contenders.push(heddle)
      const ways: Way[] = [{ name: heddle.name, decode: heddle.decodeBatch, steps: [] }]
      try {
        const peer = await openTransformersOnGpu(folder)
        contenders.push(peer)
        ways.push({ name: `${peer.name} eager`, decode: peer.decodeBatch, steps: [] })
        ways.push({ name: `${peer.name} compiled`, decode: peer.compiled, steps: [] })
      } catch (error) {
        report.note(`left out: ${(error as Error).message}`)
      }
      for (const { name, about } of contenders) report.note(`${name}: ${about}`)
      await compareDecode(ways, options, report)
      for (const tokens of options.prefillTokens) await comparePrefill(contenders, tokens, options, report)
    } finally {
      for (const contender of contenders) await contender.close()
    }
  },
}

async function compareDecode(ways: Way[], options: BenchOptions, report: Reporter): Promise<void> {
  let single: number[] | undefined // heddle's step of one sequence
  for (const batch of options.batches ?? batches) {
    for (const way of ways) way.steps = []
    const rows = (seed: number) =>
      Array.from({ length: batch }, (_, row) => randomIds(options.contextTokens, options.shape.vocabSize, seed * batch + row))
    for (const way of ways) await way.decode(rows(0), skippedTokens, options.decodeTokens)
    await alternate(options.repeats, ways, async (way, round) => {
      way.steps.push(await way.decode(rows(round + 1), skippedTokens, options.decodeTokens))
    })
    const [ours, ...theirs] = ways.map(({ name, steps }) => ({ name, rates: steps.map((seconds) => batch / seconds) }))
    const goal = (wanted: Goal | undefined): Goal | undefined => (options.shapeName === goalShape ? wanted : undefined)
    report.add(result(`decode ${batch} ${ours.name}`, 'tok/s', ours.rates, goal(batch === 1 ? decodeGoal : undefined)))
    if (batch === 1) {
      single = ways[0].steps
      const read = single.map((seconds) => decodeWeightBytes(options.shape) / seconds / 1e12)
      report.add(result(`decode ${batch} ${ours.name} weights read`, 'TB/s', read))
    } else if (single) {
      report.add(result(`decode ${batch} ${ours.name}, step / step of 1`, 'x', ratios(ways[0].steps, single), goal(stepGoals.get(batch))))
    }
    for (const { name, rates } of theirs) {
      const wanted = batch === 1 ? (name.endsWith('eager') ? eagerGoal : compiledGoal) : undefined
      report.add(result(`decode ${batch} ${name}`, 'tok/s', rates))
      report.add(result(`decode ${batch} heddle / ${name}`, 'x', ratios(ours.rates, rates), goal(wanted)))
    }
  }
}

async function comparePrefill(contenders: Contender[], tokens: number, options: BenchOptions, report: Reporter): Promise<void> {
  const operations = prefillOperations(options.shape, tokens)
  const rates = contenders.map((): number[] => [])
  const ids = (seed: number) => randomIds(tokens, options.shape.vocabSize, seed)
  for (const contender of contenders) await contender.prefill(ids(0))
  await alternate(options.repeats, contenders, async (contender, round) => {
    const { seconds } = await contender.prefill(ids(round + 1))
    rates[contenders.indexOf(contender)].push(operations / seconds / 1e12)
  })
  contenders.forEach(({ name }, i) => {
    const goal = i === 0 && options.shapeName === goalShape ? prefillGoals.get(tokens) : undefined
    report.add(result(`prefill ${tokens} ${name}`, 'TFLOP/s', rates[i], goal))
    if (i > 0) report.add(result(`prefill ${tokens} heddle / ${name}`, 'x', ratios(rates[0], rates[i])))
  })
}
