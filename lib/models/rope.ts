// Inverse frequencies of rotary position embeddings, with every step rounded to float32 as transformers (modeling_rope_utils.py) computes
// them.
import { inverseFrequencies as plainFrequencies } from '../layers/rotary-embedding'
import type { RotaryOptions } from '../layers/rotary-embedding'
import type { RopeConfig } from './rope-config'

const f32 = Math.fround

/** All that a rotary embedding is made of. */
export function rotaryOptions(rope: RopeConfig, headDim: number): RotaryOptions {
  const scale = 'attentionFactor' in rope ? rope.attentionFactor : 1
  return { inverseFrequencies: inverseFrequencies(rope, headDim), dim: rope.dim ?? headDim, scale }
}

/** float32 [dim / 2], dim being headDim unless the configuration says less; the angle of a position is position * frequency. */
export function inverseFrequencies(rope: RopeConfig, headDim: number): Float32Array {
  const dim = rope.dim ?? headDim
  const base = plainFrequencies(rope.theta, dim)
  if (rope.type === 'linear') return base.map((frequency) => frequency / f32(rope.factor))
  if (rope.type === 'llama3') return base.map((frequency) => llama3Frequency(frequency, rope))
  if (rope.type === 'yarn') return yarnFrequencies(rope, dim)
  if (rope.type === 'longrope') return powers(rope.theta, dim).map((power, i) => 1 / f32(f32(rope.shortFactor[i]!) * power))
  return base
}

const powers = (theta: number, dim: number): Float32Array =>
  Float32Array.from({ length: dim / 2 }, (_, i) => theta ** f32((2 * i) / dim))

/** Long wavelengths are stretched by the factor, short ones kept, and those between are blended. */
function llama3Frequency(frequency: number, rope: Extract<RopeConfig, { type: 'llama3' }>): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: context } = rope
  const wavelength = f32(f32(2 * Math.PI) / frequency)
  if (wavelength > context / lowFreqFactor) return f32(frequency / f32(factor))
  if (wavelength < context / highFreqFactor) return frequency
  const smooth = f32(f32(f32(f32(context) / wavelength) - f32(lowFreqFactor)) / f32(highFreqFactor - lowFreqFactor))
  return f32(f32(f32(f32(1 - smooth) * frequency) / f32(factor)) + f32(smooth * frequency))
}

/**
 * As llama3, but the blend goes along the dimensions: those that turn `betaFast` times within the original length are kept, those that turn
 * `betaSlow` times are stretched (Peng et al. 2023).
 */
function yarnFrequencies(rope: Extract<RopeConfig, { type: 'yarn' }>, dim: number): Float32Array {
  const { theta, factor, originalMaxPositionEmbeddings: context, betaFast, betaSlow, truncate } = rope
  const dimensionOf = (turns: number): number => (dim * Math.log(context / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
  const bounds = [dimensionOf(betaFast), dimensionOf(betaSlow)]
  const low = Math.max(truncate ? Math.floor(bounds[0]!) : bounds[0]!, 0)
  const end = Math.min(truncate ? Math.ceil(bounds[1]!) : bounds[1]!, dim - 1)
  const high = end === low ? end + 0.001 : end
  return powers(theta, dim).map((power, i) => {
    const ramp = Math.min(1, Math.max(0, f32(f32(i - low) / f32(high - low))))
    const kept = f32(1 - ramp)
    return f32(f32(f32(1 / f32(factor * power)) * f32(1 - kept)) + f32(f32(1 / power) * kept))
  })
}
