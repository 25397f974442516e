// The looks of the page. Colours are those of Okabe and Ito, told apart with every common colour vision, darkened for light paper and
// lightened for dark; texts have a contrast of 4.5 or more, marks of 3 or more. Paper is always light.
const light = `
  --page: #ffffff; --card: #f7f8fa; --ink: #1a1d21; --ink-2: #4b525b; --rule: #d9dde2; --grid: #e4e7eb; --accent: #005a96; --bad: #b3261e;
  --c0: #0068ab; --c1: #c24e00; --c2: #00805c; --c3: #a8407f; --c4: #8a6100; --c5: #3f3f9f; --c6: #5b6470; --c7: #a01c1c;`
const dark = `
  --page: #14171b; --card: #1c2026; --ink: #eceff3; --ink-2: #b3bac4; --rule: #363c45; --grid: #2a2f37; --accent: #7cc4f5; --bad: #ff8a80;
  --c0: #56b4e9; --c1: #f28e3c; --c2: #35c79b; --c3: #e08bbd; --c4: #e6c229; --c5: #a3a3f5; --c6: #aab2bd; --c7: #ff7a70;`

export const style = `
:root { color-scheme: light dark; ${light} }
@media (prefers-color-scheme: dark) { :root { ${dark} } }
@media print { :root { color-scheme: light; ${light} } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif }
main, header { max-width: 1240px; margin: 0 auto; padding: 0 24px }
header { padding-top: 32px }
h1 { font-size: 28px; margin: 0; letter-spacing: -0.01em }
h2 { font-size: 21px; margin: 44px 0 4px; padding-top: 12px; border-top: 1px solid var(--rule) }
h3 { font-size: 16px; margin: 0 0 2px }
h4 { font-size: 14px; margin: 18px 0 4px }
p { margin: 6px 0; max-width: 80ch }
.about, .caption { color: var(--ink-2) }
.caption { font-size: 13px }
.bad { color: var(--bad); font-weight: 600 }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: 10px 14px; overflow-x: auto; font-size: 13px; white-space: pre-wrap }
code, pre { font-family: ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 14px 0; font-size: 14px }
dt { color: var(--ink-2) }
dd { margin: 0; overflow-wrap: anywhere }
.tallies { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0; padding: 0; list-style: none }
.tallies li { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 8px 16px; min-width: 104px; font-size: 13px; color: var(--ink-2) }
.tallies b { display: block; font-size: 21px; line-height: 1.25; color: var(--ink) }
.tallies .bad b { color: var(--bad) }
nav { font-size: 14px; display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0 }
a { color: var(--accent) }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); gap: 20px; margin-top: 16px }
figure:only-child { grid-column: 1 / -1; max-width: 700px }
figure { margin: 0; padding: 16px 18px; background: var(--card); border: 1px solid var(--rule); border-radius: 10px; min-width: 0; break-inside: avoid }
.scroll { overflow-x: auto }
svg.chart { display: block; width: 100%; min-width: 460px; max-width: 660px; height: auto; margin-top: 12px; overflow: hidden; font-size: 13px }
svg text { fill: var(--ink) }
svg .tick, svg .guide-label { fill: var(--ink-2) }
svg .axis-title { fill: var(--ink-2); font-weight: 600 }
svg .value { font-variant-numeric: tabular-nums }
.grid { stroke: var(--grid); fill: none }
.grid.fine { stroke-opacity: 0.55 }
.axis { stroke: var(--ink-2); fill: none }
.neutral { color: var(--ink-2) } ${Array.from({ length: 8 }, (_, i) => `.c${i} { color: var(--c${i}) }`).join(' ')}
.mark { fill: currentColor; stroke: var(--card); stroke-width: 0.75 }
.mark.hollow { fill: var(--card); stroke: currentColor; stroke-width: 1.8 }
.line { stroke: currentColor; stroke-width: 2; fill: none; stroke-linejoin: round }
.dashed { stroke-dasharray: 6 4; stroke-width: 1.5 }
.whisker { stroke: currentColor; stroke-width: 1.25; fill: none }
.whisker.ink { stroke: var(--ink); stroke-width: 2 }
.bar { fill: currentColor }
.point:hover .mark, .row:hover .bar { stroke: var(--ink); stroke-width: 2 }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: 6px 0 10px }
caption { white-space: nowrap; text-align: left; font-weight: 600; padding: 8px 0 4px }
th, td { text-align: right; padding: 3px 12px 3px 0; border-bottom: 1px solid var(--rule); white-space: nowrap }
th { color: var(--ink-2); font-weight: 600; vertical-align: bottom }
th:first-child, td:first-child, .words { text-align: left }
th small { display: block; font-weight: 400 }
details { margin-top: 10px }
summary { cursor: pointer; color: var(--accent); font-size: 13px }
footer { max-width: 1240px; margin: 40px auto; padding: 0 24px; color: var(--ink-2); font-size: 13px }
#tip { position: fixed; z-index: 1; display: none; pointer-events: none; white-space: pre; background: var(--ink); color: var(--page); padding: 6px 10px; border-radius: 6px; font-size: 13px; line-height: 1.4 }
@media print { nav, summary, #tip { display: none } figure { border-color: #ccc } h2 { break-after: avoid } .figures { display: block } figure { margin-bottom: 14px } body { font-size: 12px } }
`

/** Shows what marks are about under the pointer, and unfolds tables for paper. The page says everything without it, too. */
export const script = `
const tip = document.getElementById('tip')
for (const chart of document.querySelectorAll('svg.chart')) {
  const title = chart.querySelector('title')
  chart.setAttribute('aria-label', title.textContent)
  chart.removeAttribute('aria-labelledby')
  chart.setAttribute('aria-describedby', chart.querySelector('desc').id)
  title.remove() // browsers would show it over every mark
}
document.addEventListener('pointermove', (event) => {
  const mark = event.target.closest('[data-tip]')
  tip.style.display = mark ? 'block' : 'none'
  if (!mark) return
  tip.textContent = mark.dataset.tip
  const box = tip.getBoundingClientRect()
  tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 4)) + 'px'
  tip.style.top = (event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 18) + 'px'
})
addEventListener('beforeprint', () => { for (const one of document.querySelectorAll('details')) one.open = true })
`
