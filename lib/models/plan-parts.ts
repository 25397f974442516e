// The parts of a model that a plan splits or leaves whole, by the names of its checkpoints.
import { HeddleError } from '../errors'
import type { ModelConfig } from './config'
import { familyNamed } from './families'
import { familyWeightName } from './tensor-names'
import type { TensorNames } from './tensor-names'
import { parsePlan, resolvePlan, withWildcards } from './tp-plan'
import type { ModuleRole, PlannedModule, PlannedPart, ResolvedPart } from './tp-plan'

export interface DecoderPlan {
  embedding: ResolvedPart
  /** learned positions */
  positions?: ResolvedPart
  /** absent where it is tied to the embedding */
  head?: ResolvedPart
  attention: readonly ResolvedPart[]
  mlp: readonly ResolvedPart[]
  warnings: readonly string[]
  parts: readonly PlannedPart[]
  resolved: readonly ResolvedPart[]
}

/** What a plan makes of a model. Throws `invalid_argument` and `unavailable` as `parsePlan` and `resolvePlan` do. */
export function planOf(where: string, plan: unknown, config: ModelConfig, expertParallel = false): DecoderPlan {
  const names = familyNamed(config.modelType).tensors
  const rules = parsePlan(where, plan)
  const parts = partsOf(config, expertParallel)
  const { parts: resolved, warnings } = resolvePlan(where, rules, parts, names.roots)
  const byName = new Map(parts.map(({ name }, index) => [name, resolved[index]!]))
  const layer = (index: number, module: string): ResolvedPart => byName.get(`${names.layers}${index}.${module}`)!
  const { positions } = names
  const head = config.tieWordEmbeddings ? undefined : byName.get(names.head)
  if (rules !== 'auto' && expertParallel) checkExperts(where, parts, resolved)
  return {
    embedding: byName.get(names.embedding)!,
    ...(positions && { positions: byName.get(positions)! }),
    ...(head && { head }),
    attention: config.layers.map((_, index) => layer(index, names.attention)),
    mlp: config.layers.map((_, index) => layer(index, names.mlp)),
    warnings,
    parts,
    resolved
  }
}

/** With `expertParallel` a map may say the same, and nothing else. */
function checkExperts(where: string, parts: readonly PlannedPart[], resolved: readonly ResolvedPart[]): void {
  const other = parts.find(({ auto }, index) => auto === 'experts' && resolved[index]!.split !== 'experts')
  if (!other) return
  const text = `expected grouped_gemm for the experts of ${withWildcards(other.name)}, as expertParallel asks, got another style or none`
  throw new HeddleError('invalid_argument', `${where}: tpPlan: ${text}`)
}

function partsOf(config: ModelConfig, expertParallel: boolean): PlannedPart[] {
  const names = familyNamed(config.modelType).tensors
  const single = (name: string, role: ModuleRole): PlannedPart => ({ name, auto: 'split', modules: [{ names: [name], around: [], role }] })
  const tied: PlannedModule[] = config.tieWordEmbeddings ? [{ names: [names.head], around: [], role: 'tiedHead' }] : []
  const embedding = single(names.embedding, 'embedding')
  return [
    { ...embedding, modules: [...embedding.modules, ...tied] },
    ...(names.positions ? [single(names.positions, 'embedding')] : []),
    ...config.layers.flatMap(({ sparse }, index) => {
      const layer = `${names.layers}${index}`
      return [...layerParts(names, config, layer), sparse ? expertPart(names, config, layer, expertParallel) : mlpPart(names, config, layer)]
    }),
    { ...single(names.norm, 'whole') },
    ...(config.tieWordEmbeddings ? [] : [single(names.head, 'head')])
  ]
}

/** Attention, and the norms of a layer. */
function layerParts(names: TensorNames, { queryKeyNorm }: ModelConfig, layer: string): PlannedPart[] {
  const module = `${layer}.${names.attention}`
  const norms = [names.attentionNorm, names.attentionOutputNorm, names.mlpNorm, names.mlpOutputNorm].filter((name) => name !== undefined)
  const roles: [string, ModuleRole][] = [['q_proj', 'column'], ['k_proj', 'column'], ['v_proj', 'column'], ['o_proj', 'row']]
  if (queryKeyNorm) roles.push(['q_norm', 'whole'], ['k_norm', 'whole'])
  return [
    ...norms.map((name): PlannedPart => {
      const own = `${layer}.${name}`
      return { name: own, auto: 'replicate', modules: [{ names: [own], around: [layer], role: 'whole' }] }
    }),
    { name: module, auto: 'split', modules: roles.map(([own, role]) => ({ names: moduleNames(names, module, own), around: [module, layer], role })) }
  ]
}

function mlpPart(names: TensorNames, { gatedMLP }: ModelConfig, layer: string): PlannedPart {
  const module = `${layer}.${names.mlp}`
  const gated: [string, ModuleRole][] = [['gate_proj', 'column'], ['up_proj', 'column'], ['down_proj', 'row']]
  const plain: [string, ModuleRole][] = [['fc1', 'column'], ['fc2', 'row']]
  const modules = (gatedMLP ? gated : plain).map(([own, role]) => ({ names: moduleNames(names, module, own), around: [module, layer], role }))
  return { name: module, auto: 'split', modules }
}

/** A mixture, whose module and whose experts' modules have several names in checkpoints and plans. */
function expertPart(names: TensorNames, { experts }: ModelConfig, layer: string, expertParallel: boolean): PlannedPart {
  const holders = [...new Set([names.mlp, ...(names.experts ?? [])])].map((name) => `${layer}.${name}`)
  const around = (number: number): string[] => holders.flatMap((holder) => [`${holder}.experts.${number}`, `${holder}.experts`, holder])
  const own = (number: number, name: string): string[] =>
    holders.flatMap((holder) => [
      ...new Set([`${holder}.experts.${number}.${name}`, ...moduleNames(names, `${holder}.experts.${number}`, name)]),
      `${holder}.experts.${name === 'down_proj' ? name : 'gate_up_proj'}`
    ])
  const modules = Array.from({ length: experts!.expertCount }, (_, number) =>
    ['gate_proj', 'up_proj', 'down_proj'].map((name): PlannedModule => ({
      names: own(number, name),
      around: [...around(number), layer],
      role: name === 'down_proj' ? 'expertRow' : 'expertColumn'
    }))
  )
  const router: PlannedModule = { names: holders.map((holder) => `${holder}.gate`), around: [...holders, layer], role: 'router' }
  return { name: holders[0]!, auto: expertParallel ? 'experts' : 'split', modules: [router, ...modules.flat()] }
}

/** A module's name in the family's checkpoints, then that of the fused one that may hold it. */
function moduleNames(names: TensorNames, module: string, own: string): string[] {
  const fused = Object.entries(names.fused ?? {}).filter(([, parts]) => parts.includes(own)).map(([name]) => `${module}.${name}`)
  return [familyWeightName(names, module, `${own}.weight`).replace(/\.weight$/, ''), ...fused]
}
