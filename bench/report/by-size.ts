// Charts by group size: tokens/s with the ideal line, and the efficiency of layers, measured and modelled.
import { shown } from '../support/numbers'
import { type BenchRun } from '../support/run-file'
import { ascending, distinct, grouped, resultsOf, slug, whyMissing, type Figure, type Figures, type Known } from './figure'
import { type LegendEntry } from './marks'
import { type Axis } from './scale'
import { type Guide } from './xy-chart'

const phases: Record<string, string> = {
  decode: 'Decode, tokens/s by group size',
  prefill: 'Prefill, prompt tokens/s by group size',
  generate: 'Generation from call to last token, tokens/s by group size',
}

export function ratesBySize(run: BenchRun): Figures {
  const rates = resultsOf(run, 'rate')
  if (rates.length === 0) return { figures: [], missing: whyMissing(run, 'tokens/s by group size', ['decode', 'prefill', 'generate']) }
  return { figures: grouped(rates, ({ facts }) => facts.phase).map(({ key, items }) => rateFigure(key, items)) }
}

function rateFigure(phase: string, rates: Known<'rate'>[]): Figure {
  const name = ({ facts }: Known<'rate'>) => rateName(facts, rates)
  const series = grouped(rates, name).map(({ key, items }) => ({ key, items: onePerSize(items) }))
  const sizes = ascending(rates.map(({ facts }) => facts.tp))
  // on a linear scale the slow series would lie on the axis; on either the ideal is straight
  const medians = rates.map(({ median }) => median)
  const wide = series.length > 1 && Math.max(...medians) > 12 * Math.min(...medians)
  const ideals = series.flatMap(({ items }, colour): Guide[] => (items.length > 1 ? [ideal(items, colour)] : []))
  const gains = series.flatMap(({ key, items }) => (items.length > 1 ? [gain(key, items)] : []))
  return {
    id: `rate-${slug(phase)}`,
    title: phases[phase] ?? phase,
    caption: `Medians with quartiles; the ideal line is N times the smallest size.${gains.length > 0 ? ` ${gains.slice(0, 3).join('; ')}.` : ''}`,
    chart: {
      kind: 'xy',
      x: sizeAxis(sizes, wide ? 'log2' : 'linear'),
      y: { title: wide ? 'rate, tokens/s (logarithmic)' : 'rate, tokens/s', kind: wide ? 'log10' : 'linear' },
      series: series.map(({ items }, i) => ({
        colour: i,
        shape: i,
        line: true,
        points: items.map((one) => ({
          x: one.facts.tp, y: one.median, low: one.low, high: one.high,
          tip: `${name(one)}, TP ${one.facts.tp}\n${shown(one.median)} tokens/s [${shown(one.low)} – ${shown(one.high)}]`,
        })),
      })),
      guides: ideals,
      legend: [
        ...series.map(({ key }, i): LegendEntry => ({ text: key, colour: i, shape: i, line: 'solid' })),
        ...(ideals.length > 0 ? [{ text: 'ideal: N times the smallest size', line: 'dashed' as const }] : []),
      ],
    },
    table: {
      title: phases[phase] ?? phase,
      columns: [{ key: 'series', title: '' }, ...sizes.map((tp) => ({ key: `tp${tp}`, title: `TP ${tp}`, unit: 'tokens/s' }))],
      rows: series.map(({ key, items }) => ({ series: key, ...Object.fromEntries(items.map((one) => [`tp${one.facts.tp}`, one.median])) })),
    },
  }
}

// By size, upwards. What was measured again beside something else comes later, and the first series is the one to compare within.
function onePerSize(items: Known<'rate'>[]): Known<'rate'>[] {
  return grouped(items, ({ facts }) => String(facts.tp)).map(({ items: [first] }) => first).sort((a, b) => a.facts.tp - b.facts.tp)
}

