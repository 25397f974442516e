// Charts of horizontal bars from 0, one for each contender, with what there is to say above them.
import { chartWidth, colourClass, fontSize, legend, type LegendEntry } from './marks'
import { makeScale, type Axis, type Scale } from './scale'
import { element, escaped, fitted, label, polyline, textWidth } from './svg'

export interface Bar {
  name: string
  colour: number
  value: number
  low: number // quartiles
  high: number
  text: string // above the bar, at the right
  tip: string
}

export interface BarChart {
  kind: 'bars'
  x: Axis
  bars: Bar[]
  legend: LegendEntry[]
}

const rowHeight = 46
const barHeight = 16
const left = 4
const right = chartWidth - 24

export function drawBars(chart: BarChart, id: string, title: string, description: string): string {
  const keys = legend(chart.legend)
  const top = keys.height + 6
  const bottom = top + rowHeight * chart.bars.length + 4
  const x = makeScale(chart.x, chart.bars.flatMap(({ value, high }) => [value, high]), left, right)
  const ticks = x.ticks.map(({ value, text }) => [
    element('path', { d: polyline([[x.at(value), top], [x.at(value), bottom]]), class: 'grid' }),
    label(x.at(value), bottom + 17, text, value === 0 ? 'start' : 'middle', 'tick'),
  ].join(''))
  return element('svg',
    { viewBox: `0 0 ${chartWidth} ${bottom + 44}`, role: 'img', class: 'chart', 'aria-labelledby': `${id}-title ${id}-desc` },
    element('title', { id: `${id}-title` }, escaped(title)),
    element('desc', { id: `${id}-desc` }, escaped(description)),
    keys.markup,
    ...ticks,
    element('path', { d: polyline([[left, top], [left, bottom], [right, bottom]]), class: 'axis' }),
    ...chart.bars.map((bar, i) => row(bar, x, top + rowHeight * i)),
    label((left + right) / 2, bottom + 38, chart.x.title, 'middle', 'axis-title', { 'data-axis': 'x' }))
}

// The name and what there is to say in one line, the bar below.
function row({ name, colour, value, low, high, text, tip }: Bar, x: Scale, top: number): string {
  const line = top + 16
  const middle = top + 32
  const room = right - left - textWidth(text, fontSize) - 12
  return element('g', { class: `row ${colourClass(colour)}`, 'data-tip': tip },
    label(left + 4, line, fitted(name, room, fontSize), 'start', 'text'),
    label(right, line, text, 'end', 'value'),
    element('rect', { x: left, y: middle - barHeight / 2, width: Math.max(1, x.at(value) - left), height: barHeight, class: 'bar' }),
    element('path', { d: polyline([[x.at(low), middle], [x.at(high), middle]]), class: 'whisker ink' }))
}
