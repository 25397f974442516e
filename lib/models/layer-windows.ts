// Which layers of a model see only a window of the last positions, as each family's config.json says it.
import type { ConfigFields } from './config-fields'

/** The window of every layer, in positions, its own included; undefined for a layer that sees everything. */
export type LayerWindows = (fields: ConfigFields, layerCount: number) => (number | undefined)[]

const maxWindow = 2 ** 28
const full = 'full_attention'
const sliding = 'sliding_attention'

export const noWindows: LayerWindows = (fields, layerCount) => {
  const types = readLayerTypes(fields, layerCount) ?? []
  const other = types.find((type) => type !== full)
  if (other !== undefined)
    throw fields.unsupported('layer_types', `: expected ${full} in every layer, got ${JSON.stringify(other).slice(0, 60)}`)
  return Array.from({ length: layerCount }, () => undefined)
}

/** `sliding_window` holds for every layer, unless it is null. */
export const everyLayer: LayerWindows = (fields, layerCount) => {
  noWindows(fields, layerCount)
  const window = readWindow(fields)
  return Array.from({ length: layerCount }, () => window)
}

/** `sliding_window` holds for every layer, or for those that `layer_types` names. */
export const namedLayers: LayerWindows = (fields, layerCount) => {
  const window = readWindow(fields)
  const types = readLayerTypes(fields, layerCount)
  return Array.from({ length: layerCount }, (_, layer) => (types && types[layer] !== sliding ? undefined : window))
}

/**
 * `sliding_window` holds where `use_sliding_window` is set, for the layers that `layer_types` names, else for those from
 * `max_window_layers` on.
 */
export const flaggedLayers: LayerWindows = (fields, layerCount) => {
  if (!fields.flag('use_sliding_window', false)) return noWindows(fields, layerCount)
  const window = readWindow(fields)
  const first = fields.integer('max_window_layers', { min: 0, max: 2 ** 20, default: 28 })
  const types = readLayerTypes(fields, layerCount)
  const isSliding = (layer: number): boolean => (types ? types[layer] === sliding : layer >= first)
  return Array.from({ length: layerCount }, (_, layer) => (isSliding(layer) ? window : undefined))
}

/** `sliding_window` holds for every layer where `use_sliding_window` is set. */
export const flaggedEverywhere: LayerWindows = (fields, layerCount) =>
  fields.flag('use_sliding_window', false) ? everyLayer(fields, layerCount) : noWindows(fields, layerCount)

/** Windows but for every `sliding_window_pattern`-th layer (default 6), or as `layer_types` says. */
export const alternatingLayers: LayerWindows = (fields, layerCount) => {
  const window = readWindow(fields)
  const pattern = fields.integer('sliding_window_pattern', { max: 4096, default: 6 })
  const types = readLayerTypes(fields, layerCount)
  const isSliding = (layer: number): boolean => (types ? types[layer] === sliding : (layer + 1) % pattern !== 0)
  return Array.from({ length: layerCount }, (_, layer) => (isSliding(layer) ? window : undefined))
}

function readWindow(fields: ConfigFields): number | undefined {
  return fields.has('sliding_window') ? fields.integer('sliding_window', { max: maxWindow }) : undefined
}

function readLayerTypes(fields: ConfigFields, layerCount: number): string[] | undefined {
  const types = fields.texts('layer_types', 4096)
  if (types === undefined) return undefined
  if (types.length < layerCount) throw fields.wrong('layer_types', `a type for each of ${layerCount} layers`, types)
  const other = types.find((type) => type !== full && type !== sliding)
  if (other !== undefined)
    throw fields.unsupported('layer_types', `: expected ${full} or ${sliding}, got ${JSON.stringify(other).slice(0, 60)}`)
  return types
}
