// One collective over message sizes, group sizes and communicators, in the column layout of nccl-tests, beside what the links or the memory
// of this machine allow. Rule: every way of running it takes its turn at one size before the next size.
import { freemem } from 'node:os'
import { cudaInfo } from 'heddle'
import { alternate, withClosing, type Reporter, type Table } from './case'
import { algorithmBandwidth, busBandwidth, memoryLimit, nvlsLimit, practicalShare } from './collective-formulas'
import { openGloo, openLocal, openOnGpus, type CollectiveAnswer, type CollectiveRunner, type ElementType } from './collective-runners'
import { type CollectiveName, type FactsOf } from './facts'
import { readLinks, slowestLinks } from './link-rate'
import { openReadBandwidth } from './native-programs'
import { bytesText } from './numbers'
import { type BenchOptions } from './options'
import { median, ratios, result, type Goal } from './statistics'

const kilobyte = 1024
const megabyte = 1024 * kilobyte
const smallest = kilobyte
const largest = 1024 * megabyte
const fewerRepeatsFrom = 16 * megabyte

export interface Sweep {
  collective: CollectiveName
  inPlace: boolean
  goal(bytes: number, ranks: number, cores: number): Goal | undefined // microseconds of `local` on the CPU
  peerGoal(bytes: number): Goal | undefined // gloo's time over that of `local`
}

type LinkLine = FactsOf<'link'>['line']

// One way to run the collective: a program, eager or as a graph.
interface Way {
  name: string
  runner: CollectiveRunner
  graph: boolean
  type: ElementType
  measured: Measured[]
  ended?: boolean
}

interface Measured {
  answers: CollectiveAnswer[]
}

interface Limit {
  line: LinkLine
  gigabytesPerSecond: number
}

export async function sweepCollective(sweep: Sweep, options: BenchOptions, report: Reporter): Promise<void> {
  for (const ranks of options.sizes.filter((size) => size > 1)) {
    const onGpus = openOnGpusFor(ranks, options, report) // first: where there are some, time is for them
    if (onGpus.length > 0) await sweepOn('GPUs', onGpus, ranks, () => limitsOfGpus(sweep, ranks, onGpus[0], report), sweep, options, report)
    await sweepOn('CPU', openOnCpu(ranks, report), ranks, () => memoryOfCpu(sweep, ranks), sweep, options, report)
  }
}

function openOnCpu(ranks: number, report: Reporter): CollectiveRunner[] {
  return [openLocal(ranks), ...opened('gloo', () => openGloo(ranks), report)]
}

// Ranks that find no GPU of their own share the first: that tells of kernels and protocol, and NCCL refuses it.
function openOnGpusFor(ranks: number, { devices }: BenchOptions, report: Reporter): CollectiveRunner[] {
  const what = `local and nccl on GPUs, ${ranks} ranks`
  const { usable, reason, devices: found } = cudaInfo(false)
  if (!usable) return skipped(what, reason, report)
  const chosen = devices.length > 1 ? devices : found.map(({ device }) => device)
  const ordinals = Array.from({ length: ranks }, (_, rank) => (chosen.length >= ranks ? chosen[rank] : chosen[0]))
  const local = opened(what, () => openOnGpus('local', ordinals), report)
  if (local.length === 0) return []
  if (chosen.length >= ranks) return [...local, ...opened('nccl', () => openOnGpus('nccl', ordinals), report)]
  report.skip(`nccl, ${ranks} ranks`, `it needs a GPU for every rank, and there are ${chosen.length}`)
  report.note(`${ranks} ranks share GPU ${chosen[0]}: kernels and protocol are measured, no link is`)
  return local
}

function opened(what: string, open: () => CollectiveRunner, report: Reporter): CollectiveRunner[] {
  try {
    return [open()]
  } catch (error) {
    return skipped(what, (error as Error).message.split('\n')[0], report)
  }
}

function skipped(what: string, why: string, report: Reporter): [] {
  report.skip(what, why)
  return []
}

async function sweepOn(
  where: 'CPU' | 'GPUs', runners: CollectiveRunner[], ranks: number, limitsOf: () => Promise<Limit[]>, sweep: Sweep, options: BenchOptions,
  report: Reporter,
): Promise<void> {
  await withClosing(runners, async () => {
    const types: ElementType[] = Number.isFinite(options.budgetSeconds) ? ['float32'] : ['float32', 'bfloat16']
    const limits = await limitsOf()
    for (const { line, gigabytesPerSecond } of limits) {
      const facts = { metric: 'link', line, collective: sweep.collective, ranks } as const
      report.add(result(`${sweep.collective} tp=${ranks} ${where}: ${line}, as busbw`, 'GB/s', [gigabytesPerSecond]), facts)
    }
    for (const type of types) {
      const ways = waysOf(runners, type)
      await measureSizes(ways, ranks, sweep, options, report)
      for (const way of ways) reportWay(way, ranks, where, limits, sweep, options, report)
      compareWithGloo(ways, ranks, sweep, report)
    }
  })
}

