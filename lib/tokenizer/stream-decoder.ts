// Turns token ids into text as they arrive.
// Rule: the pieces joined are exactly what decoding all ids at once gives, and no piece cuts a character.

import { invalidArgument } from '../errors'
import { listOf } from './token-ids'
import type { TokenIds } from './token-ids'

/** What the stream decoder needs of a tokenizer. */
export interface TokenText {
  /** Whether the token adds to the text at all: false for special tokens that are skipped and for ids outside the vocabulary. */
  contributes(id: number): boolean
  /** The text of ids that all contribute, decoded as if nothing stood before them. */
  textOf(ids: readonly number[]): string
}

export interface StreamDecoder {
  /** Takes the next token or tokens and returns the text that no later token can change; often empty in the middle of a character. */
  push(ids: number | TokenIds): string
  /** Ends the text: returns what was held back (an incomplete character shows as U+FFFD) and makes the decoder ready for a new text. */
  flush(): string
}

const replacementCharacter = '\uFFFD'
const maxCharacterTokens = 4 // a UTF-8 character has at most 4 bytes and a token at least one
const longPendingWindow = 4 * maxCharacterTokens

export function createStreamDecoder(source: TokenText): StreamDecoder {
  return new WindowDecoder(source)
}

// A token's text can depend on its neighbours: the bytes of a character may be spread over tokens, and a space in front of the first word
// is dropped. So the decoder keeps a window: a few tokens of context whose text is out already, then those whose text is not complete.
class WindowDecoder implements StreamDecoder {
  private window: number[] = []
  private emittedLength = 0 // of the window's text

  constructor(private readonly source: TokenText) {}

  push(ids: number | TokenIds): string {
    const given = typeof ids === 'number' ? [ids] : listOf(ids)
    if (!Array.isArray(given) || !given.every((id) => Number.isInteger(id) && id >= 0)) throw invalidArgument('StreamDecoder.push', 'a token id or a list of them', ids)
    const added = given.filter((id) => this.source.contributes(id))
    if (added.length === 0) return ''
    this.window = this.window.concat(added)
    const text = this.source.textOf(this.window)
    // An incomplete character decodes to one U+FFFD at the end. It may also be a real one; then it only comes out one token later.
    const pending = text.endsWith(replacementCharacter)
    const end = Math.max(this.emittedLength, pending ? text.length - 1 : text.length)
    const piece = text.slice(this.emittedLength, end)
    this.emittedLength = end
    if (!pending) this.shrinkToContext()
    else if (this.window.length > longPendingWindow) this.dropBrokenBytes(text)
    return piece
  }

  flush(): string {
    const piece = this.window.length === 0 ? '' : this.source.textOf(this.window).slice(this.emittedLength)
    this.window = []
    this.emittedLength = 0
    return piece
  }

  /** Keeps the fewest last tokens that have text of their own: what is special about the start of a text then falls on the context. */
  private shrinkToContext(): void {
    for (let length = 1; length < this.window.length; length++) {
      const context = this.window.slice(-length)
      const contextLength = this.source.textOf(context).length
      if (contextLength === 0) continue
      this.window = context
      this.emittedLength = contextLength
      return
    }
  }

  /** A model that writes broken UTF-8 for long would make the window grow: cut it where both halves still decode to the same text. */
  private dropBrokenBytes(text: string): void {
    for (let kept = maxCharacterTokens; kept <= 2 * maxCharacterTokens; kept++) {
      const head = this.source.textOf(this.window.slice(0, -kept))
      const tail = this.window.slice(-kept)
      if (head + this.source.textOf(tail) !== text) continue
      this.window = tail
      this.emittedLength -= head.length
      return
    }
  }
}
