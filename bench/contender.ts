// heddle as one contender of the bench: a process that holds one model, or one group, and times what it is asked through the public API.
import { AutoModelForCausalLM, openGroup, type CausalLM, type Group } from 'heddle'
import { answerLines } from './support/answer-lines'

let model: CausalLM | undefined
let group: Group | undefined

function loaded(): CausalLM {
  if (!model) throw new Error('expected load first')
  return model
}

async function load({ folder, tpSize }: { folder: string; tpSize: number }): Promise<object> {
  const start = performance.now()
  model = await AutoModelForCausalLM.fromPretrained(folder, { tpSize, device: 'cpu', dtype: 'bfloat16' })
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

answerLines({ load, prefill, decode, forward, open, evaluate }).finally(async () => {
  await model?.close()
  await group?.close()
})
