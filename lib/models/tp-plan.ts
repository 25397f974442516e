// Tensor-parallel plans: a map of module pattern to style, matched against the modules of a model, becomes what each of its parts is told:
// split or whole on every rank. Pure: knows names and styles, no weights and no ranks. What cannot be honoured is refused, never ignored.
import { HeddleError, invalidArgument } from '../errors'
import { styleNamed, tpStyleNames, unavailableStyle } from './tp-styles'
import type { TPStyle } from './tp-styles'

/** `auto`, or styles by pattern: names of modules or parameters, `*` for a number between dots, with or without the model's root. */
export type TPPlan = 'auto' | Readonly<Record<string, string>>

export interface TPRule {
  pattern: string
  style: TPStyle
  /** as the plan spells it */
  name: string
}

/** What a module is to the part of the model it is in. */
export type ModuleRole = 'column' | 'row' | 'expertColumn' | 'expertRow' | 'router' | 'embedding' | 'head' | 'tiedHead' | 'whole'

/** How a part (attention, an MLP, a table) lies on the ranks: each its share, all of it on each, or whole experts. */
export type Split = 'split' | 'replicate' | 'experts'

/** A module that holds parameters. Names are without the model's root. */
export interface PlannedModule {
  /** its own name, then that of a fused module that holds it */
  names: readonly string[]
  /** modules around it, the nearest first: `replicate` said of one is said of all in it */
  around: readonly string[]
  role: ModuleRole
}

/** Modules that fit together or not at all. */
export interface PlannedPart {
  name: string
  /** how `auto` has it */
  auto: Split
  modules: readonly PlannedModule[]
}

export interface ResolvedPart {
  split: Split
  /** per module; absent where no rule names it */
  rules: readonly (TPRule | undefined)[]
}

export interface ResolvedPlan {
  parts: readonly ResolvedPart[]
  /** texts about rules that name nothing and modules that no rule names */
  warnings: readonly string[]
}

/** What a style makes of a part in the eyes of one of its modules; `gathered` pairs a gathered result with an input that is split again. */
type Meaning = Split | 'gathered' | 'any'

const meanings: Record<ModuleRole, Partial<Record<TPStyle, Meaning>>> = {
  column: { colwise: 'split', packed_colwise: 'split', colwise_gather_output: 'gathered', replicate: 'replicate' },
  row: { rowwise: 'split', rowwise_split_input: 'gathered', replicate: 'replicate' },
  expertColumn: { colwise: 'split', packed_colwise: 'split', grouped_gemm: 'experts', replicate: 'replicate' },
  expertRow: { rowwise: 'split', grouped_gemm: 'experts', replicate: 'replicate' },
  router: { replicate: 'any', ep_router: 'experts' },
  embedding: { embedding_rowwise: 'split', replicate: 'replicate' },
  head: { colwise_gather_output: 'split', replicate: 'replicate' },
  tiedHead: { colwise_gather_output: 'split', replicate: 'replicate' },
  whole: { replicate: 'any' }
}

/** Styles of a module that only holds others: their result is summed over the ranks. */
const containerStyles: readonly TPStyle[] = ['all_reduce', 'moe_tp_experts']

const autoStyles: Record<ModuleRole, TPStyle> = {
  column: 'colwise',
  row: 'rowwise',
  expertColumn: 'colwise',
  expertRow: 'rowwise',
  router: 'replicate',
  embedding: 'embedding_rowwise',
  head: 'colwise_gather_output',
  tiedHead: 'colwise_gather_output',
  whole: 'replicate'
}

/** The style by which `auto` has a module of a part that lies so. */
export function styleOf(role: ModuleRole, split: Split): TPStyle {
  if (split === 'replicate') return 'replicate'
  if (split === 'experts' && role === 'router') return 'ep_router'
  return split === 'experts' && role.startsWith('expert') ? 'grouped_gemm' : autoStyles[role]
}

/** Throws `invalid_argument` for what is no plan, and for a style without a meaning, with the names of those that have one. */
export function parsePlan(where: string, plan: unknown): 'auto' | TPRule[] {
  if (plan === 'auto') return plan
  if (typeof plan !== 'object' || plan === null || Array.isArray(plan))
    throw invalidArgument(`${where}: tpPlan`, "'auto' or an object of styles by module", plan)
  return Object.entries(plan).map(([pattern, name]: [string, unknown]) => {
    const style = styleNamed(name)
    if (style) return { pattern, style, name: name as string }
    throw invalidArgument(`${where}: tpPlan: ${JSON.stringify(pattern)}`, `one of ${tpStyleNames.join(', ')}`, name)
  })
}

