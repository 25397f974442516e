// `heddle generate`: one answer, as text while it comes or as one JSON object. Rule: stdout carries the answer and nothing else.
import { readFile } from 'node:fs/promises'
import { text as streamText } from 'node:stream/consumers'
import { AutoModelForCausalLM } from '../causal-lm'
import type { CausalLM } from '../causal-lm'
import { HeddleError, messageOf } from '../errors'
import type { GenerateOptions } from '../generation/options'
import type { Message } from '../tokenizer/chat-template'
import { answerArguments, answerOptions, modelArguments, modelOptions, parseOptions, text, UsageError } from './arguments'
import type { Values } from './arguments'
import { interruptSignal } from './interrupt'
import { timedAnswer } from './timed-answer'

export async function generate(args: string[]): Promise<void> {
  const values = parseOptions(args, {
    ...modelOptions,
    ...answerOptions,
    prompt: { type: 'string' },
    messages: { type: 'string' },
    echo: { type: 'boolean' },
    logprobs: { type: 'string' },
    json: { type: 'boolean' }
  })
  const { model: name, options } = modelArguments(values)
  const answer = answerArguments(values)
  const prompt = await readPrompt(values)
  const signal = interruptSignal()
  const started = performance.now()
  await using model = await AutoModelForCausalLM.fromPretrained(name, { ...options, signal })
  const loadMs = performance.now() - started
  if (values.json) process.stdout.write(`${JSON.stringify(await jsonAnswer(model, prompt, { ...answer, signal }, loadMs))}\n`)
  else await printAnswer(model, prompt, { ...answer, signal })
}

async function readPrompt(values: Values): Promise<string | Message[]> {
  const prompt = text(values, 'prompt')
  const file = text(values, 'messages')
  if ((prompt === undefined) === (file === undefined)) throw new UsageError('expected one of --prompt TEXT and --messages FILE')
  if (file === undefined) return prompt!
  const source = await readSource(file).catch((cause) => {
    throw new HeddleError('invalid_argument', `--messages: ${messageOf(cause)}`, { cause })
  })
  return parseMessages(source, file)
}

/** Standard input may be a socket, as where Node started this process; a socket cannot be opened by its path. */
async function readSource(file: string): Promise<string> {
  return file === '-' || file === '/dev/stdin' || file === '/dev/fd/0' ? streamText(process.stdin) : readFile(file, 'utf8')
}

function parseMessages(source: string, file: string): Message[] {
  let value: unknown
  try {
    value = JSON.parse(source)
  } catch (cause) {
    throw new HeddleError('invalid_argument', `--messages ${file}: not JSON: ${messageOf(cause)}`, { cause })
  }
  const isMessage = (item: unknown): item is Message => typeof item === 'object' && item !== null && 'role' in item && 'content' in item
  if (Array.isArray(value) && value.length > 0 && value.every(isMessage)) return value
  throw new HeddleError('invalid_argument', `--messages ${file}: expected a list of at least one {"role", "content"}`)
}

async function jsonAnswer(model: CausalLM, prompt: string | Message[], options: GenerateOptions, loadMs: number): Promise<object> {
  const { generation, prefillTokensPerSecond, decodeTokensPerSecond } = await timedAnswer(model, prompt, options)
  const { size, device } = model.info()
  return {
    text: generation.text,
    tokenIds: generation.tokenIds,
    promptTokens: generation.usage.promptTokens,
    finishReason: generation.finishReason,
    ...(generation.logprobs && { logprobs: generation.logprobs }),
    ...(generation.promptLogprobs && { promptLogprobs: generation.promptLogprobs }),
    tp: size,
    device,
    timings: {
      loadMs: rounded(loadMs),
      prefillTokensPerSecond: rounded(prefillTokensPerSecond),
      decodeTokensPerSecond: rounded(decodeTokensPerSecond)
    }
  }
}

async function printAnswer(model: CausalLM, prompt: string | Message[], options: GenerateOptions): Promise<void> {
  for await (const piece of model.stream(prompt, options)) process.stdout.write(piece.text)
  process.stdout.write('\n')
}

const rounded = (value: number): number => Math.round(value * 10) / 10
