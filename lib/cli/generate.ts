// `heddle generate`: one answer, as text while it comes or as one JSON object. Rule: stdout carries the answer and nothing else.
import { readFile } from 'node:fs/promises'
import { text as streamText } from 'node:stream/consumers'
import { AutoModelForCausalLM } from '../causal-lm'
import type { CausalLM } from '../causal-lm'
import { HeddleError, messageOf } from '../errors'
import type { Generation } from '../generation/generation'
import type { BatchOptions } from '../generation/options'
import type { Message } from '../tokenizer/chat-template'
import { parseFlags, readFlags, UsageError } from './flags'
import type { Values } from './flags'
import { interruptSignal } from './interrupt'
import { loading } from './loading'
import { generateFlags, jsonFlag, loadFlags, modelFlag, promptFlags } from './options'
import { timedAnswers } from './timed-answers'

export async function generate(args: string[]): Promise<void> {
  const values = parseFlags(args, modelFlag, loadFlags, promptFlags, generateFlags, jsonFlag)
  const { model: name, options } = loading(values)
  const answer = readFlags(values, generateFlags)
  const prompt = await readPrompt(values)
  const signal = interruptSignal()
  const started = performance.now()
  await using model = await AutoModelForCausalLM.fromPretrained(name, { ...options, signal })
  const loadMs = performance.now() - started
  if (values.json) process.stdout.write(`${JSON.stringify(await jsonAnswer(model, prompt, { ...answer, signal }, loadMs))}\n`)
  else await printAnswers(model, prompt, { ...answer, signal })
}

async function readPrompt(values: Values): Promise<string | Message[]> {
  const { prompt, messages: file } = readFlags(values, promptFlags)
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

/** With `--n` a list of answers in place of one. */
async function jsonAnswer(model: CausalLM, prompt: string | Message[], options: BatchOptions, loadMs: number): Promise<object> {
  const { answers, prefillTokensPerSecond, decodeTokensPerSecond } = await timedAnswers(model, prompt, options)
  const { size, device } = model.info()
  const [first] = answers
  const { promptTokens } = first!.usage
  return {
    ...(options.n === undefined ? { ...shownAnswer(first!), promptTokens } : { answers: answers.map(shownAnswer), promptTokens }),
    ...(first!.promptLogprobs && { promptLogprobs: first!.promptLogprobs }),
    tp: size,
    device,
    timings: {
      loadMs: rounded(loadMs),
      prefillTokensPerSecond: rounded(prefillTokensPerSecond),
      decodeTokensPerSecond: rounded(decodeTokensPerSecond)
    }
  }
}

const shownAnswer = ({ text, tokenIds, finishReason, logprobs }: Generation): object =>
  ({ text, tokenIds, finishReason, ...(logprobs && { logprobs }) })

/** Several answers come one after the other, an empty line between them. */
async function printAnswers(model: CausalLM, prompt: string | Message[], { n = 1, ...options }: BatchOptions): Promise<void> {
  const waiting: string[] = Array.from({ length: n }, () => '')
  for await (const { index, text } of model.stream(prompt, { ...options, n })) {
    if (index === 0) process.stdout.write(text)
    else waiting[index] += text
  }
  process.stdout.write('\n')
  for (const text of waiting.slice(1)) process.stdout.write(`\n${text}\n`)
}

const rounded = (value: number): number => Math.round(value * 10) / 10
