// Charts with two axes: series of marks, lines between them, guides behind them. Pure: a chart as data becomes SVG as text.
import { chartWidth, colourClass, fontSize, legend, mark, type LegendEntry } from './marks'
import { makeScale, type Axis, type Scale } from './scale'
import { element, escaped, fitted, label, polyline, textWidth } from './svg'

export interface Point {
  x: number
  y: number
  low?: number // quartiles
  high?: number
  tip: string // what a pointer on the mark shows
  hollow?: boolean
}

export interface Series {
  colour: number
  shape: number
  line: boolean // whether points are joined, in the order of x
  points: Point[]
}

/** A line that is no measurement of its own: a limit, an ideal. */
export interface Guide {
  y(x: number): number
  xs?: number[] // where it bends and ends; from edge to edge where absent
  colour?: number
  label?: string // written at its right end,
  inside?: boolean // above the line, where nothing can be, or else beside the plot
}

export interface XyChart {
  kind: 'xy'
  x: Axis
  y: Axis
  series: Series[]
  guides: Guide[]
  legend: LegendEntry[]
}

const plotHeight = 300
const mostLabelWidth = 150
const tickRoom = 8

interface Plot {
  x: Scale
  y: Scale
  left: number
  right: number
  top: number
  bottom: number
}

export function drawXy(chart: XyChart, id: string, title: string, description: string): string {
  const keys = legend(chart.legend)
  const plot = layOut(chart, keys.height + 28)
  const height = plot.bottom + 46
  const clip = element('clipPath', { id: `${id}-clip` },
    element('rect', { x: plot.left, y: plot.top - 6, width: plot.right - plot.left, height: plot.bottom - plot.top + 12 }))
  return element('svg', { viewBox: `0 0 ${chartWidth} ${height}`, role: 'img', class: 'chart', 'aria-labelledby': `${id}-title ${id}-desc` },
    element('title', { id: `${id}-title` }, escaped(title)),
    element('desc', { id: `${id}-desc` }, escaped(description)),
    element('defs', {}, clip),
    keys.markup,
    frame(chart, plot),
    element('g', { 'clip-path': `url(#${id}-clip)` }, ...chart.guides.map((guide) => guideLine(guide, plot))),
    guideLabels(chart.guides, plot),
    ...chart.series.map((one) => seriesMarks(one, plot)))
}

function layOut(chart: XyChart, top: number): Plot {
  const points = chart.series.flatMap((one) => one.points)
  const xs = [...points.map(({ x }) => x), ...chart.guides.flatMap((guide) => guide.xs ?? [])]
  const ys = [
    ...points.flatMap(({ y, low, high }) => [y, low ?? y, high ?? y]),
    ...chart.guides.flatMap((guide) => (guide.xs ?? []).map((x) => guide.y(x))),
  ]
  const bottom = top + plotHeight
  const y = makeScale(chart.y, ys, bottom, top)
  const left = 14 + tickRoom + Math.max(...y.ticks.map(({ text }) => textWidth(text, fontSize)))
  const named = Math.max(0, ...chart.guides.map(({ label, inside }) => (label && !inside ? textWidth(label, fontSize) : 0)))
  const right = chartWidth - Math.max(24, named > 0 ? Math.min(named, mostLabelWidth) + 12 : 0)
  return { x: makeScale(chart.x, xs, left, right), y, left, right, top, bottom }
}

function frame(chart: XyChart, { x, y, left, right, top, bottom }: Plot): string {
  const grid = [
    ...x.ticks.map(({ value, text }) => ({ d: polyline([[x.at(value), top], [x.at(value), bottom]]), text })),
    ...y.ticks.map(({ value, text }) => ({ d: polyline([[left, y.at(value)], [right, y.at(value)]]), text })),
  ]
  return [
    ...grid.map(({ d, text }) => element('path', { d, class: text ? 'grid' : 'grid fine' })),
    element('path', { d: polyline([[left, top], [left, bottom], [right, bottom]]), class: 'axis' }),
    ...x.ticks.map(({ value, text }) => (text ? label(x.at(value), bottom + 19, text, 'middle', 'tick') : '')),
    ...y.ticks.map(({ value, text }) => (text ? label(left - tickRoom, y.at(value) + 4, text, 'end', 'tick') : '')),
    label((left + right) / 2, bottom + 40, chart.x.title, 'middle', 'axis-title', { 'data-axis': 'x' }),
    label(2, top - 14, chart.y.title, 'start', 'axis-title', { 'data-axis': 'y' }),
  ].join('')
}

function guideLine(guide: Guide, { x, y }: Plot): string {
  const [from, to] = x.domain
  const xs = guide.xs ? [...new Set([...guide.xs])].sort((a, b) => a - b) : [from, to]
  const d = polyline(xs.map((value) => [x.at(value), y.at(guide.y(value))] as const))
  return element('path', { d, class: `line dashed guide ${colourClass(guide.colour)}` })
}

// At the right edge, moved apart where they would touch.
function guideLabels(guides: readonly Guide[], { x, y, right, top }: Plot): string {
  const lineHeight = fontSize + 4
  const end = (guide: Guide) => (guide.xs ? Math.max(...guide.xs) : x.domain[1])
  const named = guides
    .filter((guide) => guide.label && !guide.inside)
    .map((guide) => ({ text: guide.label!, at: y.at(guide.y(end(guide))) }))
    .sort((a, b) => b.at - a.at)
  const inside = guides
    .filter((guide) => guide.label && guide.inside)
    .map((guide) => label(x.at(end(guide)), y.at(guide.y(end(guide))) - 7, guide.label!, 'end', 'guide-label'))
  const places = named.map(({ at }) => at)
  for (let i = 1; i < places.length; i++) places[i] = Math.min(places[i], places[i - 1] - lineHeight) // upwards, from the lowest
  for (let i = places.length - 1, least = top; i >= 0; i--, least += lineHeight) places[i] = Math.max(places[i], least) // not over the top
  const beside = named.map(({ text }, i) => label(right + 8, places[i] + 4, fitted(text, mostLabelWidth, fontSize), 'start', 'guide-label'))
  return [...inside, ...beside].join('')
}

function seriesMarks({ colour, shape, line, points }: Series, { x, y }: Plot): string {
  const sorted = [...points].sort((a, b) => a.x - b.x)
  const joined = polyline(sorted.map((one) => [x.at(one.x), y.at(one.y)] as const))
  const path = line && sorted.length > 1 ? element('path', { d: joined, class: 'line' }) : ''
  const marks = sorted.map((one) =>
    element('g', { 'data-tip': one.tip, class: 'point' },
      one.low !== undefined && one.high !== undefined ? whisker(x.at(one.x), y.at(one.low), y.at(one.high)) : '',
      mark(x.at(one.x), y.at(one.y), shape, one.hollow)))
  return element('g', { class: `series ${colourClass(colour)}` }, path, ...marks)
}

function whisker(x: number, low: number, high: number): string {
  if (Math.abs(low - high) < 1) return ''
  const cap = (y: number) => polyline([[x - 4, y], [x + 4, y]])
  return element('path', { d: `${polyline([[x, low], [x, high]])}${cap(low)}${cap(high)}`, class: 'whisker' })
}
