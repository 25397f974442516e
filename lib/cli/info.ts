// `heddle info`: what this machine offers; with --model, what each rank of that model holds.
import os from 'node:os'
import { AutoModelForCausalLM } from '../causal-lm'
import type { GroupInfo } from '../group'
import { openGroup } from '../group'
import { modelArguments, modelOptions, parseOptions, text } from './arguments'
import type { Values } from './arguments'

export async function info(args: string[]): Promise<void> {
  const values = parseOptions(args, { ...modelOptions, json: { type: 'boolean' } })
  const facts = {
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    cores: os.availableParallelism(),
    ...(await groupInfo(values))
  }
  process.stdout.write(values.json ? `${JSON.stringify(facts)}\n` : table(facts))
}

async function groupInfo(values: Values): Promise<GroupInfo> {
  if (text(values, 'model') !== undefined) {
    const { folder, options } = modelArguments(values)
    await using model = await AutoModelForCausalLM.fromPretrained(folder, options)
    return model.info()
  }
  const { options } = modelArguments({ ...values, model: '' })
  await using group = await openGroup({ size: options.tpSize ?? 1, ...(options.device && { device: options.device }) })
  return group.info()
}

function table({ ranks, ...facts }: GroupInfo): string {
  const lines = Object.entries(facts).map(([name, value]) => `${name.padEnd(18)}${String(value)}`)
  const bytes = (value: number): string => value.toLocaleString('en-US').padStart(16)
  const header = `rank  ${'weight bytes'.padStart(16)}${'cache bytes'.padStart(16)}${'workspace bytes'.padStart(16)}  device`
  const rows = ranks.map(
    (rank) =>
      `${String(rank.rank).padStart(4)}  ${bytes(rank.weightBytes)}${bytes(rank.cacheBytes)}${bytes(rank.workspaceBytes)}  ${rank.device}`
  )
  return `${[...lines, '', header, ...rows].join('\n')}\n`
}
