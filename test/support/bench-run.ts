// A bench run with every kind of figure that reports draw. Rule: no randomness and no clock, so that two runs of a test see one page.
import { type BenchRun } from '../../bench/support/run-file'
import { emptyRecord, type CaseRecord } from '../../bench/support/case-record'
import { type Facts } from '../../bench/support/facts'
import { result, type Goal, type Result } from '../../bench/support/statistics'

/** Text that would be markup, were it not escaped. */
export const hostile = `<img src=x onerror="document.title='taken'"> & | \`_*`

const spread = [0.97, 0.99, 1, 1.02, 1.04]

/** A result whose samples lie around the value. */
export function around(name: string, unit: string, value: number, facts?: Facts, goal?: Goal): Result {
  return { ...result(name, unit, spread.map((factor) => value * factor), goal), ...(facts && { facts }) }
}

const sizes = [1, 2, 4, 8]
const bandwidth = 38.4e9
const peak = 482e9

function gemms(): Result[] {
  const linears = { qkv: 4096, o: 2048, gate_up: 6144, down: 3072, head: 151936 }
  const ceilings = [
    around('arithmetic ceiling', 'FLOP/s', peak, { metric: 'ceiling', device: 'cpu', of: 'arithmetic' }),
    around('memory ceiling', 'B/s', bandwidth, { metric: 'ceiling', device: 'cpu', of: 'memory' }),
  ]
  const products = Object.entries(linears).flatMap(([linear, width], i) => sizes.flatMap((tp) => [1, 4, 16, 64, 256, 1024, 4096].map((rows) => {
    const [outFeatures, inFeatures] = [width / tp, 1024]
    const operations = 2 * rows * outFeatures * inFeatures
    const intensity = operations / (2 * (outFeatures * inFeatures + rows * (outFeatures + inFeatures)))
    const share = 0.92 - 0.03 * i - 0.05 * Math.log2(tp)
    const facts: Facts = { metric: 'gemm', device: 'cpu', model: 'qwen3-0.6b', linear, tp, rows, intensity }
    return around(`${linear} tp=${tp} rows=${rows}`, 'FLOP/s', share * Math.min(peak, bandwidth * intensity), facts)
  })))
  return [...ceilings, ...products]
}

function collectives(): Result[] {
  const names = { all_reduce: 1, all_gather: 0.5, reduce_scatter: 0.5, send_recv: 1 } as const
  const communicators = { local: 17, gloo: 0.9, nccl: 12 }
  const messages = Array.from({ length: 11 }, (_, i) => 1024 * 4 ** i)
  return (Object.keys(names) as (keyof typeof names)[]).flatMap((collective) => [
    ...Object.entries(communicators).flatMap(([communicator, most]) => messages.flatMap((bytes) =>
      [false, ...(communicator === 'nccl' ? [true] : [])].map((graph) => {
        const rate = (most * names[collective] * (graph ? 1.2 : 1)) / (1 + 200e3 / bytes)
        const facts: Facts = { metric: 'busbw', collective, communicator, ranks: 2, bytes, graph }
        return around(`${collective} ${communicator} ${bytes}`, 'GB/s', rate, facts)
      }))),
    ...([['line rate', 25], ['practical limit', 20.6], ['NVLS limit', 20], ['memory bandwidth', 19.2]] as const).map(([line, value]) =>
      around(`${collective} ${line}`, 'GB/s', value, { metric: 'link', line, collective, ranks: 2 })),
  ])
}

function layers(): Result[] {
  return ['TPMLP', 'TPAttention'].flatMap((layer, i) => [1, 128].flatMap((rows) => sizes.map((tp) => {
    const facts: Facts = { metric: 'efficiency', model: 'qwen3-0.6b', layer, tp, rows, modelled: tp > 2 }
    return around(`${layer} rows=${rows} tp=${tp}`, '%', 100 - (6 + 4 * i) * Math.log2(tp) * (rows === 1 ? 1.6 : 0.7), facts)
  })))
}

function rates(): Result[] {
  const rate = (phase: 'decode' | 'prefill' | 'generate', batch: number, tokens: number, single: number, goal?: Goal) => sizes.map((tp) =>
    around(`${phase} batch=${batch} tokens=${tokens} tp=${tp}`, 'tok/s', single * tp ** 0.8, { metric: 'rate', phase, tp, batch, tokens },
      tp === 2 ? goal : undefined))
  return [
    ...rate('decode', 1, 128, 22.4, { least: 35 }), ...rate('decode', 8, 128, 120), ...rate('decode', 1, 4096, 17),
    ...rate('prefill', 1, 128, 365), ...rate('prefill', 1, 512, 360),
    ...rate('generate', 1, 256, 20), ...rate('generate', 4, 256, 66),
  ]
}

function peers(): Result[] {
  const contenders = { 'heddle tp=2': 1, 'transformers eager': 3.4, 'transformers compiled': 2.6, 'node-llama-cpp bf16': 1.73, [`hostile ${hostile}`]: 2 }
  return Object.entries({ decode: 27.7, 'prefill 512': 583 }).flatMap(([phase, ours]) => Object.entries(contenders).flatMap(([contender, ratio]) => [
    around(`${phase} ${contender}`, 'tok/s', ours / ratio, { metric: 'peer', phase, contender }),
    ...(ratio === 1 ? [] : [
      around(`${phase} heddle / ${contender}`, 'x', ratio, { metric: 'peer ratio', phase, contender }, phase === 'decode' ? { least: 2 } : undefined),
    ]),
  ]))
}

function caseOf(name: string, results: Result[], more: Partial<CaseRecord> = {}): CaseRecord {
  return { ...emptyRecord(name, `what ${name} measures`, 45), seconds: 41.5, results, ...more }
}

export function sampleRun(): BenchRun {
  const table = {
    title: 'all-reduce', columns: [{ key: 'size', title: 'size', unit: 'B' }, { key: 'time', title: 'time', unit: 'µs' }, { key: 'note', title: hostile }],
    rows: [{ size: 1024, time: 0.64, note: hostile }, { size: 4096, time: 0.81 }],
  }
  return {
    version: 1,
    command: `npm run bench -- --full '${hostile}'`,
    machine: {
      cpu: 'AMD EPYC (family/model 26/2)', cores: 2, isa: ['avx2', 'avx512f', 'avx512_bf16'], gpus: [], memoryGigabytes: 25,
      system: 'Linux 6.1, Debian GNU/Linux 12 (bookworm)', node: 'v20.20.2', heddle: '0.1.0', commit: 'abc1234', loadAverage: 0.12,
      date: '2026-11-21T12:00:00.000Z',
    },
    options: { sizes: [1, 2], shapeName: 'qwen3-0.6b', shape: { hiddenSize: 1024 }, repeats: 5, budgetSeconds: 540 },
    seconds: 512.3,
    cases: [
      caseOf('decode', rates()),
      caseOf('peers', peers(), { notes: ['transformers: 5.23.0', hostile], skipped: [{ what: 'transformers.js', why: 'no ONNX model' }] }),
      caseOf('gemm', gemms(), { trimmed: ['head tp=8 rows=4096'] }),
      caseOf('layers', layers()),
      caseOf('allreduce', collectives(), { tables: [table] }),
      caseOf('load', [], { error: `ended with SIGSEGV | ${hostile}` }),
    ],
  }
}