/**
 * What a plan makes of a model's parts. A module that no rule names is whole on every rank, with a warning if `auto` splits it. Throws
 * `unavailable` with the rule for what this build cannot honour, and `invalid_argument` for rules of one part that do not fit together.
 */
export function resolvePlan(where: string, plan: 'auto' | readonly TPRule[], parts: readonly PlannedPart[], roots: readonly string[]): ResolvedPlan {
  if (plan === 'auto') return { parts: parts.map(({ auto, modules }) => ({ split: auto, rules: modules.map(() => undefined) })), warnings: [] }
  const matcher = new Matcher(where, plan, roots)
  const resolved = parts.map((part) => resolvePart(where, part, matcher))
  const uncovered = parts.flatMap(({ modules }, p) => modules.filter(({ role }, m) => !follows(role) && !resolved[p]!.rules[m]))
  return { parts: resolved, warnings: [...matcher.unused.map(unusedText), ...new Set(uncovered.map(({ names }) => uncoveredText(names[0]!)))] }
}

/** Without a rule it follows from the rest of its part. */
const follows = (role: ModuleRole): boolean => role === 'whole' || role === 'router' || role === 'tiedHead'

const unusedText = ({ pattern, name }: TPRule): string => `tpPlan: ${JSON.stringify(pattern)} (${name}) matches nothing in this model`

const uncoveredText = (module: string): string =>
  `tpPlan: no rule for ${JSON.stringify(withWildcards(module))}, which every rank holds whole; 'auto' splits it`

export const withWildcards = (name: string): string => name.replace(/(?<=^|\.)\d+(?=\.|$)/g, '*')

function resolvePart(where: string, part: PlannedPart, matcher: Matcher): ResolvedPart {
  const rules = part.modules.map((module) => matcher.ruleOf(module))
  const found = rules.map((rule, index): Meaning => {
    const module = part.modules[index]!
    const meaning = meaningOf(where, module, rule)
    return module.role === 'tiedHead' && !rules[0] ? 'any' : meaning // the table has no rule: what is said of the head does not count
  })
  const first = found.findIndex((meaning) => meaning !== 'any')
  const meaning = found[first] ?? 'replicate'
  const other = found.findIndex((one) => one !== 'any' && one !== meaning)
  if (other >= 0) throw misfit(where, part, [first, other], rules)
  const split = meaning === 'gathered' ? 'split' : (meaning as Split)
  const containers = matcher.containersOf(part)
  checkContainers(where, part, split, containers)
  return { split, rules }
}

function meaningOf(where: string, { names, role }: PlannedModule, rule: TPRule | undefined): Meaning {
  if (!rule) return follows(role) ? 'any' : 'replicate'
  const meaning = meanings[role][rule.style]
  if (meaning) return meaning
  const styles = Object.keys(meanings[role]).join(', ')
  const why = unavailableStyle(rule.style) ?? `${withWildcards(names[0]!)} may be ${styles}`
  throw refused(where, rule, why)
}

function checkContainers(where: string, { name }: PlannedPart, split: Split, rules: readonly TPRule[]): void {
  for (const rule of rules) {
    if (rule.style === 'replicate') continue
    if (!containerStyles.includes(rule.style)) {
      const own = `it names a module that holds others, which may be ${['replicate', ...containerStyles].join(', ')}`
      throw refused(where, rule, unavailableStyle(rule.style) ?? own)
    }
    if (split === 'replicate') throw refused(where, rule, `${withWildcards(name)} is whole on every rank: there is nothing to sum`)
  }
}

function refused(where: string, { pattern, name }: TPRule, why: string): HeddleError {
  return new HeddleError('unavailable', `${where}: tpPlan: ${JSON.stringify(pattern)}: expected a style that can be honoured, got ${name}: ${why}`, {
    details: { pattern, style: name }
  })
}

