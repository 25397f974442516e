// How figures are written, everywhere: three digits that mean something, prefixes where a unit is counted in powers of 1000.

export function shown(value: number): string {
  const size = Math.abs(value)
  if (size >= 100) return value.toFixed(0)
  if (size >= 10) return value.toFixed(1)
  return size >= 0.1 || size === 0 ? value.toFixed(2) : value.toPrecision(2)
}

const prefixes = [
  { prefix: 'T', factor: 1e12 },
  { prefix: 'G', factor: 1e9 },
  { prefix: 'M', factor: 1e6 },
  { prefix: 'k', factor: 1e3 },
]
const prefixed = /^([kMGTP]?)(FLOP\/s|B\/s|B)$/

/** The unit that suits the value, and what to divide by to get there: 4.8e11 FLOP/s is shown in GFLOP/s. Other units stay. */
export function suitableUnit(value: number, unit: string): { unit: string; divisor: number } {
  const base = inBaseUnit(unit)
  if (!base) return { unit, divisor: 1 }
  const fit = prefixes.find(({ factor }) => Math.abs(value * base.factor) >= factor) ?? { prefix: '', factor: 1 }
  return { unit: `${fit.prefix}${base.unit}`, divisor: fit.factor / base.factor }
}

/** 480 GFLOP/s is 480 · 1e9 FLOP/s; undefined for units that have no prefixes. */
export function inBaseUnit(unit: string): { unit: string; factor: number } | undefined {
  const match = prefixed.exec(unit)
  if (!match) return undefined
  return { unit: match[2], factor: { '': 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15 }[match[1]]! }
}

export function quantity(value: number, unit: string): string {
  const { unit: suited, divisor } = suitableUnit(value, unit)
  return `${shown(value / divisor)} ${suited}`
}

/** Sizes of messages in powers of 1024, as nccl-tests count them: 4 KB is 4096 bytes. */
export function bytesText(bytes: number): string {
  const power = bytes >= 2 ** 30 ? 3 : bytes >= 2 ** 20 ? 2 : bytes >= 2 ** 10 ? 1 : 0
  const value = bytes / 1024 ** power
  return `${Number.isInteger(value) ? value : shown(value)} ${['B', 'KB', 'MB', 'GB'][power]}`
}
