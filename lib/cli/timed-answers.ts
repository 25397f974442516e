// The answers to one prompt and how fast they came: the prompt up to the first token, and the tokens after it. Making ids of the prompt is not
// counted, unless the answers begin with its text, which ids do not tell.
import type { CausalLM, Prompt } from '../causal-lm'
import type { Generation } from '../generation/generation'
import type { BatchOptions } from '../generation/options'
import type { Message } from '../tokenizer/chat-template'

export interface TimedAnswers {
  answers: Generation[]
  prefillTokensPerSecond: number
  /** of the tokens after the first of each answer, all answers together; 0 where there are none */
  decodeTokensPerSecond: number
}

export async function timedAnswers(model: CausalLM, prompt: string | Message[], options: BatchOptions): Promise<TimedAnswers> {
  const given = options.echo ? prompt : await encoded(model, prompt)
  let firstAt: number | undefined
  const started = performance.now()
  const pieces = model.stream(given, { ...options, n: options.n ?? 1 })
  let next = await pieces.next()
  for (; !next.done; next = await pieces.next()) firstAt ??= performance.now()
  const answers = next.value
  const ended = performance.now()
  const decodeMs = ended - (firstAt ?? ended)
  const decoded = answers.reduce((sum, { usage }) => sum + Math.max(0, usage.completionTokens - 1), 0)
  return {
    answers,
    prefillTokensPerSecond: firstAt === undefined ? 0 : (answers[0]!.usage.promptTokens * 1000) / (firstAt - started),
    decodeTokensPerSecond: decodeMs > 0 ? (decoded * 1000) / decodeMs : 0
  }
}

/** Without a tokenizer, or with an empty text, the model's own check says what is wrong. */
async function encoded(model: CausalLM, prompt: string | Message[]): Promise<Prompt> {
  if (!model.tokenizer || prompt === '') return prompt
  return typeof prompt === 'string' ? model.tokenizer.encode(prompt) : model.tokenizer.encodeChat(prompt)
}
