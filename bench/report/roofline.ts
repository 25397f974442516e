// The roofline of the GEMMs (Williams, Waterman, Patterson, CACM 52-4, 2009): a product can run no faster than the arithmetic ceiling, and no
// faster than the memory ceiling feeds it: min(FLOP/s, B/s · FLOP per byte). Both ceilings are measured in the same run.
import { type Table } from '../support/case'
import { inBaseUnit, quantity, shown, suitableUnit } from '../support/numbers'
import { type BenchRun } from '../support/run-file'
import { ascending, distinct, grouped, resultsOf, slug, whyMissing, type Figure, type Figures, type Known } from './figure'
import { type LegendEntry } from './marks'
import { type Guide, type XyChart } from './xy-chart'

interface Ceilings {
  arithmetic?: number // FLOP/s
  memory?: number // B/s
}

export function rooflines(run: BenchRun): Figures {
  const gemms = resultsOf(run, 'gemm')
  if (gemms.length === 0) return { figures: [], missing: whyMissing(run, 'the roofline of the GEMMs', ['gemm']) }
  const groups = grouped(gemms, ({ facts }) => `${facts.device}, ${facts.model}`)
  return { figures: groups.map(({ key, items }) => roofline(key, items, ceilingsOf(run, items[0].facts.device))) }
}

// Where a ceiling was measured more than once, the highest is the one that nothing exceeds.
function ceilingsOf(run: BenchRun, device: string): Ceilings {
  const highest = (of: 'arithmetic' | 'memory') => {
    const measured = resultsOf(run, 'ceiling').filter(({ facts }) => facts.device === device && facts.of === of)
    return measured.length > 0 ? Math.max(...measured.map(({ median, unit }) => inBase(median, unit))) : undefined
  }
  return { arithmetic: highest('arithmetic'), memory: highest('memory') }
}

function roofline(title: string, gemms: Known<'gemm'>[], ceilings: Ceilings): Figure {
  const linears = distinct(gemms.map(({ facts }) => facts.linear))
  const sizes = ascending(gemms.map(({ facts }) => facts.tp))
  const highest = Math.max(ceilings.arithmetic ?? 0, ...gemms.map(rate))
  const { unit, divisor } = suitableUnit(highest, 'FLOP/s')
  const chart: XyChart = {
    kind: 'xy',
    x: { title: 'arithmetic intensity, FLOP per byte that must move', kind: 'log10' },
    y: { title: `rate, ${unit}`, kind: 'log10', include: [highest / divisor] },
    series: grouped(gemms, ({ facts }) => `${facts.linear} ${facts.tp}`).map(({ items }) => ({
      colour: linears.indexOf(items[0].facts.linear),
      shape: sizes.indexOf(items[0].facts.tp),
      line: false,
      points: items.map((one) => ({ x: one.facts.intensity, y: rate(one) / divisor, tip: tip(one, ceilings) })),
    })),
    guides: guides(ceilings, gemms, divisor),
    legend: [
      ...linears.map((text, colour): LegendEntry => ({ text, colour, shape: 0 })),
      ...sizes.map((tp, shape): LegendEntry => ({ text: `TP ${tp}`, shape })),
      ...(ceilings.arithmetic ? [{ text: `arithmetic ceiling, ${quantity(ceilings.arithmetic, 'FLOP/s')}`, line: 'dashed' as const }] : []),
      ...(ceilings.memory ? [{ text: `memory ceiling, ${quantity(ceilings.memory, 'B/s')}`, line: 'dashed' as const }] : []),
    ],
  }
  const caption = 'Each mark is one linear as the shard of one rank at one number of rows; rows grow to the right. Ceilings were measured in the ' +
    `same run.${bestShare(gemms, ceilings)}`
  return { id: `roofline-${slug(title)}`, title: `Roofline of the GEMMs: ${title}`, caption, chart, table: table(gemms, ceilings) }
}

// The slope ends where it meets the flat roof, and the flat roof begins there.
function guides({ arithmetic, memory }: Ceilings, gemms: Known<'gemm'>[], divisor: number): Guide[] {
  const intensities = gemms.map(({ facts }) => facts.intensity)
  const ridge = arithmetic && memory && arithmetic / memory
  const first = Math.min(...intensities, ridge ?? Infinity)
  const last = Math.max(...intensities, 4 * (ridge ?? 0)) // so far that the flat part can be seen
  return [
    ...(arithmetic ? [{ y: () => arithmetic / divisor, xs: [ridge ?? first, last], label: 'arithmetic ceiling', inside: true }] : []),
    ...(memory ? [{ y: (x: number) => (x * memory) / divisor, xs: [first, ridge ?? last] }] : []),
  ]
}

/** The roof above a product, FLOP/s. */
function roof(intensity: number, { arithmetic, memory }: Ceilings): number | undefined {
  const limits = [arithmetic, memory && memory * intensity].filter((limit) => limit !== undefined)
  return limits.length > 0 ? Math.min(...limits) : undefined
}

function share(one: Known<'gemm'>, ceilings: Ceilings): number | undefined {
  const limit = roof(one.facts.intensity, ceilings)
  return limit && rate(one) / limit
}

function bestShare(gemms: Known<'gemm'>[], ceilings: Ceilings): string {
  const shares = gemms.flatMap((one) => share(one, ceilings) ?? [])
  if (shares.length === 0) return ''
  const best = Math.max(...shares)
  const above = best > 1.05 ? ' Above 100 %, the machine was busier while the ceiling was measured than later.' : ''
  return ` The best product reaches ${(100 * best).toFixed(0)} % of its roof.${above}`
}

function rate({ median, unit }: Known<'gemm'>): number {
  return inBase(median, unit)
}

function inBase(value: number, unit: string): number {
  return value * (inBaseUnit(unit)?.factor ?? 1)
}

function tip(one: Known<'gemm'>, ceilings: Ceilings): string {
  const { linear, tp, rows, intensity } = one.facts
  const part = share(one, ceilings)
  const ofRoof = part === undefined ? '' : `\n${(100 * part).toFixed(0)} % of the roof`
  return `${linear}, TP ${tp}, ${rows} row${rows === 1 ? '' : 's'}\n${quantity(rate(one), 'FLOP/s')} at ${shown(intensity)} FLOP/B${ofRoof}`
}

function table(gemms: Known<'gemm'>[], ceilings: Ceilings): Table {
  const { unit, divisor } = suitableUnit(Math.max(...gemms.map(rate)), 'FLOP/s')
  return {
    title: 'GEMMs',
    columns: [
      { key: 'linear', title: 'linear' }, { key: 'tp', title: 'TP' }, { key: 'rows', title: 'rows' },
      { key: 'intensity', title: 'intensity', unit: 'FLOP/B' }, { key: 'rate', title: 'rate', unit }, { key: 'share', title: 'of the roof', unit: '%' },
    ],
    rows: gemms.map((one) => ({
      linear: one.facts.linear, tp: String(one.facts.tp), rows: String(one.facts.rows), intensity: one.facts.intensity,
      rate: rate(one) / divisor, share: percent(share(one, ceilings)),
    })),
  }
}

function percent(part: number | undefined): number | undefined {
  return part === undefined ? undefined : 100 * part
}
