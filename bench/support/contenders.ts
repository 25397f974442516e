// The contenders of a comparison behind one interface. Each is a process of its own with a given number of threads.
import { existsSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { spawnSync } from 'node:child_process'
import { type DecodeAnswer, type GenerateAnswer, type LoadAnswer, type LoopDelay } from '../contender'
import { LineProcess } from './line-process'
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
  decodeBatch(rows: number[][], skip: number, count: number): Promise<number> // seconds a step
  generate(rows: number[][], count: number): Promise<GenerateAnswer>
  idle(milliseconds: number): Promise<LoopDelay>
}

export async function openHeddle(folder: string, tpSize: number): Promise<HeddleContender> {
  const child = openHeddleProcess(`heddle tp=${tpSize}`)
  const loaded = await child.ask<LoadAnswer>({ do: 'load', folder, tpSize })
  return {
    ...contender(child, `bfloat16, ${loaded.info.isa}`),
    loaded,
    decodeTimes: (ids, skip, count) => child.ask({ do: 'decode', ids, skip, count }),
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

export async function openTransformers(folder: string, threads: number): Promise<Contender & { generate: Contender['decode'] }> {
  const script = join(projectRoot, 'bench', 'peers', 'transformers', 'run.py')
  const child = new LineProcess('transformers', peerPython(), [script])
  const about = await child.ask<{ version: string; torch: string }>({ do: 'load', folder, threads })
  return { ...contender(child, `${about.version}, torch ${about.torch}, bfloat16`), generate: decodeBy(child, 'decode_generate') }
}

export async function openLlamaCpp(folder: string, threads: number, contextSize: number): Promise<Contender> {
  const node = join(peersFolder(), 'node')
  if (!existsSync(join(node, 'node_modules', 'node-llama-cpp'))) throw missing('node-llama-cpp', node)
  const file = ggufOf(folder)
  const script = join(projectRoot, 'bench', 'peers', 'llama-cpp', 'run.mjs')
  const child = new LineProcess('node-llama-cpp', process.execPath, [script], { env: { HEDDLE_LLAMA_CPP: node } })
  const about = await child.ask<{ version: string }>({ do: 'load', file, threads, contextSize })
  return contender(child, `${about.version}, bfloat16 GGUF`)
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

function peersFolder(): string {
  return process.env.HEDDLE_PEERS ?? join(homedir(), '.cache', 'heddle-peers')
}

function peerPython(): string {
  const python = join(peersFolder(), 'python', 'bin', 'python')
  if (!existsSync(python)) throw missing('transformers', python)
  return python
}

function missing(name: string, where: string): MissingPeer {
  return new MissingPeer(`${name}: not found at ${where}; run bench/peers/install.sh`)
}

// The checkpoint as GGUF, made once, beside its folder.
function ggufOf(folder: string): string {
  const file = `${folder}.gguf`
  if (existsSync(file)) return file
  const script = join(projectRoot, 'bench', 'peers', 'llama-cpp', 'to-gguf.py')
  const done = spawnSync(peerPython(), [script, folder, file], { encoding: 'utf8' })
  if (done.status !== 0) throw new Error(`to-gguf: ${done.error?.message ?? done.stderr.trim().split('\n').pop()}`)
  return file
}