function waysOf(runners: CollectiveRunner[], type: ElementType): Way[] {
  return runners.flatMap((runner) =>
    (runner.graphs ? [false, true] : [false]).map((graph) => {
      const name = [runner.communicator, ...(type === 'float32' ? [] : [type]), ...(graph ? ['graph'] : [])].join(' ')
      return { name, runner, graph, type, measured: [] }
    }))
}

async function measureSizes(ways: Way[], ranks: number, sweep: Sweep, options: BenchOptions, report: Reporter): Promise<void> {
  const full = !Number.isFinite(options.budgetSeconds)
  let seconds = 0 // of the last size
  for (let bytes = smallest; bytes <= largest; bytes *= full ? 2 : 4) {
    const what = `${sweep.collective} tp=${ranks} from ${bytesText(bytes)}`
    const needed = ways[0].runner.ordinals.length > 0 ? bytes : 3 * ranks * bytes
    if (needed > 0.8 * freemem()) {
      return report.skip(what, `two buffers for each rank need about ${bytesText(needed)}, and ${bytesText(freemem())} are free`)
    }
    if (!report.hasTime(what, bytes > megabyte ? 4 * seconds : seconds)) return
    const start = performance.now()
    for (const way of ways) if (!way.ended) way.measured.push({ answers: [] })
    await alternate(bytes >= fewerRepeatsFrom ? Math.min(3, options.repeats) : options.repeats, ways, async (way) => {
      if (!way.ended) await measure(way, bytes, sweep, report)
    })
    seconds = (performance.now() - start) / 1000
  }
}

// A way that fails says why once and is left out from then on, with what it has measured.
async function measure(way: Way, bytes: number, { collective, inPlace }: Sweep, report: Reporter): Promise<void> {
  try {
    const { answers } = way.measured[way.measured.length - 1]
    answers.push(await way.runner.ask({ collective, bytes, type: way.type, inPlace, graph: way.graph }))
  } catch (error) {
    way.ended = true
    report.skip(`${collective} over ${way.name} from ${bytesText(bytes)}`, (error as Error).message)
  }
}

function reportWay(way: Way, ranks: number, where: string, limits: Limit[], sweep: Sweep, options: BenchOptions, report: Reporter): void {
  const measured = way.measured.filter(({ answers }) => answers.length > 0)
  if (measured.length === 0) return
  const { collective, inPlace } = sweep
  const title = `${collective}, ${way.runner.communicator}, ${ranks} ranks on ${where}, ${inPlace ? 'in place' : 'out of place'}, ` +
    `${way.graph ? 'graph' : 'eager'}`
  report.table(tableOf(title, measured.map(({ answers }) => rowOf(answers, way.type, ranks, limits, sweep)), limits))
  const wrong = measured.flatMap(({ answers }) => answers).reduce((sum, answer) => sum + answer.wrong, 0)
  if (wrong > 0) throw new Error(`${title}: expected no wrong elements, got ${wrong}`)
  for (const { answers } of measured) {
    const { bytes } = answers[0]
    const name = `${collective} ${bytesText(bytes)} tp=${ranks} ${where} ${way.name}`
    const microseconds = answers.map((answer) => answer.microseconds)
    const goal = where === 'CPU' && way.name === 'local' ? sweep.goal(bytes, ranks, options.cores) : undefined
    if (goal) report.add(result(name, 'µs', microseconds, goal))
    const facts = { metric: 'busbw', collective, communicator: communicatorOf(way, where), ranks, bytes, graph: way.graph } as const
    report.add(result(`${name} busbw`, 'GB/s', microseconds.map((us) => busBandwidth(collective, ranks, bytes, us / 1e6))), facts)
  }
}

// CPU and GPU curves of `local` are different series.
function communicatorOf(way: Way, where: string): string {
  const type = way.type === 'float32' ? '' : ` ${way.type}`
  return `${way.runner.communicator}${type}${where === 'GPUs' && way.runner.communicator === 'local' ? ' (GPUs)' : ''}`
}

const ncclNames: Record<ElementType, string> = { float32: 'float', bfloat16: 'bfloat16' }

