// heddle as one contender of the bench: a process that holds one model, or one group, and times what it is asked through the public API.
import { AutoModelForCausalLM, openGroup, type CausalLM, type Group } from 'heddle'
import { answerLines } from './support/answer-lines'

let model: CausalLM | undefined
let group: Group | undefined

function loaded(): CausalLM {
  if (!model) throw new Error('expected load first')
  return model
}

interface LoadCommand {
  folder: string
  tpSize: number
  device?: 'cpu' | 'cuda'
  devices?: number[]
}

async function load({ folder, tpSize, device = 'cpu', devices }: LoadCommand): Promise<object> {
  const start = performance.now()
  model = await AutoModelForCausalLM.fromPretrained(folder, { tpSize, device, dtype: 'bfloat16', ...(devices && { devices }) })
  return { seconds: secondsSince(start), info: model.info() }
}

// Time to the first token, and that token: proof that all contenders run the same model.
async function prefill({ ids }: { ids: number[] }): Promise<object> {
  const start = performance.now()
  const { tokenIds } = await loaded().generate(ids, { maxNewTokens: 1, doSample: false, ignoreEos: true })
  return { seconds: secondsSince(start), token: tokenIds[0] }
}

// Seconds a token after the prompt and `skip` tokens.
async function decode({ ids, skip, count }: { ids: number[]; skip: number; count: number }): Promise<object> {
  const stamps: number[] = []
  for await (const piece of loaded().stream(ids, { maxNewTokens: skip + count + 1, doSample: false, ignoreEos: true })) {
    for (const _ of piece.tokenIds) stamps.push(performance.now())
  }
  if (stamps.length !== skip + count + 1) throw new Error(`stream: expected ${skip + count + 1} tokens, got ${stamps.length}`)
  return { secondsPerToken: (stamps[skip + count] - stamps[skip]) / 1000 / count }
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

async function open({ size }: { size: number }): Promise<object> {
  group = await openGroup({ size, device: 'cpu' })
  return {}
}

// Records, compiles, runs and disposes the smallest program there is.
async function evaluate({ count }: { count: number }): Promise<object> {
  const current = group
  if (!current) throw new Error('expected open first')
  const x = { data: new Float32Array(64).fill(0.5), shape: [1, 64] }
  const start = performance.now()
  for (let i = 0; i < count; i++) await current.evaluate((g) => g.input(x).activation('relu'))
  return { secondsPerCall: secondsSince(start) / count }
}

function secondsSince(start: number): number {
  return (performance.now() - start) / 1000
}

answerLines({ load, prefill, decode, decodeBatch, forward, open, evaluate }).finally(async () => {
  await model?.close()
  await group?.close()
})
