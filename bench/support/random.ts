// Seeded random numbers for synthetic weights and prompts. The same seed gives the same bytes on every machine.

// Marsaglia's xorshift with 32 bits of state; the state is never 0.
export class XorShift {
  private state: number

  constructor(seed: number) {
    this.state = (Math.imul(seed, 0x9e3779b1) ^ 0x85ebca6b) >>> 0 || 1
  }

  next(): number {
    let x = this.state
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    this.state = x >>> 0
    return this.state
  }

  below(limit: number): number {
    return this.next() % limit
  }

  unit(): number {
    return (this.next() + 0.5) / 4294967296 // in (0, 1)
  }
}

export function randomIds(count: number, vocabSize: number, seed: number): number[] {
  const random = new XorShift(seed)
  return Array.from({ length: count }, () => random.below(vocabSize - 2)) // the last two are the begin and end tokens
}

// 65536 bfloat16 values of N(0, deviation), to draw weights from by 16 random bits each: a lookup a weight, not a logarithm.
export function normalTable(deviation: number, seed: number): Uint16Array {
  const random = new XorShift(seed)
  const table = new Uint16Array(65536)
  for (let i = 0; i < table.length; i += 2) {
    const radius = deviation * Math.sqrt(-2 * Math.log(random.unit()))
    const angle = 2 * Math.PI * random.unit()
    table[i] = bfloat16Bits(radius * Math.cos(angle))
    table[i + 1] = bfloat16Bits(radius * Math.sin(angle))
  }
  return table
}

const float32 = new Float32Array(1)
const bits = new Uint32Array(float32.buffer)

// Rounds to nearest, ties to even; finite values only.
export function bfloat16Bits(value: number): number {
  float32[0] = value
  return (bits[0] + 0x7fff + ((bits[0] >>> 16) & 1)) >>> 16
}
