// `heddle plan`: what a model takes at each size, before a weight is read.
import { planTensorParallel } from '../planning/plan'
import type { SizePlan, TensorParallelPlan } from '../planning/plan'
import { parseFlags, readFlags } from './flags'
import { modelName } from './loading'
import { jsonFlag, modelFlag, planFlags } from './options'
import { bytes } from './quantities'

export async function plan(args: string[]): Promise<number> {
  const values = parseFlags(args, modelFlag, planFlags, jsonFlag)
  const found = await planTensorParallel(modelName(values), readFlags(values, planFlags))
  process.stdout.write(values.json ? `${JSON.stringify(found)}\n` : table(found))
  return found.refused ? 1 : 0
}

function table({ modelType, dtype, validSizes, sizes, refused, warnings = [] }: TensorParallelPlan): string {
  const head = [`${modelType}, ${dtype}; valid sizes: ${validSizes.join(', ')}`]
  if (refused) head.push(`size ${refused.tpSize}: ${refused.why}; nearest: ${refused.nearest.join(', ')}`)
  head.push(...warnings.map((warning) => `warning: ${warning}`))
  const predicted = sizes[0]?.predicted
  const titles = ['size', 'weights of a rank', 'cache per 1k tokens', 'workspace at most', 'all-reduces', 'bytes a token',
    ...(predicted ? ['decode tok/s', 'prefill tok/s', 'room for tokens'] : [])]
  const grid = [titles, ...sizes.map(row)]
  const widths = titles.map((_, column) => Math.max(...grid.map((cells) => cells[column]!.length)))
  const lines = sizes.length === 0 ? [] : grid.map((cells) => cells.map((cell, column) => cell.padStart(widths[column]!)).join('  '))
  const note = predicted ? [`modelled for ${predicted.gpu}: batch 1, a prompt of 2048 tokens, 90 % of the memory; not measured`] : []
  const explained = sizes.flatMap(({ tpSize, parameters }) => (parameters ? [`\nsize ${tpSize}:\n${String(parameters).trimEnd()}`] : []))
  return `${[...head, ...lines, ...note, ...explained].join('\n')}\n`
}

function row({ tpSize, ranks, collectives, predicted }: SizePlan): string[] {
  const most = (key: 'weightBytes' | 'cacheBytesPer1kTokens' | 'workspaceBytes'): string => bytes(Math.max(...ranks.map((rank) => rank[key])), 2)
  const figures = [most('weightBytes'), most('cacheBytesPer1kTokens'), most('workspaceBytes'), String(collectives.allReduces), bytes(collectives.bytesPerToken, 2)]
  if (!predicted) return [String(tpSize), ...figures]
  const { decodeTokensPerSecond, prefillTokensPerSecond, cacheTokens } = predicted
  return [String(tpSize), ...figures, decodeTokensPerSecond.toFixed(0), prefillTokensPerSecond.toFixed(0), cacheTokens === 0 ? 'does not fit' : String(cacheTokens)]
}