function misfit(where: string, { name, modules }: PlannedPart, pair: number[], rules: readonly (TPRule | undefined)[]): HeddleError {
  const said = pair.map((index) => `${withWildcards(modules[index]!.names[0]!)} ${rules[index]?.name ?? 'without a rule (replicate)'}`)
  const patterns = pair.flatMap((index) => rules[index]?.pattern ?? [])
  const text = `expected rules of ${withWildcards(name)} that fit together (colwise before rowwise, or replicate for all), got ${said.join(' and ')}`
  return new HeddleError('invalid_argument', `${where}: tpPlan: ${text}; rules: ${patterns.map((p) => JSON.stringify(p)).join(', ')}`, {
    details: { patterns }
  })
}

interface Entry {
  rule: TPRule
  stars: number
  used: boolean
}

/** Finds the rule of a name. The fewer wildcards the better. */
class Matcher {
  readonly #entries = new Map<string, Entry>()
  /** last pieces of the patterns: most names end otherwise, and a large mixture has a hundred thousand */
  readonly #endings = new Set<string>()
  readonly #found = new Map<string, Entry[]>()

  constructor(
    private readonly where: string,
    rules: readonly TPRule[],
    roots: readonly string[]
  ) {
    for (const rule of rules) {
      const root = roots.filter((one) => rule.pattern.startsWith(one)).reduce((longest, one) => (one.length > longest.length ? one : longest), '')
      const key = rule.pattern.slice(root.length)
      const other = this.#entries.get(key)?.rule
      if (other && other.style !== rule.style) throw contradiction(where, other, rule)
      this.#endings.add(lastPiece(key))
      this.#entries.set(key, { rule, stars: key.split('.').filter((piece) => piece === '*').length, used: false })
    }
  }

  get unused(): TPRule[] {
    return [...this.#entries.values()].filter(({ used }) => !used).map(({ rule }) => rule)
  }

  /** A parameter's own name goes before its module's, where both have as many wildcards. */
  ruleOf({ names, around }: PlannedModule): TPRule | undefined {
    const [weight, bias] = ['weight', 'bias'].map((kind) => this.#best([...names.map((name) => `${name}.${kind}`), ...names]))
    if (weight && bias && weight.style !== bias.style) throw contradiction(this.where, weight, bias)
    const inherited = around.flatMap((name) => this.#matching(name)).filter(({ rule }) => rule.style === 'replicate')
    return weight ?? bias ?? inherited.reduce<Entry | undefined>(fewerStars, undefined)?.rule
  }

  /** Rules about the modules around those of a part. */
  containersOf({ modules }: PlannedPart): TPRule[] {
    const names = new Set(modules.flatMap(({ around }) => around))
    return [...names].flatMap((name) => this.#matching(name)).map(({ rule }) => rule)
  }

  #best(names: readonly string[]): TPRule | undefined {
    return names.flatMap((name) => this.#matching(name)).reduce<Entry | undefined>(fewerStars, undefined)?.rule
  }

  #matching(name: string): Entry[] {
    const last = lastPiece(name)
    if (!this.#endings.has(last) && !(this.#endings.has('*') && isNumber(last))) return []
    const found = this.#found.get(name) ?? spellings(name).flatMap((one) => this.#entries.get(one) ?? [])
    this.#found.set(name, found)
    for (const one of found) one.used = true
    return found
  }
}

const lastPiece = (name: string): string => name.slice(name.lastIndexOf('.') + 1)
const isNumber = (piece: string): boolean => /^\d+$/.test(piece)

/** A name, and all that come of writing `*` for numbers in it. */
function spellings(name: string): string[] {
  const extend = (all: string[], piece: string): string[] => {
    const choices = isNumber(piece) ? [piece, '*'] : [piece]
    return all.flatMap((start) => choices.map((choice) => (start === '' ? choice : `${start}.${choice}`)))
  }
  return name.split('.').reduce(extend, [''])
}

const fewerStars = (best: Entry | undefined, one: Entry): Entry => (best && best.stars <= one.stars ? best : one)

function contradiction(where: string, ...rules: TPRule[]): HeddleError {
  const said = rules.map(({ pattern, name }) => `${JSON.stringify(pattern)} ${name}`)
  return new HeddleError('invalid_argument', `${where}: tpPlan: expected one style for what is one module, got ${said.join(' and ')}`, {
    details: { patterns: rules.map(({ pattern }) => pattern) }
  })
}
