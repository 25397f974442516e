// `heddle info`: what this machine offers; with --model, what each rank of that model holds.
import os from 'node:os'
import { AutoModelForCausalLM } from '../causal-lm'
import { cudaInfo, openGroup } from '../group'
import type { CudaInfo, GroupInfo } from '../group'
import { parseFlags, readFlags, UsageError } from './flags'
import type { Values } from './flags'
import { loading } from './loading'
import { jsonFlag, loadFlags, modelFlag } from './options'

/** What the ranks of a machine can be told without a model. */
const { tpSize, dtype, device, devices, communicator, host, collectiveTimeoutMs, reproducible, ...ofModels } = loadFlags
const groupFlags = { tpSize, dtype, device, devices, communicator, host, collectiveTimeoutMs, reproducible }

export async function info(args: string[]): Promise<void> {
  const values = parseFlags(args, modelFlag, loadFlags, jsonFlag)
  const facts = {
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    cores: os.availableParallelism(),
    ...(await groupInfo(values)),
    cuda: cudaInfo()
  }
  process.stdout.write(values.json ? `${JSON.stringify(facts)}\n` : table(facts))
}

async function groupInfo(values: Values): Promise<GroupInfo> {
  if (values.model !== undefined) {
    const { model: name, options } = loading(values)
    await using model = await AutoModelForCausalLM.fromPretrained(name, options)
    return model.info()
  }
  const [foreign] = Object.keys(readFlags(values, ofModels))
  if (foreign !== undefined) throw new UsageError(`${foreign} is said of a model, and --model NAME is missing`)
  const { tpSize: size = 1, dtype: type, ...where } = readFlags(values, groupFlags)
  await using group = await openGroup({ size, ...where, ...(type && type !== 'auto' && { dtype: type }) })
  return group.info()
}

const line = (name: string, value: unknown): string => `${name.padEnd(18)}${String(value)}`

/** What was found for ranks on GPUs, and where, or why there are none. */
function cudaLines({ usable, reason, build, backend, driver, runtime, devices, libraries }: CudaInfo): string[] {
  const lines = [line('cuda', usable ? `usable, ${build}` : `not usable: ${reason}`)]
  if (backend) lines.push(line('  backend', backend))
  if (!usable) return lines
  lines.push(line('  versions', `driver for CUDA ${driver}, runtime ${runtime}`))
  for (const { device, name, computeCapability, memoryBytes } of devices)
    lines.push(line(`  GPU ${device}`, `${name}, compute capability ${computeCapability}, ${(memoryBytes / 1e9).toFixed(1)} GB`))
  for (const { name, version, path, problem } of libraries)
    lines.push(line(`  ${name}`, version ? `${version}  ${path}${problem ? `  (${problem})` : ''}` : `not used: ${problem}`))
  return lines
}

function table({ ranks, gpus: _, cuda, ...facts }: GroupInfo): string {
  const lines = Object.entries(facts).map(([name, value]) => line(name, value))
  if (cuda) lines.push(...cudaLines(cuda))
  const bytes = (value: number): string => value.toLocaleString('en-US').padStart(16)
  const header = `rank  ${'weight bytes'.padStart(16)}${'cache bytes'.padStart(16)}${'workspace bytes'.padStart(16)}  device`
  const rows = ranks.map(
    (rank) =>
      `${String(rank.rank).padStart(4)}  ${bytes(rank.weightBytes)}${bytes(rank.cacheBytes)}${bytes(rank.workspaceBytes)}  ${rank.device}`
  )
  return `${[...lines, '', header, ...rows].join('\n')}\n`
}
