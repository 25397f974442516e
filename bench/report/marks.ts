// The marks of charts and their legends. Colours are classes that the style sheet fills in for light and dark; every colour comes with a
// shape or a name beside it, so that no chart needs colours to be read.
import { element, fitted, label, polyline, textWidth } from './svg'

export const colourCount = 8
export const shapeCount = 6
export const fontSize = 13
export const chartWidth = 600

export interface LegendEntry {
  text: string
  colour?: number // the colour of text where absent
  shape?: number
  hollow?: boolean
  line?: 'solid' | 'dashed'
  bar?: boolean
}

export function colourClass(colour: number | undefined): string {
  return colour === undefined ? 'neutral' : `c${colour % colourCount}`
}

/** A mark around (x, y): circle, square, triangle, diamond, triangle upside down, cross. */
export function mark(x: number, y: number, shape: number, hollow = false, radius = 4): string {
  const css = hollow ? 'mark hollow' : 'mark'
  if (shape % shapeCount === 0) return element('circle', { cx: x, cy: y, r: radius, class: css })
  return element('path', { d: `${polyline(corners[shape % shapeCount](radius).map(([dx, dy]) => [x + dx, y + dy] as const))}Z`, class: css })
}

type Corners = (r: number) => [number, number][]

const triangle: Corners = (r) => [[0, -1.2 * r], [1.15 * r, 0.85 * r], [-1.15 * r, 0.85 * r]]
const cross: Corners = (r) => {
  const [a, b] = [1.2 * r, 0.4 * r]
  return [[-b, -a], [b, -a], [b, -b], [a, -b], [a, b], [b, b], [b, a], [-b, a], [-b, b], [-a, b], [-a, -b], [-b, -b]]
}
const corners: Corners[] = [
  () => [],
  (r) => [[-0.9 * r, -0.9 * r], [0.9 * r, -0.9 * r], [0.9 * r, 0.9 * r], [-0.9 * r, 0.9 * r]],
  triangle,
  (r) => [[0, -1.3 * r], [1.3 * r, 0], [0, 1.3 * r], [-1.3 * r, 0]],
  (r) => triangle(r).map(([x, y]) => [x, -y]),
  cross,
]

const rowHeight = 20
const swatchWidth = 30
const gap = 18

/** The legend in rows; returns its markup and height. */
export function legend(entries: readonly LegendEntry[]): { markup: string; height: number } {
  let x = 0
  let row = 0
  const parts = entries.map((entry) => {
    const text = fitted(entry.text, chartWidth - swatchWidth, fontSize)
    const wide = swatchWidth + textWidth(text, fontSize)
    if (x > 0 && x + wide > chartWidth) {
      x = 0
      row++
    }
    const at = { x, y: row * rowHeight + rowHeight / 2 }
    x += wide + gap
    return element('g', { class: `legend ${colourClass(entry.colour)}` }, swatch(entry, at.x, at.y),
      label(at.x + swatchWidth, at.y + 4, text, 'start', 'text'))
  })
  return { markup: parts.join(''), height: entries.length > 0 ? (row + 1) * rowHeight + 6 : 0 }
}

function swatch({ shape, hollow, line, bar }: LegendEntry, x: number, y: number): string {
  const stroke = line && element('path', { d: polyline([[x, y], [x + 22, y]]), class: line === 'dashed' ? 'line dashed' : 'line' })
  const point = shape === undefined ? '' : mark(x + 11, y, shape, hollow)
  const block = bar ? element('rect', { x: x + 4, y: y - 6, width: 18, height: 12, class: 'bar' }) : ''
  return [stroke ?? '', point, block].join('')
}
