// The answers of one call of generate or stream: one, or those of a batch. Rule: a call ends as one. When an answer fails, or the caller
// leaves the loop, the others are aborted.
import type { Engine } from './engine'
import { ActiveGeneration } from './generation'
import type { Generation, GenerationRequest, Piece } from './generation'

export class Answers {
  readonly #active: ActiveGeneration[]
  #changed = false
  #notify: () => void = () => {}

  /** Starts all of them in one turn of the event loop, so that they share their first step. */
  constructor(engine: Engine, requests: readonly GenerationRequest[]) {
    const onChange = (): void => {
      this.#changed = true
      this.#notify()
    }
    this.#active = requests.map((request) => new ActiveGeneration(engine, request, onChange))
  }

  /** In the order of the requests; rejects with the first failure. */
  async finished(): Promise<Generation[]> {
    try {
      return await Promise.all(this.#active.map(({ finished }) => finished))
    } finally {
      this.#abort()
    }
  }

  /** Pieces as they come, then all answers as the return value. Ends quietly after an abort, throws after a failure; leaving early aborts. */
  async *pieces(): AsyncGenerator<Piece, Generation[], void> {
    try {
      for (;;) {
        this.#changed = false
        for (const active of this.#active) {
          const piece = active.takePiece()
          if (piece) yield piece
        }
        if (this.#changed) continue
        if (this.#active.every(({ ended }) => ended) || this.#active.some(({ failed }) => failed)) return await this.finished()
        await this.#change()
      }
    } finally {
      this.#abort()
    }
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#notify = resolve
    })
  }

  #abort(): void {
    for (const active of this.#active) active.abort()
  }
}
