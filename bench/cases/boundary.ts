// The boundary: what a step costs apart from its arithmetic, from JavaScript to the ranks and back, on a model that costs next to nothing.
import { alternate, withClosing, type Case } from '../support/case'
import { openHeddleProcess } from '../support/contenders'
import { type LineProcess } from '../support/line-process'
import { shapeOf } from '../support/model-shapes'
import { randomIds } from '../support/random'
import { result } from '../support/statistics'

const shapeName = 'tiny'
const stepCount = 500
const callCount = 200

interface Probe {
  name: string
  microseconds(child: LineProcess): Promise<number>
}

const probes: Probe[] = [
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
    microseconds: async (child) => 1e6 * (await child.ask<{ secondsPerCall: number }>({ do: 'forward', count: callCount })).secondsPerCall,
  },
  {
    name: 'evaluate: record, compile, run, dispose',
    microseconds: async (child) => 1e6 * (await child.ask<{ secondsPerCall: number }>({ do: 'evaluate', count: callCount })).secondsPerCall,
  },
]

export const boundary: Case = {
  name: 'boundary',
  about: 'microseconds of the smallest step through the addon, by group size',
  async run(options, report) {
    const folder = options.folder(shapeName)
    const children: LineProcess[] = []
    await withClosing(children, async () => {
      for (const size of options.sizes) {
        const child = openHeddleProcess(`heddle tp=${size}`)
        children.push(child)
        await child.ask({ do: 'load', folder, tpSize: size })
        await child.ask({ do: 'open', size })
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
  },
}
