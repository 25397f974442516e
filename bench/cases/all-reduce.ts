// All-reduce among ranks of this process, 4 KB to 16 MB, by the Node-free program that runs the `local` communicator alone.
import { type Case } from '../support/case'
import { LineProcess } from '../support/line-process'
import { buildNativeProgram } from '../support/native-programs'
import { result } from '../support/statistics'

const kilobyte = 1024
const megabyte = 1024 * kilobyte
const messageBytes = [4 * kilobyte, 16 * kilobyte, 64 * kilobyte, 512 * kilobyte, 2 * megabyte, 8 * megabyte, 16 * megabyte]
const smallMessageGoal = { most: 2 }

interface Answer {
  microseconds: number
  algorithmGigabytesPerSecond: number
  busGigabytesPerSecond: number
}

export const allReduce: Case = {
  name: 'allreduce',
  about: 'microseconds of an all-reduce by message size and group size; results are checked while timing',
  async run(options, report) {
    const program = buildNativeProgram('heddle_all_reduce_bench')
    for (const size of options.sizes.filter((ranks) => ranks > 1)) {
      const child = new LineProcess('all-reduce', program, [String(size)])
      try {
        for (const bytes of messageBytes) {
          const answers: Answer[] = []
          for (let round = 0; round < options.repeats; round++) answers.push(await child.ask<Answer>(String(bytes)))
          const goal = bytes === 4 * kilobyte && size === 2 && options.cores >= 2 ? smallMessageGoal : undefined
          const name = `all-reduce ${named(bytes)} tp=${size}`
          report.add(result(name, 'µs', answers.map((answer) => answer.microseconds), goal))
          if (bytes < megabyte) continue
          report.add(result(`${name} algbw`, 'GB/s', answers.map((answer) => answer.algorithmGigabytesPerSecond)))
          report.add(result(`${name} busbw`, 'GB/s', answers.map((answer) => answer.busGigabytesPerSecond)))
        }
      } finally {
        await child.close()
      }
    }
  },
}

function named(bytes: number): string {
  return bytes >= megabyte ? `${bytes / megabyte} MB` : `${bytes / kilobyte} KB`
}
