// Axes as functions: from values to pixels, with the values that deserve a tick.

export interface Tick {
  value: number
  text: string // empty: a tick without a label
}

export interface Axis {
  title: string // with its unit
  kind: 'linear' | 'log2' | 'log10'
  /** Values that the axis must reach, beside those of the data. */
  include?: number[]
  /** How a tick is written; plain numbers where absent. */
  text?: (value: number) => string
  /** Ticks here and nowhere else; a linear axis then holds these and need not hold 0. */
  only?: number[]
}

export interface Scale {
  at(value: number): number
  domain: [number, number]
  ticks: Tick[]
}

/** A scale from the pixel `from` to the pixel `to` that holds all values. Linear ones hold 0. */
export function makeScale(axis: Axis, values: readonly number[], from: number, to: number): Scale {
  const all = [...values, ...(axis.include ?? [])].filter((value) => Number.isFinite(value) && (axis.kind === 'linear' || value > 0))
  return axis.kind === 'linear' ? linear(axis, all, from, to) : logarithmic(axis, all, from, to)
}

function linear(axis: Axis, values: readonly number[], from: number, to: number): Scale {
  if (axis.only) return among(axis, axis.only, values, from, to)
  const lowest = Math.min(0, ...values)
  const highest = Math.max(0, ...values)
  const step = niceStep((highest - lowest || 1) / 5)
  const first = Math.floor(lowest / step)
  const last = Math.max(first + 1, Math.ceil(highest / step - 1e-9))
  const at = (value: number) => from + ((value / step - first) / (last - first)) * (to - from)
  const steps = Array.from({ length: last - first + 1 }, (_, i) => clean((first + i) * step))
  return { at, domain: [first * step, last * step], ticks: steps.map((value) => ({ value, text: (axis.text ?? plain)(value) })) }
}

function among(axis: Axis, only: number[], values: readonly number[], from: number, to: number): Scale {
  const [low, high] = [Math.min(...only, ...values), Math.max(...only, ...values)]
  const more = 0.08 * (high - low) || 1
  const domain: [number, number] = [low - more, high + more]
  const at = (value: number) => from + ((value - domain[0]) / (domain[1] - domain[0])) * (to - from)
  return { at, domain, ticks: only.map((value) => ({ value, text: (axis.text ?? plain)(value) })) }
}

function logarithmic(axis: Axis, values: readonly number[], from: number, to: number): Scale {
  const [low, high] = axis.kind === 'log2' ? octaves(axis, values) : decades(values)
  const at = (value: number) => from + (Math.log(value / low) / Math.log(high / low)) * (to - from)
  const text = axis.text ?? plain
  const major = axis.only ?? powers(axis.kind === 'log2' ? 2 : 10, low, high)
  const ticks = major.map((value) => ({ value, text: text(value) }))
  const few = axis.kind === 'log10' && !axis.only && high / low <= 1e5
  return { at, domain: [low, high], ticks: few ? [...ticks, ...withinDecades(low, high, text)] : ticks }
}

// A little more on both sides, so that no mark sits on the frame.
function octaves(axis: Axis, values: readonly number[]): [number, number] {
  const all = [...values, ...(axis.only ?? [])]
  const [low, high] = [Math.min(...all), Math.max(...all)]
  const more = 2 ** Math.max(0.25, 0.04 * Math.log2(high / low))
  return [low / more, high * more]
}

// Ends on 1, 2 or 5 times a power of ten.
function decades(values: readonly number[]): [number, number] {
  const steps = (value: number) => [0.1, 0.2, 0.5, 1, 2, 5, 10].map((digit) => clean(digit * 10 ** Math.floor(Math.log10(value))))
  const low = steps(Math.min(...values)).findLast((step) => step <= Math.min(...values) * (1 + 1e-9))!
  const high = steps(Math.max(...values)).find((step) => step >= Math.max(...values) * (1 - 1e-9))!
  return low < high ? [low, high] : [low / 2, high * 2]
}

// The powers of the base in the range, thinned out to ten or so; 1 KB is always among those of 2.
function powers(base: number, low: number, high: number): number[] {
  const log = (value: number) => Math.log(value) / Math.log(base)
  const first = Math.ceil(log(low) - 1e-9)
  const all = Array.from({ length: Math.floor(log(high) + 1e-9) - first + 1 }, (_, i) => first + i)
  const stride = [1, 2, 4, 5, 10, 20, 50].find((candidate) => all.length / candidate <= 9) ?? 100
  return all.filter((power) => (power - 10) % stride === 0).map((power) => base ** power)
}

// Between the powers of ten: ticks at 2 to 9, with labels at 2 and 5 where there is room.
function withinDecades(low: number, high: number, text: (value: number) => string): Tick[] {
  const roomy = high / low <= 200
  const decades = Array.from({ length: 8 }, (_, i) => 10 ** (Math.floor(Math.log10(low)) + i))
  return decades
    .flatMap((decade) => [2, 3, 4, 5, 6, 7, 8, 9].map((digit) => ({ digit, value: clean(decade * digit) })))
    .filter(({ value }) => value >= low * 0.999 && value <= high * 1.001)
    .map(({ digit, value }) => ({ value, text: roomy && (digit === 2 || digit === 5) ? text(value) : '' }))
}

// 1, 2 or 5 times a power of ten.
function niceStep(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough))
  const digit = [1, 2, 2.5, 5, 10].find((candidate) => candidate * power >= rough * 0.999)!
  return digit * power
}

function clean(value: number): number {
  return Number(value.toPrecision(12))
}

function plain(value: number): string {
  return Math.abs(value) >= 10000 ? `${clean(value / 1000)}k` : String(clean(value))
}
