// heddle beside what users would run instead: a chart for each phase, with ratios taken pair by pair.
import { shown } from '../support/numbers'
import { type BenchRun } from '../support/run-file'
import { grouped, resultsOf, slug, whyMissing, type Figure, type Figures, type Known } from './figure'

const ours = /^heddle\b/
const ourColour = 0
const theirColour = 1

export function peerBars(run: BenchRun): Figures {
  const measured = resultsOf(run, 'peer')
  if (measured.length === 0) return { figures: [], missing: whyMissing(run, 'peers', ['peers']) }
  const ratios = resultsOf(run, 'peer ratio')
  return {
    figures: grouped(measured, ({ facts }) => facts.phase)
      .map(({ key, items }) => phaseFigure(key, items, ratios.filter(({ facts }) => facts.phase === key))),
  }
}

function phaseFigure(phase: string, measured: Known<'peer'>[], ratios: Known<'peer ratio'>[]): Figure {
  const ratioOf = (contender: string) => ratios.find(({ facts }) => facts.contender === contender)
  const ratioText = (contender: string) => {
    const ratio = ratioOf(contender)
    return ratio ? `heddle ${shown(ratio.median)}x [${shown(ratio.low)} – ${shown(ratio.high)}]` : ''
  }
  return {
    id: `peers-${slug(phase)}`,
    title: `Beside the peers: ${phase}`,
    caption: 'The same weights and threads in one run, by turns. Ratios are medians of pairs taken one after the other, with quartiles.',
    chart: {
      kind: 'bars',
      x: { title: 'rate, tokens/s', kind: 'linear' },
      bars: measured.map((one) => {
        const { contender } = one.facts
        const figure = `${shown(one.median)} tokens/s`
        return {
          name: contender,
          colour: ours.test(contender) ? ourColour : theirColour,
          value: one.median, low: one.low, high: one.high,
          text: [figure, ratioText(contender)].filter(Boolean).join(' · '),
          tip: [`${contender}, ${phase}`, `${figure} [${shown(one.low)} – ${shown(one.high)}]`, ratioText(contender)].filter(Boolean).join('\n'),
        }
      }),
      legend: [
        ...(measured.some(({ facts }) => ours.test(facts.contender)) ? [{ text: 'heddle', colour: ourColour, bar: true }] : []),
        ...(measured.some(({ facts }) => !ours.test(facts.contender)) ? [{ text: 'peers', colour: theirColour, bar: true }] : []),
        { text: 'quartiles', line: 'solid' },
      ],
    },
    table: {
      title: `Beside the peers, ${phase}`,
      columns: [
        { key: 'contender', title: 'contender' }, { key: 'rate', title: 'rate', unit: 'tokens/s' }, { key: 'low', title: 'lower quartile' },
        { key: 'high', title: 'upper quartile' }, { key: 'ratio', title: 'heddle over it' },
      ],
      rows: measured.map(({ facts, median, low, high }) => ({
        contender: facts.contender, rate: median, low, high, ratio: ratioText(facts.contender).replace(/^heddle /, ''),
      })),
    },
  }
}
