// The command line of the bench, checked once. Cases receive the result and read nothing else.
import { availableParallelism, homedir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { makeCheckpoint } from './make-checkpoint'
import { modelShapes, shapeOf, type ModelShape } from './model-shapes'

export interface BenchOptions {
  sizes: number[] // group sizes
  shapeName: string
  shape: ModelShape
  folder: (shapeName: string) => string // of a synthetic checkpoint, written when first asked for
  repeats: number
  contextTokens: number
  decodeTokens: number
  prefillTokens: number[]
  batches?: number[] // sequences that decode together; none: as the case likes
  contexts: number[] // tokens in the cache, to see what attention takes of a step
  layerShapes: string[] // models whose linears and layers are measured one by one
  layerSizes: number[] // group sizes of their shards, whether there are as many cores or not
  rows: number[] // of the linears' inputs
  device: 'cpu' | 'cuda' // of heddle's ranks in decode, prefill, generate, load and boundary
  devices: number[] // GPUs; ranks beyond their number share them
  cores: number
  budgetSeconds: number // of this case; Infinity with --full
}

export interface CommandLine {
  help: boolean
  cases: string[]
  budgetSeconds: number // of the whole run; Infinity with --full
  jsonFile?: string
  htmlFile?: string
  markdownFile?: string
  options: BenchOptions
}

const defaultBudget = 510
const defaultLayerShapes = 'gpt3-175b,llama-70b,qwen3-32b,qwen3-8b'
const defaultRows = '1,2,4,8,16,32,64,128,256,512,1024,2048,4096'

export const usage = `usage: npm run bench -- [case ...] [options]
       npm run bench -- compare A.json B.json [--json FILE]            what changed beyond noise
       npm run bench -- report A.json [--html FILE] [--markdown FILE]  a report of an earlier run
  --tp 1,2                 group sizes
  --model-shape NAME       ${Object.keys(modelShapes).join(', ')} (default qwen3-0.6b)
  --repeats N              alternating repeats of every measurement (default 5)
  --context N              tokens in the cache before decode is timed (default 128)
  --decode-tokens N        tokens timed a repeat (default 24)
  --prefill-tokens 128,512
  --batches 1,2,4,8        sequences that decode together (default; case gpu: 1,8,32)
  --contexts 128,4096      tokens in the cache (case decode: what attention takes of a step)
  --models A,B             shapes of the cases gemm and layers (default ${defaultLayerShapes})
  --shards 1,2,4,8         group sizes whose shards gemm and layers measure
  --rows 1,4,16,...        rows of the linears' inputs (default ${defaultRows})
  --device cpu             or cuda: where decode, prefill, generate, load and boundary run
  --devices 0              GPUs of those and of the case gpu, one rank each unless --tp is larger
  --data FOLDER            where synthetic checkpoints are kept (default $HEDDLE_BENCH_DATA, else ~/.cache/heddle-bench)
  --budget N               seconds of the whole run, shared among the cases, which trim what does not fit (default ${defaultBudget})
  --full                   no budget: everything
  --json FILE              write machine, options, results and every sample, after every case
  --html FILE              write a report with charts that opens anywhere
  --markdown FILE          write the same as text`

export function parseCommandLine(args: string[]): CommandLine {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      help: { type: 'boolean', default: false },
      tp: { type: 'string', default: '1,2' },
      'model-shape': { type: 'string', default: 'qwen3-0.6b' },
      repeats: { type: 'string', default: '5' },
      context: { type: 'string', default: '128' },
      'decode-tokens': { type: 'string', default: '24' },
      'prefill-tokens': { type: 'string', default: '128,512' },
      batches: { type: 'string' },
      contexts: { type: 'string', default: '128,4096' },
      models: { type: 'string', default: defaultLayerShapes },
      shards: { type: 'string', default: '1,2,4,8' },
      rows: { type: 'string', default: defaultRows },
      device: { type: 'string', default: 'cpu' },
      devices: { type: 'string', default: '0' },
      data: { type: 'string', default: process.env.HEDDLE_BENCH_DATA ?? join(homedir(), '.cache', 'heddle-bench') },
      budget: { type: 'string', default: String(defaultBudget) },
      full: { type: 'boolean', default: false },
      json: { type: 'string' },
      html: { type: 'string' },
      markdown: { type: 'string' },
    },
  })
  const budgetSeconds = values.full ? Infinity : count('--budget', values.budget)
  return {
    help: values.help,
    cases: positionals,
    budgetSeconds,
    jsonFile: values.json,
    htmlFile: values.html,
    markdownFile: values.markdown,
    options: {
      sizes: counts('--tp', values.tp),
      shapeName: values['model-shape'],
      shape: shapeOf(values['model-shape']),
      folder: (shapeName) => makeCheckpoint(join(values.data, shapeName), shapeName),
      repeats: count('--repeats', values.repeats),
      contextTokens: count('--context', values.context),
      decodeTokens: count('--decode-tokens', values['decode-tokens']),
      prefillTokens: counts('--prefill-tokens', values['prefill-tokens']),
      ...(values.batches && { batches: counts('--batches', values.batches) }),
      contexts: counts('--contexts', values.contexts),
      layerShapes: layerShapes(values.models),
      layerSizes: counts('--shards', values.shards),
      rows: counts('--rows', values.rows),
      device: deviceOf(values.device),
      devices: values.devices.split(',').map((text) => count('--devices', String(Number(text) + 1)) - 1),
      cores: availableParallelism(),
      budgetSeconds,
    },
  }
}

function deviceOf(text: string): BenchOptions['device'] {
  if (text === 'cpu' || text === 'cuda') return text
  throw new Error(`--device: expected cpu or cuda, got ${text}`)
}

function layerShapes(text: string): string[] {
  return text.split(',').filter((name) => shapeOf(name))
}

function count(name: string, text: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1) throw new Error(`${name}: expected a whole number from 1, got ${text}`)
  return value
}

function counts(name: string, text: string): number[] {
  return text.split(',').map((part) => count(name, part))
}
