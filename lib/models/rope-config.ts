// How config.json describes rotary position embeddings, in every spelling in use.
import { ConfigFields } from './config-fields'

export type RopeConfig = (
  | { type: 'default'; theta: number }
  | { type: 'linear'; theta: number; factor: number }
  // as default: it scales only beyond the positions of the model
  | { type: 'dynamic'; theta: number; factor: number }
  | {
      type: 'yarn'
      theta: number
      factor: number
      originalMaxPositionEmbeddings: number
      betaFast: number
      betaSlow: number
      /** factor on cosine and sine */
      attentionFactor: number
      /** whether the bounds of the ramp are whole dimensions */
      truncate: boolean
    }
  | {
      type: 'llama3'
      theta: number
      factor: number
      lowFreqFactor: number
      highFreqFactor: number
      originalMaxPositionEmbeddings: number
    }
  | { type: 'longrope'; theta: number; shortFactor: number[]; attentionFactor: number }
) & {
  /** leading elements of a head that turn; absent: all */
  dim?: number
}

export interface Ropes {
  /** of layers that see everything */
  whole: RopeConfig
  /** of layers that see a window */
  windowed: RopeConfig
  /** positions beyond which the rotation would no longer be that of the checkpoint's makers */
  maxPositions: number
}

interface RopeTraits {
  partialRotary?: boolean
  twoRopes?: boolean
}

const maxPosition = 2 ** 28

/**
 * New spelling: rope_parameters holds everything, by kind of layer where there are two. Old one: rope_theta at the top, and rope_scaling
 * with `rope_type` or, older still, `type`. Where both are there, rope_scaling counts.
 *
 * Dynamic and longrope scaling depend on how long a sequence has become, while keys that are cached already keep the rotation of before:
 * what `transformers` gives beyond the original length depends on how a text was cut into steps, and on the calls before. So sequences end
 * at the original length, up to which both are exact.
 */
export function readRopes(fields: ConfigFields, headDim: number, traits: RopeTraits): Ropes {
  const parameters = fields.section('rope_parameters')
  const scaling = fields.section('rope_scaling')
  if (!traits.twoRopes) {
    const owner = scaling && !scaling.isEmpty ? scaling : parameters
    const rope = new RopeReader(fields, owner ?? nothing(fields), headDim, traits).read('rope_theta', 10000)
    return { whole: rope.config, windowed: rope.config, maxPositions: rope.maxPositions }
  }
  if (parameters && scaling && !scaling.isEmpty) throw fields.unsupported('rope_scaling', ': beside rope_parameters')
  if (scaling) refuseOverlooked(scaling)
  const part = (name: string): ConfigFields | undefined => parameters?.section(name)
  const full = part('full_attention')
  // transformers looks for it beside the two, and so never finds it
  if ((full ?? scaling)?.flag('truncate', true) === false) throw (full ?? scaling)!.unsupported('truncate')
  const whole = new RopeReader(fields, full ?? scaling ?? nothing(fields), headDim, traits).read('rope_theta', 1e6)
  const windowed = new RopeReader(fields, part('sliding_attention') ?? nothing(fields), headDim, traits)
  const local = windowed.read('rope_local_base_freq', 10000)
  parameters?.refuseUnread(() => false)
  return { whole: whole.config, windowed: local.config, maxPositions: Math.min(whole.maxPositions, local.maxPositions) }
}

/** Where there are two, `transformers` overlooks what kind rope_scaling is unless it is spelled rope_type. */
function refuseOverlooked(scaling: ConfigFields): void {
  if (!scaling.has('rope_type') && (scaling.text('type') ?? 'default') !== 'default') throw scaling.unsupported('type', ': expected rope_type')
}

const nothing = (fields: ConfigFields): ConfigFields => new ConfigFields(new Map(), fields.where)

class RopeReader {
  constructor(
    readonly fields: ConfigFields,
    readonly rope: ConfigFields,
    readonly headDim: number,
    readonly traits: RopeTraits
  ) {}

