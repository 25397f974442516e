// The text of an answer while its tokens arrive. Text that may turn out to be the beginning of a stop string is held back until that is
// decided.
import type { StreamDecoder } from '../tokenizer/stream-decoder'

export class AnswerText {
  #held = ''
  #stopped = false

  constructor(
    private readonly decoder: StreamDecoder,
    private readonly stops: readonly string[]
  ) {}

  /** Whether a stop string came; nothing follows it. */
  get stopped(): boolean {
    return this.#stopped
  }

  /**
   * Takes a token; returns the text that is certain now, without the stop string and what follows it. Where it may not stop yet, its text is
   * no part of a stop string.
   */
  push(id: number, mayStop = true): string {
    const text = this.decoder.push(id)
    return mayStop ? this.#take(text, false) : text
  }

  /** Ends the text. */
  flush(): string {
    return this.#take(this.decoder.flush(), true)
  }

  #take(text: string, isEnd: boolean): string {
    if (this.#stopped) return ''
    this.#held += text
    const stopAt = this.#firstStop()
    this.#stopped = stopAt >= 0
    const end = this.#stopped ? stopAt : isEnd ? this.#held.length : this.#held.length - this.#openLength()
    const certain = this.#held.slice(0, end)
    this.#held = this.#stopped ? '' : this.#held.slice(end)
    return certain
  }

  #firstStop(): number {
    const found = this.stops.map((stop) => this.#held.indexOf(stop)).filter((index) => index >= 0)
    return found.length > 0 ? Math.min(...found) : -1
  }

  /** Length of the longest end of the held text that a stop string begins with. */
  #openLength(): number {
    let longest = 0
    for (const stop of this.stops) {
      for (let length = Math.min(stop.length - 1, this.#held.length); length > longest; length--) {
        if (this.#held.endsWith(stop.slice(0, length))) longest = length
      }
    }
    return longest
  }
}
