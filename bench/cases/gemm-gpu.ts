// The linears of an 8B model on a GPU, through the Node-free bench of the CUDA backend, beside cuBLASLt's.
import { spawnSync } from 'node:child_process'
import { cudaInfo } from 'heddle'
import { type Reporter } from '../support/case'
import { linearBytes, linearOperations, linearsOf, shapeOf } from '../support/model-shapes'
import { buildNativeProgram } from '../support/native-programs'
import { type BenchOptions } from '../support/options'
import { result } from '../support/statistics'

const model = 'qwen3-8b' // the shape that the program is written for
const activationBytes = 2

interface Line {
  tp: number
  rows: number
  what: string // a linear, or the layer of four as they depend on each other
  us: number
  cublaslt_us: number // 0: cuBLASLt was not found
  read_bandwidth: number // bytes a second
}

export async function gemmOnGpu(options: BenchOptions, report: Reporter): Promise<void> {
  const { usable, reason, devices } = cudaInfo(false)
  if (!usable) return report.skip('linears on a GPU', reason)
  if (!options.layerShapes.includes(model)) return report.skip('linears on a GPU', `they are measured for ${model} alone`)
  if (!report.hasTime('linears on a GPU')) return
  const lines = linesOfProgram()
  const device = devices[0].name
  report.add(result(`read bandwidth, ${device}`, 'B/s', [lines[0].read_bandwidth]), { metric: 'ceiling', device, of: 'memory' })
  for (const line of lines) addLine(line, device, report)
}

function linesOfProgram(): Line[] {
  const done = spawnSync(buildNativeProgram('heddle_cuda_linear_bench'), ['json'], { encoding: 'utf8' })
  if (done.status !== 0) throw new Error(`linears on a GPU: ${done.error?.message ?? done.stderr.trim()}`)
  return done.stdout.split('\n').filter(Boolean).map((line) => JSON.parse(line) as Line)
}

function addLine({ tp, rows, what, us, cublaslt_us }: Line, device: string, report: Reporter): void {
  const linear = linearsOf(shapeOf(model), tp).find(({ name }) => name === what)
  if (!linear) return
  const operations = linearOperations(linear, rows)
  const intensity = operations / linearBytes(linear, rows, activationBytes)
  report.add(result(`${device} ${model} ${what} tp=${tp} M=${rows}`, 'FLOP/s', [operations / us * 1e6]),
    { metric: 'gemm', device, model, linear: what, tp, rows, intensity })
  if (cublaslt_us > 0) report.add(result(`${device} ${model} ${what} tp=${tp} M=${rows}, cuBLASLt / heddle time`, 'x', [cublaslt_us / us]))
}