  read(thetaAtTheTop: string, defaultTheta: number): { config: RopeConfig; maxPositions: number } {
    const { rope, fields } = this
    const bounds = { min: 1e-3, max: 1e12, default: defaultTheta }
    const theta = rope.has('rope_theta') ? rope.number('rope_theta', bounds) : fields.number(thetaAtTheTop, bounds)
    const dim = this.#dim()
    const config = { ...this.#scaled(theta, dim), ...(dim !== this.headDim && { dim }) }
    rope.refuseUnread((name) => name === 'type' || name === 'original_max_position_embeddings')
    return { config, maxPositions: config.type === 'longrope' ? this.#originalPositions() : Infinity }
  }

  #dim(): number {
    const owner = this.rope.has('partial_rotary_factor') ? this.rope : this.fields
    const part = owner.number('partial_rotary_factor', { min: 0, max: 1, default: 1 })
    if (part !== 1 && !this.traits.partialRotary) throw owner.unsupported('partial_rotary_factor')
    const dim = Math.floor(this.headDim * part)
    if (dim >= 2 && dim % 2 === 0) return dim
    throw owner.wrong('partial_rotary_factor', `an even part of head_dim ${this.headDim}`, part)
  }

  #scaled(theta: number, dim: number): RopeConfig {
    const { rope } = this
    const type = rope.text('rope_type') ?? rope.text('type') ?? 'default'
    if (type === 'default') return { type, theta }
    if (type === 'linear' || type === 'dynamic') return { type, theta, factor: this.#factor() }
    if (type === 'llama3') return this.#llama3(theta)
    // phi3 once called its longrope so
    if (type === 'longrope' || (this.traits.partialRotary && (type === 'su' || type === 'yarn'))) return this.#longrope(theta, dim)
    if (type === 'yarn') return this.#yarn(theta)
    const known = 'default, linear, dynamic, yarn, llama3 or longrope'
    throw rope.unsupported(rope.has('rope_type') ? 'rope_type' : 'type', `: expected ${known}`)
  }

  #factor(): number {
    return this.rope.number('factor', { min: 1, max: 1e6 })
  }

  #positions(): number {
    return this.fields.integer('max_position_embeddings', { max: maxPosition })
  }

  /** The top of the file comes first: some families keep it there. */
  #originalPositions(): number {
    const name = 'original_max_position_embeddings'
    const owner = this.fields.has(name) ? this.fields : this.rope
    return owner.integer(name, { max: maxPosition, default: this.#positions() })
  }

  #llama3(theta: number): RopeConfig {
    const { rope } = this
    const lowFreqFactor = rope.number('low_freq_factor', { min: 1e-3, max: 1e6 })
    const highFreqFactor = rope.number('high_freq_factor', { min: 1e-3, max: 1e6 })
    if (highFreqFactor <= lowFreqFactor) throw rope.wrong('high_freq_factor', `more than low_freq_factor ${lowFreqFactor}`, highFreqFactor)
    const originalMaxPositionEmbeddings = this.#originalPositions()
    return { type: 'llama3', theta, factor: this.#factor(), lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings }
  }

  #yarn(theta: number): RopeConfig {
    const { rope } = this
    const originalMaxPositionEmbeddings = this.#originalPositions()
    const factor = rope.has('factor') ? this.#factor() : this.#positions() / originalMaxPositionEmbeddings
    const beta = (name: string, fallback: number): number => rope.number(name, { min: 1e-3, max: 1e6, default: fallback })
    return {
      type: 'yarn',
      theta,
      factor,
      originalMaxPositionEmbeddings,
      betaFast: beta('beta_fast', 32),
      betaSlow: beta('beta_slow', 1),
      attentionFactor: this.#yarnAttentionFactor(factor),
      truncate: rope.flag('truncate', true)
    }
  }

  /** Given, or 0.1 ln(factor) + 1 (Peng et al. 2023), or the ratio that `mscale` and `mscale_all_dim` make of it. */
  #yarnAttentionFactor(factor: number): number {
    const { rope } = this
    const bounds = { min: 0, max: 1e6 }
    const magnitude = (scale: number): number => (factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1)
    const [scale, allDim] = ['mscale', 'mscale_all_dim'].map((name) => rope.number(name, { ...bounds, default: 0 }))
    if (rope.has('attention_factor')) return rope.number('attention_factor', bounds)
    return scale && allDim ? magnitude(scale) / magnitude(allDim) : magnitude(1)
  }

  /** The factors for sequences within the original length; the others are never needed, as no sequence is longer (Ding et al. 2024). */
  #longrope(theta: number, dim: number): RopeConfig {
    const { rope } = this
    const original = this.#originalPositions()
    const factor = rope.has('factor') ? this.#factor() : this.#positions() / original
    const bounds = { min: 1e-6, max: 1e6 }
    const shortFactor = rope.numbers('short_factor', dim / 2, bounds)
    rope.numbers('long_factor', dim / 2, bounds)
    const attentionFactor = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original))
    const scale = rope.number('attention_factor', { ...bounds, default: attentionFactor })
    return { type: 'longrope', theta, shortFactor, attentionFactor: scale }
  }
}
