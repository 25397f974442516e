// Seeded random tensors: the same numbers on every run and machine.
import type { HostTensor } from '../../lib/native'

export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0 || 1
  }

  /** in [0, 1) (mulberry32) */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }

  integer(bound: number): number {
    return Math.floor(this.next() * bound)
  }

  /** uniform in [-scale, scale) */
  array(count: number, scale = 1): Float32Array {
    return Float32Array.from({ length: count }, () => (this.next() * 2 - 1) * scale)
  }

  matrix(rows: number, width: number, scale = 1): HostTensor {
    return { data: this.array(rows * width, scale), shape: [rows, width] }
  }
}
