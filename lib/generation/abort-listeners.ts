// Who waits for an AbortSignal. Rule: a signal has one listener of ours, however many answers wait for it: Node warns of a leak from the
// eleventh on, and a batch has more.

const waiting = new WeakMap<AbortSignal, Listeners>()

/** Calls `listener` once the signal aborts; the returned function ends that. */
export function onAbort(signal: AbortSignal, listener: () => void): () => void {
  const listeners = waiting.get(signal) ?? new Listeners(signal)
  listeners.add(listener)
  return () => listeners.remove(listener)
}

class Listeners {
  readonly #all = new Set<() => void>()

  constructor(private readonly signal: AbortSignal) {
    waiting.set(signal, this)
    signal.addEventListener('abort', this.#call, { once: true })
  }

  add(listener: () => void): void {
    this.#all.add(listener)
  }

  remove(listener: () => void): void {
    this.#all.delete(listener)
    if (this.#all.size === 0) this.#end()
  }

  readonly #call = (): void => {
    const all = [...this.#all]
    this.#end()
    for (const listener of all) listener()
  }

  #end(): void {
    this.signal.removeEventListener('abort', this.#call)
    if (waiting.get(this.signal) === this) waiting.delete(this.signal)
  }
}
