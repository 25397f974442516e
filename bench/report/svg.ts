// SVG and HTML as text. Rule: whatever is not markup goes through `escaped`, since names and notes come from files.

export function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
}

type Attributes = Record<string, string | number | undefined>

/** An element with its children, which are markup; a number is written with two digits after the point. */
export function element(name: string, attributes: Attributes, ...children: string[]): string {
  const written = Object.entries(attributes).filter((entry): entry is [string, string | number] => entry[1] !== undefined)
  const text = written.map(([key, value]) => ` ${key}="${typeof value === 'number' ? rounded(value) : escaped(value)}"`).join('')
  return children.length > 0 ? `<${name}${text}>${children.join('')}</${name}>` : `<${name}${text}/>`
}

export function rounded(value: number): string {
  return String(Math.round(value * 100) / 100)
}

export function polyline(points: readonly (readonly [number, number])[]): string {
  return points.map(([x, y], i) => `${i === 0 ? 'M' : 'L'}${rounded(x)} ${rounded(y)}`).join('')
}

/** How wide a text may get, for layout without a browser: a little more than the widest usual sans-serif font (Verdana, DejaVu Sans). */
export function textWidth(text: string, fontSize: number): number {
  let units = 0
  for (const character of text) units += /[iljtfrI.,:;'|!()[\] /]/.test(character) ? 0.4 : /[mwMW%—@]/.test(character) ? 0.98 : 0.67
  return units * fontSize
}

/** The text, cut where it would be wider than that. */
export function fitted(text: string, width: number, fontSize: number): string {
  if (textWidth(text, fontSize) <= width) return text
  let end = text.length
  while (end > 0 && textWidth(`${text.slice(0, end)}…`, fontSize) > width) end--
  return `${text.slice(0, end)}…`
}

export type Anchor = 'start' | 'middle' | 'end'

export function label(x: number, y: number, text: string, anchor: Anchor, css: string, more: Attributes = {}): string {
  return element('text', { x, y, 'text-anchor': anchor, class: css, ...more }, escaped(text))
}