function rowOf(answers: CollectiveAnswer[], type: ElementType, ranks: number, limits: Limit[], { collective }: Sweep): Table['rows'][number] {
  const microseconds = median(answers.map((answer) => answer.microseconds))
  const { bytes, count } = answers[0]
  const busbw = busBandwidth(collective, ranks, bytes, microseconds / 1e6)
  return {
    size: String(bytes),
    count: String(count),
    type: ncclNames[type],
    redop: collective === 'all_reduce' || collective === 'reduce_scatter' ? 'sum' : 'none',
    time: microseconds,
    algbw: algorithmBandwidth(bytes, microseconds / 1e6),
    busbw,
    wrong: String(answers.reduce((sum, answer) => sum + answer.wrong, 0)),
    ...Object.fromEntries(limits.map(({ line, gigabytesPerSecond }) => [line, (100 * busbw) / gigabytesPerSecond])),
  }
}

function tableOf(title: string, rows: Table['rows'], limits: Limit[]): Table {
  const columns: Table['columns'] = [
    { key: 'size', title: 'size', unit: 'B' },
    { key: 'count', title: 'count', unit: 'elements' },
    { key: 'type', title: 'type' },
    { key: 'redop', title: 'redop' },
    { key: 'time', title: 'time', unit: 'us' },
    { key: 'algbw', title: 'algbw', unit: 'GB/s' },
    { key: 'busbw', title: 'busbw', unit: 'GB/s' },
    { key: 'wrong', title: '#wrong' },
    ...limits.map(({ line }) => ({ key: line, title: line, unit: '%' })),
  ]
  return { title, columns, rows }
}

function compareWithGloo(ways: Way[], ranks: number, sweep: Sweep, report: Reporter): void {
  const [ours, theirs] = ['local', 'gloo'].map((name) => ways.find((way) => way.name === name))
  if (!ours || !theirs) return
  const rows: Table['rows'] = []
  for (const [i, { answers }] of ours.measured.entries()) {
    const peer = theirs.measured[i]?.answers ?? []
    if (answers.length === 0 || peer.length !== answers.length) continue
    const [us, gloo] = [answers, peer].map((all) => all.map((answer) => answer.microseconds))
    const { bytes } = answers[0]
    rows.push({ size: bytesText(bytes), local: median(us), gloo: median(gloo), ratio: median(ratios(gloo, us)) })
    const goal = sweep.peerGoal(bytes)
    if (goal) report.add(result(`${sweep.collective} ${bytesText(bytes)} tp=${ranks} gloo / local`, 'x', ratios(gloo, us), goal))
  }
  if (rows.length === 0) return
  const columns = [{ key: 'size', title: 'size' }, { key: 'local', title: 'local', unit: 'us' }, { key: 'gloo', title: 'gloo', unit: 'us' },
    { key: 'ratio', title: 'gloo / local', unit: 'x' }]
  report.table({ title: `${sweep.collective}, ${ranks} ranks: local beside gloo`, columns, rows })
}

async function memoryOfCpu({ collective }: Sweep, ranks: number): Promise<Limit[]> {
  const memory = await openReadBandwidth(ranks)
  try {
    return [{ line: 'memory bandwidth', gigabytesPerSecond: memoryLimit(collective, ranks, await memory.measure(ranks)) }]
  } finally {
    await memory.close()
  }
}

async function limitsOfGpus({ collective }: Sweep, ranks: number, runner: CollectiveRunner, report: Reporter): Promise<Limit[]> {
  const gpuCount = new Set(runner.ordinals).size
  const line = gpuCount < ranks ? 0 : await linesOf(report)
  if (line === 0) return memoryOfGpus(collective, ranks, gpuCount, runner, report)
  const inSwitch = nvlsLimit(collective, ranks, line)
  return [
    { line: 'line rate', gigabytesPerSecond: line },
    { line: 'practical limit', gigabytesPerSecond: line * practicalShare },
    ...(inSwitch === undefined ? [] : [{ line: 'NVLS limit', gigabytesPerSecond: inSwitch } as const]),
  ]
}

// 0: there is no NVLink, or nobody who knows of it.
async function linesOf(report: Reporter): Promise<number> {
  try {
    const { gigabytesPerSecond, about } = slowestLinks(await readLinks())
    report.note(about)
    return gigabytesPerSecond
  } catch (error) {
    report.skip('percentages of NVLink', (error as Error).message)
    return 0
  }
}

async function memoryOfGpus(
  collective: CollectiveName, ranks: number, gpuCount: number, runner: CollectiveRunner, report: Reporter,
): Promise<Limit[]> {
  try {
    const bandwidth = gpuCount * (await runner.memoryBandwidth())
    return [{ line: 'memory bandwidth', gigabytesPerSecond: memoryLimit(collective, ranks, bandwidth) }]
  } catch (error) {
    report.skip('percentages of memory bandwidth', (error as Error).message)
    return []
  }
}
