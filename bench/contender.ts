// heddle as one contender of the bench: a process that holds one model, or one group, and times what it is asked through the public API.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { AutoModelForCausalLM, KVCaches, openGroup, Program, type CausalLM, type Group } from 'heddle'
import { answerLines } from './support/answer-lines'
import { type DecodeAnswer, type GenerateAnswer, type LoadAnswer, type LogitsAnswer, type LoopDelay, type Placement } from './support/contender-protocol'

let model: CausalLM | undefined
let group: Group | undefined

function loaded(): CausalLM {
  if (!model) throw new Error('expected load first')
  return model
}

interface LoadCommand extends Partial<Placement> {
  folder: string
  tpSize: number
  reproducible?: boolean
}

async function load({ folder, tpSize, device = 'cpu', devices, reproducible = false }: LoadCommand): Promise<LoadAnswer> {
  const start = performance.now()
  const options = { tpSize, device, dtype: 'bfloat16', prefixReuse: false, reproducible, ...(devices && { devices }) } as const // every prompt is computed
  model = await AutoModelForCausalLM.fromPretrained(folder, options)
  return { seconds: secondsSince(start), info: model.info(), ...peakMemory() }
}

// Ranks are threads of this process, so the system knows their memory together only.
function peakMemory(): { peakBytes?: number } {
  try {
    const kilobytes = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]
    return kilobytes ? { peakBytes: 1024 * Number(kilobytes) } : {}
  } catch {
    return {} // not Linux
  }
}

// Time to the first token, and that token: proof that all contenders run the same model.
async function prefill({ ids }: { ids: number[] }): Promise<object> {
  const start = performance.now()
  const { tokenIds } = await loaded().generate(ids, { maxNewTokens: 1, doSample: false, ignoreEos: true })
  return { seconds: secondsSince(start), token: tokenIds[0] }
}

// A prompt, and the logits of its last token.
async function logits({ ids }: { ids: number[] }): Promise<LogitsAnswer> {
  const start = performance.now()
  const { logits } = await loaded().forward([ids], { lastOnly: true })
  return { seconds: secondsSince(start), digest: createHash('sha256').update(Buffer.from(logits.buffer, logits.byteOffset, logits.byteLength)).digest('hex') }
}

// Seconds a token after the prompt and `skip` tokens.
async function decode({ ids, skip, count }: { ids: number[]; skip: number; count: number }): Promise<DecodeAnswer> {
  const tokenIds: number[] = []
  const stamps = (await stampsOf(ids, skip + count + 1, tokenIds)).slice(skip)
  return { secondsPerToken: (stamps[count] - stamps[0]) / 1000 / count, gaps: gapsOf(stamps), tokenIds }
}

// When each token of an answer came, in milliseconds; `tokenIds` gets them.
async function stampsOf(ids: number[], count: number, tokenIds: number[] = []): Promise<number[]> {
  const stamps: number[] = []
  for await (const piece of loaded().stream(ids, { maxNewTokens: count, doSample: false, ignoreEos: true })) {
    for (const id of piece.tokenIds) {
      stamps.push(performance.now())
      tokenIds.push(id)
    }
  }
  if (stamps.length !== count) throw new Error(`stream: expected ${count} tokens, got ${stamps.length}`)
  return stamps
}

function gapsOf(stamps: number[]): number[] {
  return stamps.slice(1).map((at, i) => (at - stamps[i]) / 1000)
}

// Several answers at once, from prompts to last tokens, as a server sees them.
async function generate({ rows, count }: { rows: number[][]; count: number }): Promise<GenerateAnswer> {
  const start = performance.now()
  const { value: stamps, loopDelay } = await watchingLoop(() => Promise.all(rows.map((ids) => stampsOf(ids, count))))
  return {
    firstTokenSeconds: stamps.map(([first]) => (first - start) / 1000),
    gaps: stamps.flatMap(gapsOf),
    seconds: (Math.max(...stamps.map((one) => one[one.length - 1])) - start) / 1000,
    loopDelay,
  }
}

