// The contenders of a comparison behind one interface. Each is a process of its own with a given number of threads.
import { existsSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { spawnSync } from 'node:child_process'
import { type DecodeAnswer, type GenerateAnswer, type LoadAnswer, type LogitsAnswer, type LoopDelay, type Placement } from './contender-protocol'
import { LineProcess } from './line-process'
import { type BenchOptions } from './options'
import { projectRoot } from './project'

export interface Contender {
  name: string
  about: string // version and what it chose
  prefill(ids: number[]): Promise<{ seconds: number; token: number }>
  decode(ids: number[], skip: number, count: number): Promise<number> // seconds a token
  close(): Promise<void>
}

export class MissingPeer extends Error {}

export function openHeddleProcess(name = 'heddle'): LineProcess {
  return new LineProcess(name, process.execPath, [join(__dirname, '..', 'contender.js')])
}

/** What only heddle is asked for. */
export interface HeddleContender extends Contender {
  loaded: LoadAnswer
  decodeTimes(ids: number[], skip: number, count: number): Promise<DecodeAnswer>
  logits(ids: number[]): Promise<LogitsAnswer>
  decodeBatch(rows: number[][], skip: number, count: number): Promise<number> // seconds a step
  generate(rows: number[][], count: number): Promise<GenerateAnswer>
  idle(milliseconds: number): Promise<LoopDelay>
}

export function placementOf({ device, devices }: Pick<BenchOptions, 'device' | 'devices'>, tpSize: number): Placement {
  if (device === 'cpu') return { device }
  return { device, devices: Array.from({ length: tpSize }, (_, rank) => devices[rank % devices.length]) }
}

export async function openHeddle(
  folder: string, tpSize: number, placement: Placement = { device: 'cpu' }, reproducible = false,
): Promise<HeddleContender> {
  const child = openHeddleProcess(`heddle tp=${tpSize}${reproducible ? ' reproducible' : ''}`)
  const loaded = await child.ask<LoadAnswer>({ do: 'load', folder, tpSize, reproducible, ...placement })
  return {
    ...contender(child, `bfloat16, ${placement.device === 'cpu' ? loaded.info.isa : 'cuda'}`),
    loaded,
    decodeTimes: (ids, skip, count) => child.ask({ do: 'decode', ids, skip, count }),
    logits: (ids) => child.ask({ do: 'logits', ids }),
    decodeBatch: batchBy(child, 'decodeBatch'),
    generate: (rows, count) => child.ask({ do: 'generate', rows, count }),
    idle: async (milliseconds) => (await child.ask<{ loopDelay: LoopDelay }>({ do: 'idle', milliseconds })).loopDelay,
  }
}

/** Contenders on GPUs, which also decode several sequences in one step. */
export interface GpuContender extends Contender {
  decodeBatch(rows: number[][], skip: number, count: number): Promise<number> // seconds a step
}

export async function openHeddleOnGpu(folder: string, devices: number[]): Promise<GpuContender> {
  const child = openHeddleProcess(`heddle tp=${devices.length}`)
  await child.ask({ do: 'load', folder, tpSize: devices.length, device: 'cuda', devices })
  return { ...contender(child, 'bfloat16'), decodeBatch: batchBy(child, 'decodeBatch') }
}

export async function openTransformersOnGpu(folder: string): Promise<GpuContender & { compiled: GpuContender['decodeBatch'] }> {
  const script = join(projectRoot, 'bench', 'peers', 'transformers', 'run.py')
  const child = new LineProcess('transformers', gpuPython(), [script])
  const about = await child.ask<{ version: string; torch: string }>({ do: 'load', folder, threads: 1, device: 'cuda' })
  return {
    ...contender(child, `${about.version}, torch ${about.torch}, bfloat16`),
    decodeBatch: batchBy(child, 'decode_batch'),
    compiled: batchBy(child, 'decode_compiled'),
  }
}

export interface TransformersContender extends Contender {
  generate: Contender['decode']
  compiled: Contender['decode'] // torch.compile over a static cache; the first call compiles, which takes a minute or more
}

export async function openTransformers(folder: string, threads: number): Promise<TransformersContender> {
  const { child, about } = await startTransformers('transformers', folder, { threads })
  const compiled = batchBy(child, 'decode_compiled')
  return {
    ...contender(child, about),
    generate: decodeBy(child, 'decode_generate'),
    compiled: (ids, skip, count) => compiled([ids], skip, count),
  }
}

/** Seconds that the first compiled run takes, roughly: minutes where nothing is in its cache yet. */
export function compileSeconds(): number {
  return existsSync(inductorCache()) ? 30 : 150
}

/** Its own tensor parallelism: as many processes over gloo, one thread each. */
export async function openTransformersRanks(folder: string, ranks: number): Promise<Contender & { generate: Contender['decode'] }> {
  const { child, about } = await startTransformers(`transformers tp=${ranks}`, folder, { threads: 1, ranks })
  return { ...contender(child, `${about}, ${ranks} processes over gloo`), generate: decodeBy(child, 'decode_generate') }
}

async function startTransformers(name: string, folder: string, how: { threads: number; ranks?: number }) {
  const child = new LineProcess(name, peerPython(), [join(projectRoot, 'bench', 'peers', 'transformers', 'run.py')], {
    env: { TORCHINDUCTOR_CACHE_DIR: inductorCache() }, // what was compiled once is not compiled in every run
  })
  try {
    const { version, torch } = await child.ask<{ version: string; torch: string }>({ do: 'load', folder, ...how })
    return { child, about: `${version}, torch ${torch}, bfloat16` }
  } catch (error) {
    await child.close()
    throw error
  }
}

export type GgufKind = 'bf16' | 'q8_0'

/** `variant`: the one build of its CPU backend to run with, such as haswell; else it takes the best for this machine. */
export async function openLlamaCpp(
  folder: string, threads: number, contextSize: number, kind: GgufKind = 'bf16', variant?: string,
): Promise<Contender> {
  const node = llamaFolder(variant)
  const file = ggufOf(folder, kind)
  const script = join(projectRoot, 'bench', 'peers', 'llama-cpp', 'run.mjs')
  const name = `node-llama-cpp ${kind}`
  const child = new LineProcess(name, process.execPath, [script], { env: { HEDDLE_LLAMA_CPP: node } })
  try {
    const { version, systemInfo } = await child.ask<{ version: string; systemInfo: string }>({ do: 'load', file, threads, contextSize })
    return contender(child, `${version}, ${kind} GGUF, ${systemInfo.replace(/\s+/g, ' ').trim()}`)
  } catch (error) {
    await child.close()
    throw error
  }
}

// The package chooses among the builds that lie beside each other, and no option narrows that: a copy by hard links holds only one.
function llamaFolder(variant?: string): string {
  const node = join(peersFolder(), 'node')
  if (!existsSync(join(node, 'node_modules', 'node-llama-cpp'))) throw missing('node-llama-cpp', node)
  if (!variant) return node
  const copy = `${node}-${variant}`
  const builds = (folder: string) => join(folder, 'node_modules', '@node-llama-cpp', 'linux-x64', 'bins', 'linux-x64')
  if (!existsSync(builds(copy))) {
    const partial = `${copy}.partial`
    rmSync(partial, { recursive: true, force: true })
    run('cp', ['-al', node, partial])
    const isBuild = (file: string) => file.startsWith('libggml-cpu-')
    const kept = `libggml-cpu-${variant}.so`
    const found = readdirSync(builds(partial)).filter(isBuild)
    if (!found.includes(kept)) throw new MissingPeer(`node-llama-cpp: expected a build named ${kept}, found ${found.join(', ')}`)
    for (const file of found) if (file !== kept) rmSync(join(builds(partial), file))
    renameSync(partial, copy)
  }
  return copy
}

function contender(child: LineProcess, about: string): Contender {
  return {
    name: child.name,
    about,
    prefill: (ids) => child.ask({ do: 'prefill', ids }),
    decode: decodeBy(child, 'decode'),
    close: () => child.close(),
  }
}

function decodeBy(child: LineProcess, command: string): Contender['decode'] {
  return async (ids, skip, count) => (await child.ask<{ secondsPerToken: number }>({ do: command, ids, skip, count })).secondsPerToken
}

function batchBy(child: LineProcess, command: string): GpuContender['decodeBatch'] {
  return async (rows, skip, count) => (await child.ask<{ secondsPerStep: number }>({ do: command, rows, skip, count })).secondsPerStep
}

// A machine with a GPU has its own torch, as a rule: HEDDLE_PEERS_PYTHON names its Python.
function gpuPython(): string {
  return process.env.HEDDLE_PEERS_PYTHON ?? peerPython()
}

function inductorCache(): string {
  return join(peersFolder(), 'inductor')
}

function peersFolder(): string {
  return process.env.HEDDLE_PEERS ?? join(homedir(), '.cache', 'heddle-peers')
}

/** Throws MissingPeer, naming what needs it. */
export function peerPython(peer = 'transformers'): string {
  const python = join(peersFolder(), 'python', 'bin', 'python')
  if (!existsSync(python)) throw missing(peer, python)
  return python
}

function missing(name: string, where: string): MissingPeer {
  return new MissingPeer(`${name}: not found at ${where}; run bench/peers/install.sh`)
}

/** float32, as ONNX Runtime has no bfloat16 on CPUs: twice the bytes of the others. */
export async function openTransformersJs(folder: string, threads: number): Promise<Contender> {
  const home = join(peersFolder(), 'transformers-js')
  if (!existsSync(join(home, 'node_modules', '@huggingface', 'transformers'))) throw missing('transformers.js', home)
  const onnx = `${folder}-onnx`
  const scripts = join(projectRoot, 'bench', 'peers', 'transformers-js')
  if (!existsSync(onnx)) run(peerPython(), [join(scripts, 'to-onnx.py'), folder, onnx])
  const child = new LineProcess('transformers.js', process.execPath, [join(scripts, 'run.mjs')], { env: { HEDDLE_TRANSFORMERS_JS: home } })
  try {
    const { version } = await child.ask<{ version: string }>({ do: 'load', folder: onnx, threads })
    return contender(child, `${version}, float32 ONNX`)
  } catch (error) {
    await child.close()
    throw error
  }
}

// The checkpoint as GGUF, made once, beside its folder.
function ggufOf(folder: string, kind: GgufKind): string {
  const file = kind === 'bf16' ? `${folder}.gguf` : `${folder}.${kind}.gguf`
  if (!existsSync(file)) run(peerPython(), [join(projectRoot, 'bench', 'peers', 'llama-cpp', 'to-gguf.py'), folder, file, kind])
  return file
}

function run(command: string, args: string[]): void {
  const done = spawnSync(command, args, { encoding: 'utf8' })
  if (done.status !== 0) throw new Error(`${command}: ${done.error?.message ?? done.stderr.trim().split('\n').pop()}`)
}
