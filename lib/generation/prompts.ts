// What a caller may ask with, and its token ids. Rule: every prompt of a call is checked before anything starts.
import { HeddleError, invalidArgument } from '../errors'
import type { Message } from '../tokenizer/chat-template'
import { isIntegers } from '../tokenizer/token-ids'
import type { TokenIds } from '../tokenizer/token-ids'
import type { Tokenizer } from '../tokenizer/tokenizer'

/** Raw text, a chat, or token ids. Text and chats need a tokenizer; only a chat goes through the model's chat template. */
export type Prompt = string | readonly Message[] | TokenIds

/** A list of texts, of chats, of lists of ids, or of them mixed. One chat is a list of messages, which are neither. */
export function isBatch(input: Prompt | readonly Prompt[]): input is readonly Prompt[] {
  return Array.isArray(input) && input.length > 0 && input.every((item) => typeof item === 'string' || Array.isArray(item) || isIntegers(item))
}

export class PromptReader {
  constructor(
    private readonly vocabSize: number,
    private readonly tokenizer: Tokenizer | undefined
  ) {}

  /** `name`: what a message calls it. Throws `invalid_argument` for what is no prompt, for none of its tokens, and for text where there is no tokenizer. */
  async ids(where: string, prompt: Prompt, name = 'prompt'): Promise<readonly number[]> {
    const ids = await this.#encoded(where, name, prompt)
    this.checkIds(`${where}: ${name}`, ids, Infinity)
    return ids
  }

  /** A prompt as text, for an answer that begins with it; empty without a tokenizer. */
  text(prompt: Prompt, ids: readonly number[]): string {
    if (typeof prompt === 'string') return prompt
    return this.tokenizer?.decode(ids, { skipSpecialTokens: typeof prompt[0] === 'number' }) ?? ''
  }

  checkIds(where: string, ids: unknown, maxLength: number): void {
    if (!Array.isArray(ids) || ids.length === 0) throw invalidArgument(where, 'at least one token', ids)
    if (ids.length > maxLength) throw invalidArgument(where, `at most ${maxLength} tokens, the context`, ids)
    const wrong = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= this.vocabSize)
    if (wrong >= 0) throw invalidArgument(`${where}: token ${wrong}`, `an id from 0 to ${this.vocabSize - 1}`, ids[wrong])
  }

  async #encoded(where: string, name: string, prompt: Prompt): Promise<readonly number[]> {
    if (typeof prompt === 'string') {
      if (!this.tokenizer) throw noTokenizer(where, 'a text')
      if (prompt === '') throw invalidArgument(`${where}: ${name}`, 'at least one token', prompt)
      return this.tokenizer.encode(prompt)
    }
    if (isIntegers(prompt)) return Array.from(prompt)
    if (!Array.isArray(prompt)) throw invalidArgument(`${where}: ${name}`, 'a text, messages or token ids, or a list of prompts', prompt)
    if (!isChat(prompt)) return prompt as readonly number[]
    if (!this.tokenizer) throw noTokenizer(where, 'messages')
    return this.tokenizer.encodeChat(prompt)
  }
}

function isChat(prompt: readonly unknown[]): prompt is readonly Message[] {
  return prompt.some((item) => typeof item === 'object')
}

export const noTokenizer = (where: string, what: string): HeddleError =>
  new HeddleError('invalid_argument', `${where}: expected token ids, since the model folder has no tokenizer, got ${what}`)