// Says only what tells the series of the chart apart.
function rateName({ batch, tokens }: Known<'rate'>['facts'], rates: Known<'rate'>[]): string {
  const many = (of: (one: Known<'rate'>) => number) => new Set(rates.map(of)).size > 1
  const parts = [
    ...(many(({ facts }) => facts.batch) || !many(({ facts }) => facts.tokens) ? [`${batch} sequence${batch === 1 ? '' : 's'}`] : []),
    ...(many(({ facts }) => facts.tokens) ? [`${tokens} tokens`] : []),
  ]
  return parts.join(', ')
}

function ideal(items: Known<'rate'>[], colour: number): Guide {
  const [first] = items
  return { y: (tp) => (first.median * tp) / first.facts.tp, xs: items.map(({ facts }) => facts.tp), colour }
}

function gain(name: string, items: Known<'rate'>[]): string {
  const [first, last] = [items[0], items[items.length - 1]]
  return `${name}: TP ${last.facts.tp} is ${shown(last.median / first.median)}x TP ${first.facts.tp}`
}

export function layerEfficiency(run: BenchRun): Figures {
  const results = resultsOf(run, 'efficiency')
  if (results.length === 0) return { figures: [], missing: whyMissing(run, 'the efficiency of layers', ['layers']) }
  return { figures: grouped(results, ({ facts }) => facts.model).map(({ key, items }) => efficiencyFigure(key, items)) }
}

function efficiencyFigure(model: string, results: Known<'efficiency'>[]): Figure {
  const name = ({ facts }: Known<'efficiency'>) => `${facts.layer}, ${facts.rows} row${facts.rows === 1 ? '' : 's'}`
  const series = grouped(results, name)
  const layers = distinct(results.map(({ facts }) => facts.layer))
  const rows = ascending(results.map(({ facts }) => facts.rows))
  const sizes = ascending(results.map(({ facts }) => facts.tp))
  const modelled = results.some(({ facts }) => facts.modelled)
  const look = ({ facts }: Known<'efficiency'>) => ({ colour: rows.indexOf(facts.rows), shape: layers.indexOf(facts.layer) })
  const note = ({ facts }: Known<'efficiency'>) => (facts.modelled ? ' (modelled)' : '')
  return {
    id: `efficiency-${slug(model)}`,
    title: `Efficiency of layers: ${model}`,
    caption: `T(1) / (N · T(N)): 100 % is the ideal.${modelled ? ' Hollow marks are modelled: one real shard was measured, the wire is from a stated table.' : ''}`,
    chart: {
      kind: 'xy',
      x: sizeAxis(sizes, 'log2'),
      y: { title: 'efficiency, %', kind: 'linear', include: [100] },
      series: series.map(({ key, items }) => ({
        ...look(items[0]),
        line: true,
        points: items.map((one) => ({
          x: one.facts.tp, y: one.median, low: one.low, high: one.high, hollow: one.facts.modelled,
          tip: `${key}, TP ${one.facts.tp}${note(one)}\n${shown(one.median)} % [${shown(one.low)} – ${shown(one.high)}]`,
        })),
      })),
      guides: [{ y: () => 100, label: 'ideal' }],
      legend: [
        ...series.map(({ key, items }): LegendEntry => ({ text: key, ...look(items[0]), line: 'solid' })),
        ...(modelled ? [{ text: 'hollow: modelled', shape: 0, hollow: true }] : []),
        { text: 'ideal, 100 %', line: 'dashed' },
      ],
    },
    table: {
      title: `Efficiency of layers, ${model}`,
      columns: [{ key: 'series', title: '' }, ...sizes.map((tp) => ({ key: `tp${tp}`, title: `TP ${tp}`, unit: '%' }))],
      rows: series.map(({ key, items }) => ({
        series: key,
        ...Object.fromEntries(items.map((one) => [`tp${one.facts.tp}`, `${shown(one.median)}${one.facts.modelled ? ' modelled' : ''}`])),
      })),
    },
  }
}

function sizeAxis(sizes: number[], kind: 'linear' | 'log2'): Axis {
  return { title: 'group size, ranks (TP)', kind, only: sizes, include: sizes }
}
