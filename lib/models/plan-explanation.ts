// What a plan comes to: for every parameter its style, and its shape and bytes on each rank, as data and as a table.
import type { Placement } from '../layers/layer'
import type { DecoderPlan } from './plan-parts'
import { styleOf, withWildcards } from './tp-plan'
import type { TPStyle } from './tp-styles'

export interface PlannedParameter {
  /** as the family's checkpoints name it; a part of a fused tensor by a name of its own */
  parameter: string
  style: TPStyle
  /** the rule of a `tpPlan` by module that gave the style */
  pattern?: string
  shape: number[]
  /** per rank */
  localShapes: number[][]
  /** per rank, padding included */
  rankBytes: number[]
}

export class PlanExplanation {
  constructor(readonly rows: readonly PlannedParameter[]) {}

  /** Of all parameters, per rank. */
  get rankBytes(): number[] {
    const ranks = this.rows[0]?.rankBytes ?? []
    return ranks.map((_, rank) => this.rows.reduce((sum, row) => sum + row.rankBytes[rank]!, 0))
  }

  /** A table; parameters of layers or experts that differ in their number alone share a line, which says how many they are. */
  toString(): string {
    const lines = new Map<string, { cells: string[]; count: number }>()
    for (const row of this.rows) {
      const cells = [withWildcards(row.parameter), row.style, dimensions([row.shape]), dimensions(row.localShapes), figures(row.rankBytes)]
      const line = lines.get(cells.join()) ?? { cells, count: 0 }
      line.count += 1
      lines.set(cells.join(), line)
    }
    const titles = ['parameter', 'style', 'shape', 'on a rank', 'bytes of a rank', 'count']
    const grid = [titles, ...[...lines.values()].map(({ cells, count }) => [...cells, String(count)])]
    const widths = titles.map((_, column) => Math.max(...grid.map((cells) => cells[column]!.length)))
    const text = grid.map((cells) => cells.map((cell, i) => (i > 3 ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!))).join('  '))
    return `${text.join('\n')}\nall weights of a rank: ${figures(this.rankBytes)} bytes\n`
  }
}

export function explain(placements: readonly (Placement & { module: string })[], plan: DecoderPlan): PlanExplanation {
  const styles = stylesByModule(plan)
  return new PlanExplanation(
    placements.map(({ name, module, shape, localShapes, localBytes }) => ({
      parameter: name,
      ...styles.get(module)!,
      shape,
      localShapes,
      rankBytes: localBytes
    }))
  )
}

function stylesByModule({ parts, resolved }: DecoderPlan): Map<string, { style: TPStyle; pattern?: string }> {
  return new Map(
    parts.flatMap(({ modules }, p) => {
      const { split, rules } = resolved[p]!
      return modules.flatMap(({ names, role }, m) => {
        const rule = rules[m]
        const said = { style: rule?.style ?? styleOf(role, split), ...(rule && { pattern: rule.pattern }) }
        return names.map((name) => [name, said] as const)
      })
    })
  )
}

/** Of ranks that are alike once, else of each kind. */
const dimensions = (shapes: readonly number[][]): string => [...new Set(shapes.map((shape) => `[${shape.join(', ')}]`))].join(' or ')

const figures = (counts: readonly number[]): string => {
  const [least, most] = [Math.min(...counts), Math.max(...counts)]
  return least === most ? String(least) : `${least} to ${most}`
}
