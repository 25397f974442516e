// What every command that loads a model takes from its command line.
import type { PretrainedOptions } from '../generation/load-model'
import { downloadLine } from './download-line'
import { readFlags, UsageError } from './flags'
import type { Values } from './flags'
import { loadFlags, modelFlag } from './options'

export function modelName(values: Values): string {
  const { model } = readFlags(values, modelFlag)
  if (model === undefined) throw new UsageError('--model NAME is missing')
  return model
}

/** `--model`, and how to load it. */
export function loading(values: Values): { model: string; options: PretrainedOptions } {
  return { model: modelName(values), options: withDownloadLine(readFlags(values, loadFlags)) }
}

/** A download shows its progress where a person can see it. */
export function withDownloadLine<T extends object>(options: T): T & Pick<PretrainedOptions, 'onProgress'> {
  return process.stderr.isTTY ? { ...options, onProgress: downloadLine(process.stderr) } : options
}