// The same watch over a loop that has nothing to do: what the system's own timers add.
async function idle({ milliseconds }: { milliseconds: number }): Promise<{ loopDelay: LoopDelay }> {
  const { loopDelay } = await watchingLoop(() => new Promise((resolve) => setTimeout(resolve, milliseconds)))
  return { loopDelay }
}

async function watchingLoop<T>(act: () => Promise<T>): Promise<{ value: T; loopDelay: LoopDelay }> {
  const resolution = 1
  const histogram = monitorEventLoopDelay({ resolution })
  histogram.enable()
  const value = await act()
  histogram.disable()
  const late = (nanoseconds: number) => Math.max(0, nanoseconds / 1e6 - resolution) // it counts the wait that was asked for
  return { value, loopDelay: { p50: late(histogram.percentile(50)), p99: late(histogram.percentile(99)), most: late(histogram.max) } }
}

// Seconds a step that makes one token for each of several sequences, all in decode: from when every one has `skip` tokens to when the first
// has them all.
async function decodeBatch({ rows, skip, count }: { rows: number[][]; skip: number; count: number }): Promise<object> {
  const stamps = rows.map((): number[] => [])
  const most = skip + count + 1
  await Promise.all(
    rows.map(async (ids, row) => {
      for await (const piece of loaded().stream(ids, { maxNewTokens: most, doSample: false, ignoreEos: true })) {
        for (const _ of piece.tokenIds) stamps[row].push(performance.now())
      }
    })
  )
  const begin = Math.max(...stamps.map((one) => one[skip]))
  const end = Math.min(...stamps.map((one) => one[most - 1]))
  const steps = Math.min(...stamps.map((one) => one.filter((at) => at > begin && at <= end).length))
  if (steps < 1) throw new Error('decodeBatch: expected sequences that decode together; ask for more tokens')
  return { secondsPerStep: (end - begin) / 1000 / steps }
}

// One token through a whole forward pass and its logits back into JavaScript.
async function forward({ count }: { count: number }): Promise<object> {
  const start = performance.now()
  for (let i = 0; i < count; i++) await loaded().forward([[i & 7]], { lastOnly: true })
  return { secondsPerCall: secondsSince(start) / count }
}

async function open({ size, device, devices }: Placement & { size: number }): Promise<object> {
  group = await openGroup({ size, device, ...(devices && { devices }) })
  return {}
}

// Records, compiles, runs and disposes the smallest program there is.
async function evaluate({ count }: { count: number }): Promise<object> {
  const current = opened()
  const x = { data: new Float32Array(64).fill(0.5), shape: [1, 64] }
  const start = performance.now()
  for (let i = 0; i < count; i++) await current.evaluate((g) => g.input(x).activation('relu'))
  return { secondsPerCall: secondsSince(start) / count }
}

// A recorded program of one small operation, run again and again: a message to every rank, and one completion back.
async function roundTrip({ count }: { count: number }): Promise<object> {
  const current = opened()
  const caches = new KVCaches(current, 1)
  const program = await Program.create(current, { maxTokens: 1, maxSequences: 1, caches }, (g) => g.output('y', g.input('x', 8).activation('relu')))
  const step = {
    tokens: Int32Array.of(0), positions: Int32Array.of(0), sequenceStarts: Int32Array.of(0, 1), slots: Int32Array.of(0),
    blockTable: Int32Array.of(0), inputs: { x: { data: new Float32Array(8).fill(0.5), shape: [1, 8] } },
  }
  const start = performance.now()
  for (let i = 0; i < count; i++) await program.run(step)
  const secondsPerCall = secondsSince(start) / count
  program.dispose()
  caches.dispose()
  return { secondsPerCall }
}

// Two synchronous calls into the addon (instruction set, counters of every rank) and the objects made of them.
async function call({ count }: { count: number }): Promise<object> {
  const current = opened()
  const start = performance.now()
  for (let i = 0; i < count; i++) current.info()
  return { secondsPerCall: secondsSince(start) / count }
}

function opened(): Group {
  if (!group) throw new Error('expected open first')
  return group
}

function secondsSince(start: number): number {
  return (performance.now() - start) / 1000
}

answerLines({ load, prefill, logits, decode, decodeBatch, generate, idle, forward, open, evaluate, roundTrip, call }).finally(async () => {
  await model?.close()
  await group?.close()
})
