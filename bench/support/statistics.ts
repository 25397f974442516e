// Medians and spreads. A single figure of the bench is always a median, shown with its quartiles.
import { type Facts } from './facts'

export function quantile(samples: readonly number[], q: number): number {
  const sorted = [...samples].sort((a, b) => a - b)
  const at = (sorted.length - 1) * q
  const low = Math.floor(at)
  const high = Math.ceil(at)
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low)
}

export function median(samples: readonly number[]): number {
  return quantile(samples, 0.5)
}

export interface Goal {
  least?: number
  most?: number
}

export interface Result {
  name: string
  unit: string
  median: number
  low: number // lower quartile
  high: number // upper quartile
  samples: number[]
  goal?: Goal
  met?: boolean
  better?: 'higher' | 'lower' // only where neither the goal nor the unit says it
  facts?: Facts
}

export function result(name: string, unit: string, samples: number[], goal?: Goal): Result {
  if (samples.length === 0) throw new Error(`${name}: expected at least one sample, got none`)
  const middle = median(samples)
  const met = goal && middle >= (goal.least ?? -Infinity) && middle <= (goal.most ?? Infinity)
  return { name, unit, median: middle, low: quantile(samples, 0.25), high: quantile(samples, 0.75), samples, goal, met }
}

// Two series that were taken in alternation, divided pair by pair: what disturbs the machine disturbs both halves of a pair.
export function ratios(numerators: readonly number[], denominators: readonly number[]): number[] {
  if (numerators.length !== denominators.length) {
    throw new Error(`ratios: expected series of one length, got ${numerators.length} and ${denominators.length}`)
  }
  return numerators.map((numerator, i) => numerator / denominators[i])
}
