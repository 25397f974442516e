// Bus bandwidth of each collective by message size, against what the links, or the memory where there are none, can carry.
import { bytesText, shown } from '../support/numbers'
import { type BenchRun } from '../support/run-file'
import { grouped, resultsOf, slug, whyMissing, type Figure, type Figures, type Known } from './figure'
import { type LegendEntry } from './marks'

const titles: Record<string, string> = {
  all_reduce: 'all-reduce',
  all_gather: 'all-gather',
  reduce_scatter: 'reduce-scatter',
  send_recv: 'send and receive',
}
const cases = ['allreduce', 'allgather', 'reducescatter', 'sendrecv']

export function busBandwidths(run: BenchRun): Figures {
  const measured = resultsOf(run, 'busbw')
  if (measured.length === 0) return { figures: [], missing: whyMissing(run, 'bus bandwidths', cases) }
  const links = resultsOf(run, 'link')
  return {
    figures: grouped(measured, ({ facts }) => facts.collective)
      .map(({ key, items }) => curve(key, items, links.filter(({ facts }) => facts.collective === key))),
  }
}

function curve(collective: string, measured: Known<'busbw'>[], links: Known<'link'>[]): Figure {
  const title = titles[collective] ?? collective
  const series = grouped(measured, seriesName)
  const rankCounts = new Set(measured.map(({ facts }) => facts.ranks))
  const lineName = ({ facts }: Known<'link'>) => (rankCounts.size > 1 ? `${facts.line}, ${facts.ranks} ranks` : facts.line)
  const lines = grouped(links.filter(({ facts }) => rankCounts.has(facts.ranks)), lineName).map(({ key, items }) => ({ name: key, link: items[0] }))
  const legend: LegendEntry[] = [
    ...series.map(({ key }, i): LegendEntry => ({ text: key, colour: i, shape: i, line: 'solid' })),
    ...lines.map(({ name, link }): LegendEntry => ({ text: `${name}, ${shown(link.median)} GB/s`, line: 'dashed' })),
  ]
  const best = measured.reduce((most, one) => (one.median > most.median ? one : most))
  return {
    id: `busbw-${slug(collective)}`,
    title: `Bus bandwidth: ${title}`,
    caption: `Bandwidth as nccl-tests count it, by message size; whiskers are quartiles. Most: ${shown(best.median)} GB/s at ` +
      `${bytesText(best.facts.bytes)} (${seriesName(best)})${lines.length === 0 ? '. No limit was measured in this run' : ''}.`,
    chart: {
      kind: 'xy',
      x: { title: 'message size, bytes (1 KB = 1024 B)', kind: 'log2', text: bytesText },
      y: { title: 'bus bandwidth, GB/s', kind: 'linear', include: lines.map(({ link }) => link.median) },
      series: series.map(({ items }, i) => ({
        colour: i,
        shape: i,
        line: true,
        points: items.map((one) => ({
          x: one.facts.bytes, y: one.median, low: one.low, high: one.high,
          tip: `${seriesName(one)}, ${bytesText(one.facts.bytes)}\n${shown(one.median)} GB/s [${shown(one.low)} – ${shown(one.high)}]`,
        })),
      })),
      guides: lines.map(({ name, link }) => ({ y: () => link.median, label: name })),
      legend,
    },
    table: {
      title: `Bus bandwidth of ${title}, medians`,
      columns: [{ key: 'bytes', title: 'size' }, ...series.map(({ key }) => ({ key, title: key, unit: 'GB/s' }))],
      rows: grouped([...measured].sort((a, b) => a.facts.bytes - b.facts.bytes), ({ facts }) => String(facts.bytes)).map(({ items }) => ({
        bytes: bytesText(items[0].facts.bytes), ...Object.fromEntries(items.map((one) => [seriesName(one), one.median])),
      })),
    },
  }
}

function seriesName({ facts }: Known<'busbw'>): string {
  return `${facts.communicator}, ${facts.ranks} ranks${facts.graph ? ', in a graph' : ''}`
}
