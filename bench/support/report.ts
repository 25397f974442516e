// How results are shown: one aligned line each, the goal beside the figure it judges.
import { type Table } from './case'
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
  const figure = `${shown(result.median)} ${result.unit}`
  const quartiles = result.samples.length > 1 ? `[${shown(result.low)} – ${shown(result.high)}]` : ''
  return `  ${result.name.padEnd(44)} ${figure.padStart(16)}  ${quartiles.padEnd(20)} ${verdict(result)}`.trimEnd()
}

export function tableText({ title, columns, rows }: Table): string {
  const cell = (value: number | string | undefined) => (typeof value === 'number' ? (Number.isInteger(value) ? String(value) : shown(value)) : value ?? '')
  const grid = [columns.map((column) => column.title), columns.map(({ unit }) => (unit ? `(${unit})` : '')),
    ...rows.map((row) => columns.map(({ key }) => cell(row[key])))]
  const widths = columns.map((_, i) => Math.max(...grid.map((row) => row[i].length)))
  const lines = grid.map((row) => `  ${row.map((text, i) => text.padStart(widths[i])).join('  ')}`)
  return [`  ${title}`, ...lines].join('\n')
}

function verdict({ goal, met }: Result): string {
  return goal ? `goal ${goalText(goal)}: ${met ? 'met' : 'NOT met'}` : ''
}

function goalText({ least, most }: Goal): string {
  return [least !== undefined ? `≥ ${shown(least)}` : '', most !== undefined ? `≤ ${shown(most)}` : ''].filter(Boolean).join(', ')
}

function shown(value: number): string {
  return Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(2)
}
