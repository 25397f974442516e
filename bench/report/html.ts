// The report as one HTML file that opens anywhere: no network, no fonts, charts as inline SVG.
import { createHash } from 'node:crypto'
import { type Table } from '../support/case'
import { cell } from '../support/report'
import { drawBars } from './bar-chart'
import { notMet, type Block, type Report, type Section } from './document'
import { type Figure } from './figure'
import { script, style } from './style'
import { element, escaped } from './svg'
import { drawXy } from './xy-chart'

export function htmlReport(report: Report): string {
  const { title, command, facts, tallies, sections } = report
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${escaped(policy)}">
<link rel="icon" href="data:,">
<title>${escaped(title)}</title>
<style>${style}</style>
</head>
<body>
<header>
<h1>${escaped(title)}</h1>
<pre><code>${escaped(command)}</code></pre>
<dl>${facts.map(({ name, value }) => `<dt>${escaped(name)}</dt><dd>${escaped(value)}</dd>`).join('')}</dl>
<ul class="tallies">${tallies.map(tally).join('')}</ul>
<nav aria-label="sections">${sections.map((one) => `<a href="#${one.id}">${escaped(one.title)}</a>`).join('')}</nav>
</header>
<main>
${sections.map(section).join('\n')}
</main>
<footer>Written by <code>npm run bench</code>. How every figure is measured and every formula derived: docs/performance.md.</footer>
<div id="tip" role="presentation"></div>
<script>${script}</script>
</body>
</html>
`
}

// Nothing is loaded and no script runs but the one of this page, whatever a name or a note contains.
const policy = `default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-${createHash('sha256').update(script).digest('base64')}'`

function tally({ name, value, bad }: Report['tallies'][number]): string {
  return element('li', { class: bad ? 'bad' : undefined }, `<b>${escaped(value)}</b>`, escaped(name))
}

function section({ id, title, about, blocks }: Section): string {
  const figures = blocks.filter((one) => one.kind === 'figure').map(({ figure }) => drawFigure(figure))
  const others = blocks.filter((one) => one.kind !== 'figure').map((one) => block(one, title))
  return element('section', { id }, `<h2>${escaped(title)}</h2>`, about ? `<p class="about">${escaped(about)}</p>` : '',
    figures.length > 0 ? element('div', { class: 'figures' }, ...figures) : '', ...others)
}

function drawFigure({ id, title, caption, chart, table }: Figure): string {
  const drawn = chart.kind === 'xy' ? drawXy(chart, id, title, caption) : drawBars(chart, id, title, caption)
  return element('figure', { id }, element('figcaption', {}, `<h3>${escaped(title)}</h3><p class="caption">${escaped(caption)}</p>`),
    element('div', { class: 'scroll' }, drawn), folded('The numbers', tableMarkup(table, '')))
}

function block(one: Exclude<Block, { kind: 'figure' }>, heading: string): string {
  if (one.kind === 'text') return element('p', { class: one.tone }, escaped(one.text))
  if (one.kind === 'list') {
    const items = `<ul>${one.items.map((item) => `<li>${escaped(item)}</li>`).join('')}</ul>`
    return one.folded ? folded(`${one.title}: ${one.items.length}`, items) : `<h4>${escaped(one.title)}</h4>${items}`
  }
  const { title, rows } = one.table
  const markup = tableMarkup(one.table, title === heading ? '' : `<caption>${escaped(title)}</caption>`)
  return one.folded ? folded(`${title}: ${rows.length} rows`, markup) : markup
}

function folded(summary: string, inside: string): string {
  return `<details><summary>${escaped(summary)}</summary>${inside}</details>`
}

function tableMarkup({ columns, rows }: Table, caption: string): string {
  const words = columns.map(({ key }) => rows.some((row) => typeof row[key] === 'string' && !/^[-\d.]/.test(row[key])))
  const head = columns.map(({ title, unit }, i) =>
    element('th', { scope: 'col', class: words[i] ? 'words' : undefined }, escaped(title), unit ? `<small>${escaped(unit)}</small>` : ''))
  const body = rows.map((row) => element('tr', {}, ...columns.map(({ key }, i) => {
    const text = cell(row[key])
    const css = [words[i] ? 'words' : '', text === notMet ? 'bad' : ''].filter(Boolean).join(' ')
    return element('td', { class: css || undefined }, escaped(text))
  })))
  return element('div', { class: 'scroll' }, `<table>${caption}<thead><tr>${head.join('')}</tr></thead><tbody>${body.join('')}</tbody></table>`)
}
