// The boundary: what a step costs apart from its arithmetic, from JavaScript to the ranks and back, on a model that costs next to nothing.
import { type LoopDelay } from '../support/contender-protocol'
import { alternate, withClosing, type Case, type Reporter } from '../support/case'
import { openHeddle, openHeddleProcess, placementOf } from '../support/contenders'
import { type LineProcess } from '../support/line-process'
import { shapeOf } from '../support/model-shapes'
import { type BenchOptions } from '../support/options'
import { randomIds } from '../support/random'
import { result } from '../support/statistics'

const shapeName = 'tiny'
const stepCount = 500
const callCount = 200
const loopTokens = 32

interface Probe {
  name: string
  microseconds(child: LineProcess): Promise<number>
}

const perCall = (child: LineProcess, command: string, count: number): Promise<number> =>
  child.ask<{ secondsPerCall: number }>({ do: command, count }).then(({ secondsPerCall }) => 1e6 * secondsPerCall)

const probes: Probe[] = [
  { name: 'group.info(): two synchronous calls', microseconds: (child) => perCall(child, 'call', 10 * callCount) },
  { name: 'round trip of a recorded step', microseconds: (child) => perCall(child, 'roundTrip', stepCount) },
  {
    name: 'decode step, streamed',
    async microseconds(child) {
      const ids = randomIds(4, shapeOf(shapeName).vocabSize, 1)
      const question = { do: 'decode', ids, skip: 20, count: stepCount }
      return 1e6 * (await child.ask<{ secondsPerToken: number }>(question)).secondsPerToken
    },
  },
  {
    name: 'forward of one token, logits in JavaScript',
    microseconds: (child) => perCall(child, 'forward', callCount),
  },
  {
    name: 'evaluate: record, compile, run, dispose',
    microseconds: (child) => perCall(child, 'evaluate', callCount),
  },
]

export const boundary: Case = {
  name: 'boundary',
  about: 'microseconds of a call and of the smallest step through the addon, by group size; event-loop delay while a model generates',
  async run(options, report) {
    const folder = options.folder(shapeName)
    const children: LineProcess[] = []
    await withClosing(children, async () => {
      for (const size of options.sizes) {
        const child = openHeddleProcess(`heddle tp=${size}`)
        children.push(child)
        await child.ask({ do: 'load', folder, tpSize: size, ...placementOf(options, size) })
        await child.ask({ do: 'open', size, ...placementOf(options, size) })
      }
      for (const probe of probes) {
        const samples = new Map(children.map((child) => [child, [] as number[]]))
        for (const child of children) await probe.microseconds(child)
        await alternate(options.repeats, children, async (child) => {
          samples.get(child)!.push(await probe.microseconds(child))
        })
        for (const [i, size] of options.sizes.entries()) report.add(result(`${probe.name} tp=${size}`, 'µs', samples.get(children[i])!))
      }
    })
    await compareLoops(options, report)
  },
}

// The model of the other cases, whose steps take tens of milliseconds on the ranks: the loop must not notice.
async function compareLoops(options: BenchOptions, report: Reporter): Promise<void> {
  const size = Math.max(...options.sizes)
  if (!report.hasTime('event-loop delay')) return
  const contender = await openHeddle(options.folder(options.shapeName), size, placementOf(options, size))
  try {
    const rows = [randomIds(options.contextTokens, options.shape.vocabSize, 1)]
    const idle: LoopDelay[] = []
    const busy: LoopDelay[] = []
    await contender.generate(rows, loopTokens)
    for (let round = 0; round < options.repeats; round++) {
      const { loopDelay, seconds } = await contender.generate(rows, loopTokens)
      busy.push(loopDelay)
      idle.push(await contender.idle(1000 * seconds))
    }
    for (const [name, delays] of [['with nothing to do', idle], ['while generating', busy]] as const) {
      report.add(result(`event-loop delay ${name} tp=${size}, p50`, 'ms', delays.map(({ p50 }) => p50)))
      report.add(result(`event-loop delay ${name} tp=${size}, p99`, 'ms', delays.map(({ p99 }) => p99)))
      report.add(result(`event-loop delay ${name} tp=${size}, most`, 'ms', delays.map(({ most }) => most)))
    }
  } finally {
    await contender.close()
  }
}
