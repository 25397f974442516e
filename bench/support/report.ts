// How results are shown: one aligned line each, the goal beside the figure it judges.
import { type Table } from './case'
import { shown, suitableUnit } from './numbers'
import { type Goal, type Result } from './statistics'
import { type Machine } from './machine'

export function header(machine: Machine): string {
  return [
    `heddle ${machine.heddle} (${machine.commit}), node ${machine.node}, ${machine.date}`,
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGigabytes} GB, ${machine.isa.join(' ')}`,
    ...(machine.gpus.length > 0 ? [machine.gpus.join('; ')] : []),
    `load average before the run: ${machine.loadAverage.toFixed(2)}; medians of alternating repeats, [quartiles]; random weights`,
  ].join('\n')
}

export function line(result: Result): string {
  const { unit, divisor } = suitableUnit(result.median, result.unit)
  const figure = `${shown(result.median / divisor)} ${unit}`
  const quartiles = result.samples.length > 1 ? `[${shown(result.low / divisor)} – ${shown(result.high / divisor)}]` : ''
  return `  ${result.name.padEnd(44)} ${figure.padStart(16)}  ${quartiles.padEnd(20)} ${verdict(result)}`.trimEnd()
}

export function cell(value: number | string | undefined): string {
  if (typeof value !== 'number') return value ?? ''
  return Number.isInteger(value) ? String(value) : shown(value)
}

export function tableText({ title, columns, rows }: Table): string {
  const grid = [columns.map((column) => column.title), columns.map(({ unit }) => (unit ? `(${unit})` : '')),
    ...rows.map((row) => columns.map(({ key }) => cell(row[key])))]
  const widths = columns.map((_, i) => Math.max(...grid.map((row) => row[i].length)))
  const lines = grid.map((row) => `  ${row.map((text, i) => text.padStart(widths[i])).join('  ')}`)
  return [`  ${title}`, ...lines].join('\n')
}

export function verdict({ goal, met }: Result): string {
  return goal ? `goal ${goalText(goal)}: ${met ? 'met' : 'NOT met'}` : ''
}

export function goalText({ least, most }: Goal): string {
  return [least !== undefined ? `≥ ${shown(least)}` : '', most !== undefined ? `≤ ${shown(most)}` : ''].filter(Boolean).join(', ')
}
