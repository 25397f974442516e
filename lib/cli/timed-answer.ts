// One answer and how fast it came: the prompt up to the first token, and the tokens after it. Making ids of the prompt is not counted.
import type { CausalLM, Prompt } from '../causal-lm'
import type { Generation } from '../generation/generation'
import type { GenerateOptions } from '../generation/options'
import type { Message } from '../tokenizer/chat-template'

export interface TimedAnswer {
  generation: Generation
  prefillTokensPerSecond: number
  /** of the tokens after the first; 0 where there are none */
  decodeTokensPerSecond: number
}

export async function timedAnswer(model: CausalLM, prompt: string | Message[], options: GenerateOptions): Promise<TimedAnswer> {
  const ids = await encoded(model, prompt)
  let firstAt: number | undefined
  const started = performance.now()
  const pieces = model.stream(ids, options)
  let next = await pieces.next()
  for (; !next.done; next = await pieces.next()) firstAt ??= performance.now()
  const generation = next.value
  const ended = performance.now()
  const { promptTokens, completionTokens } = generation.usage
  const decodeMs = ended - (firstAt ?? ended)
  return {
    generation,
    prefillTokensPerSecond: firstAt === undefined ? 0 : (promptTokens * 1000) / (firstAt - started),
    decodeTokensPerSecond: completionTokens > 1 && decodeMs > 0 ? ((completionTokens - 1) * 1000) / decodeMs : 0
  }
}

/** Without a tokenizer, or with an empty text, the model's own check says what is wrong. */
async function encoded(model: CausalLM, prompt: string | Message[]): Promise<Prompt> {
  if (!model.tokenizer || prompt === '') return prompt
  return typeof prompt === 'string' ? model.tokenizer.encode(prompt) : model.tokenizer.encodeChat(prompt)
}
