// Inverse frequencies of rotary position embeddings, with every step rounded to float32 as transformers (modeling_rope_utils.py) computes
// them.
import { inverseFrequencies as plainFrequencies } from '../layers/rotary-embedding'
import type { RopeConfig } from './config'

const f32 = Math.fround

/** float32 [headDim / 2]; the angle of a position is position * frequency. */
export function inverseFrequencies(rope: RopeConfig, headDim: number): Float32Array {
  const base = plainFrequencies(rope.theta, headDim)
  if (rope.type === 'linear') return base.map((frequency) => frequency / f32(rope.factor))
  if (rope.type === 'llama3') return base.map((frequency) => llama3Frequency(frequency, rope))
  return base
}

/** Long wavelengths are stretched by the factor, short ones kept, and those between are blended. */
function llama3Frequency(frequency: number, rope: Extract<RopeConfig, { type: 'llama3' }>): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: context } = rope
  const wavelength = f32(f32(2 * Math.PI) / frequency)
  if (wavelength > context / lowFreqFactor) return f32(frequency / f32(factor))
  if (wavelength < context / highFreqFactor) return frequency
  const smooth = f32(f32(f32(f32(context) / wavelength) - f32(lowFreqFactor)) / f32(highFreqFactor - lowFreqFactor))
  return f32(f32(f32(f32(1 - smooth) * frequency) / f32(factor)) + f32(smooth * frequency))
}
