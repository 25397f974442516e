// Generate: answers from prompt to last token as a server sees them: several at once, streamed through the public API of one process.
import { alternate, withClosing, type Case, type Reporter } from '../support/case'
import { openHeddle, placementOf, type HeddleContender } from '../support/contenders'
import { type BenchOptions } from '../support/options'
import { randomIds } from '../support/random'
import { quantile, result } from '../support/statistics'
import { type GenerateAnswer } from '../support/contender-protocol'

const defaultBatches = [1, 2, 4, 8]
const idleMilliseconds = 1000

export const generate: Case = {
  name: 'generate',
  about: 'whole answers, several at once: time to first token, p50 and p99 of a token, tokens/s, event-loop delay',
  async run(options, report) {
    const folder = options.folder(options.shapeName)
    const contenders: HeddleContender[] = []
    await withClosing(contenders, async () => {
      for (const size of [...options.sizes].sort((a, b) => b - a)) {
        const contender = await openHeddle(folder, size, placementOf(options, size))
        contenders.push(contender)
        await measureSize(contender, size, options, report)
      }
    })
  },
}

async function measureSize(contender: HeddleContender, tp: number, options: BenchOptions, report: Reporter): Promise<void> {
  const batches = options.batches ?? defaultBatches
  const answers = new Map(batches.map((batch) => [batch, [] as GenerateAnswer[]]))
  const ask = (batch: number, seed: number) => {
    const rows = Array.from({ length: batch }, (_, row) => randomIds(options.contextTokens, options.shape.vocabSize, 64 * seed + row))
    return contender.generate(rows, options.decodeTokens + 1)
  }
  await ask(1, 0)
  for (let round = 0; round < options.repeats; round++) {
    if (!report.hasTime(`generate tp=${tp}, repeat ${round + 1}`)) break
    await alternate(1, batches, async (batch) => { answers.get(batch)!.push(await ask(batch, round + 1)) })
  }
  for (const [batch, some] of answers) addAll(some, batch, tp, options, report)
  const { p50, p99, most } = await contender.idle(idleMilliseconds)
  const delays = [['p50', p50], ['p99', p99], ['most', most]] as const
  report.note(`event loop of tp=${tp} with nothing to do: ${delays.map(([name, ms]) => `${name} ${ms.toFixed(2)} ms`).join(', ')}`)
}

function addAll(answers: GenerateAnswer[], batch: number, tp: number, options: BenchOptions, report: Reporter): void {
  if (answers.length === 0) return
  const name = `generate tp=${tp}, ${batch} at once`
  const tokens = batch * (options.decodeTokens + 1)
  const gaps = answers.flatMap((answer) => answer.gaps)
  report.add(result(name, 'tok/s', answers.map(({ seconds }) => tokens / seconds)),
    { metric: 'rate', phase: 'generate', tp, batch, tokens: options.contextTokens })
  report.add(result(`${name}, time to first token`, 'ms', answers.flatMap(({ firstTokenSeconds }) => firstTokenSeconds.map((one) => 1000 * one))))
  for (const percentile of [50, 99]) report.add(result(`${name}, p${percentile} of a token`, 'ms', [1000 * quantile(gaps, percentile / 100)]))
  report.add(result(`${name}, p99 of event-loop delay`, 'ms', answers.map(({ loopDelay }) => loopDelay.p99)))
}
