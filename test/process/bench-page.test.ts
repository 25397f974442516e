/// <reference lib="dom" />
// The report of the bench in a real browser, light and dark: every chart is there, readable and inside its box, nothing overlaps, no script
// fails, nothing leaves the page. Screenshots are kept in build/bench-page.
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { type Browser, type ElementHandle } from 'puppeteer-core'
import { makeReport } from '../../bench/report/document'
import { htmlReport } from '../../bench/report/html'
import { sampleRun } from '../support/bench-run'
import { chromiumHint, colourVariance, findChromium, openBrowser, openFile, type Opened } from '../support/browser'

interface ChartFacts {
  box: { width: number; height: number }
  name: string
  description: string
  axes: string[]
  legend: string[]
  marks: number
  outside: string[] // texts beyond the edge of the chart
  overlapping: string[]
  weakTexts: string[] // of a contrast below 4.5
  weakMarks: string[] // of a contrast below 3
}

const chromium = findChromium()
const folder = path.resolve(__dirname, '..', '..', 'build', 'bench-page')
const file = path.join(folder, 'report.html')
const rate = 'rate, tokens/s'
const size = 'group size, ranks (TP)'
const bytes = 'message size, bytes (1 KB = 1024 B)'
const bandwidth = 'bus bandwidth, GB/s'
const lines = ['line rate', 'practical limit', 'NVLS limit', 'memory bandwidth']
// id, titles of the axes, words of the legend, least number of marks
const charts: [string, string[], string[], number][] = [
  ['rate-decode', [size, `${rate} (logarithmic)`], ['1 sequence, 128 tokens', '8 sequences, 128 tokens', 'ideal'], 12],
  ['rate-prefill', [size, rate], ['128 tokens', '512 tokens', 'ideal'], 8],
  ['rate-generate', [size, `${rate} (logarithmic)`], ['1 sequence', '4 sequences', 'ideal'], 8],
  ['peers-decode', [rate], ['heddle', 'peers', 'quartiles'], 5],
  ['peers-prefill-512', [rate], ['heddle', 'peers', 'quartiles'], 5],
  ['roofline-cpu-qwen3-0-6b', ['arithmetic intensity, FLOP per byte that must move', 'rate, GFLOP/s'],
    ['qkv', 'gate_up', 'TP 1', 'TP 8', 'arithmetic ceiling, 482 GFLOP/s', 'memory ceiling, 38.4 GB/s'], 140],
  ['efficiency-qwen3-0-6b', [size, 'efficiency, %'], ['TPMLP, 1 row', 'TPAttention, 128 rows', 'hollow: modelled', 'ideal, 100 %'], 16],
  ...['all-reduce', 'all-gather', 'reduce-scatter', 'send-recv'].map((name): [string, string[], string[], number] =>
    [`busbw-${name}`, [bytes, bandwidth], ['local, 2 ranks', 'nccl, 2 ranks, in a graph', ...lines], 44]),
]

if (!chromium) {
  test.skip(`the report in a browser: ${chromiumHint}`, () => {})
} else {
  let browser: Browser
  const opened = {} as Record<'light' | 'dark', Opened>
  beforeAll(async () => {
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder, { recursive: true })
    writeFileSync(file, htmlReport(makeReport(sampleRun())))
    browser = await openBrowser(chromium)
    for (const colours of ['light', 'dark'] as const) opened[colours] = await openFile(browser, file, colours)
  })
  afterAll(() => browser?.close())

  describe.each(['light', 'dark'] as const)('%s', (colours) => {
    beforeAll(() => opened[colours].page.bringToFront()) // a page behind another one draws nothing, and waits for ever to scroll

    test('the page has these charts and no others', async () => {
      const ids = await opened[colours].page.$$eval('figure', (figures) => figures.map(({ id }) => id))
      expect([...ids].sort()).toEqual(charts.map(([id]) => id).sort())
    })

    test.each(charts)('%s has axes with units, a legend, and texts that can be read', async (id, axes, words, leastMarks) => {
      const figure = (await opened[colours].page.$(`figure#${id}`))!
      const chart = await examine(figure)
      expect(chart.box.width).toBeGreaterThan(300)
      expect(chart.box.height).toBeGreaterThan(150)
      expect(chart.name.length).toBeGreaterThan(5)
      expect(chart.description.length).toBeGreaterThan(20)
      expect([...chart.axes].sort()).toEqual([...axes].sort())
      for (const word of words) expect(chart.legend.join('; ')).toContain(word)
      expect(chart.marks).toBeGreaterThanOrEqual(leastMarks)
      const { outside, overlapping, weakTexts, weakMarks } = chart
      expect({ outside, overlapping, weakTexts, weakMarks }).toEqual({ outside: [], overlapping: [], weakTexts: [], weakMarks: [] })
      const screenshot = await figure.screenshot({ path: path.join(folder, `${id}-${colours}.png`) })
      expect(await colourVariance(opened[colours].page, screenshot)).toBeGreaterThan(10)
    })

    test('the texts of the page have a contrast of 4.5 or more', async () => {
      const { page } = opened[colours]
      const weak = await page.$$eval('h1, h2, p, dt, dd, a, li, th, summary, pre, .tallies b, .bad, section:last-of-type td', (elements) => elements.flatMap((element) => {
        const { contrast } = (globalThis as unknown as { probe: { contrast(a: string, b: Element): number } }).probe
        const ratio = contrast(getComputedStyle(element).color, element)
        return ratio < 4.5 ? [`${element.textContent?.slice(0, 30)}: ${ratio}`] : []
      }))
      expect(weak).toEqual([])
    })

    test('a mark under the pointer says what it is about', async () => {
      const { page } = opened[colours]
      const mark = (await page.$('figure#roofline-cpu-qwen3-0-6b .point'))!
      await mark.scrollIntoView()
      await mark.hover()
      const tip = await page.$eval('#tip', (element) => ({ text: element.textContent, shown: getComputedStyle(element).display }))
      expect(tip).toEqual({ text: expect.stringMatching(/^\w+, TP \d, \d+ rows?\n.*FLOP\/s at .* FLOP\/B\n\d+ % of the roof$/), shown: 'block' })
      await page.mouse.move(0, 0)
    })

    test('nothing fails, nothing is loaded, and hostile names stay text', async () => {
      const { page, problems } = opened[colours]
      const picture = await page.screenshot({ path: path.join(folder, `page-${colours}.png`), fullPage: true })
      expect(await colourVariance(page, picture)).toBeGreaterThan(10)
      expect(await page.title()).toBe('heddle bench')
      expect(await page.$$eval('img, iframe, object, link[rel=stylesheet], script[src]', (elements) => elements.length)).toBe(0)
      expect(problems).toEqual([])
    })
  })

  test('light and dark differ, and paper is light', async () => {
    const background = ({ page }: Opened) => page.evaluate(() => getComputedStyle(document.body).backgroundColor)
    const ink = ({ page }: Opened) => page.$eval('svg .tick', (element) => getComputedStyle(element).fill)
    const series = ({ page }: Opened) => page.$eval('svg .series .mark', (element) => getComputedStyle(element).fill)
    for (const colour of [background, ink, series]) expect(await colour(opened.light)).not.toBe(await colour(opened.dark))
    const lightPaper = await background(opened.light)
    await opened.dark.page.emulateMediaType('print')
    expect(await background(opened.dark)).toBe(lightPaper)
    await opened.dark.page.emulateMediaType('screen')
  })

  test('on a narrow screen charts scroll, the page does not', async () => {
    const { page } = opened.light
    await page.bringToFront()
    await page.setViewport({ width: 390, height: 800 })
    const { content, screen } = await page.evaluate(() => ({ content: document.documentElement.scrollWidth, screen: innerWidth }))
    expect(content).toBeLessThanOrEqual(screen)
  })
}

/** What a reader sees of a chart, asked of the browser. */
function examine(figure: ElementHandle<Element>): Promise<ChartFacts> {
  return figure.evaluate((element) => {
    const { contrast } = (globalThis as unknown as { probe: { contrast(a: string, b: Element): number } }).probe
    const svg = element.querySelector('svg')!
    const texts = [...svg.querySelectorAll('text')].map((text) => ({ text, words: text.textContent ?? '', box: text.getBoundingClientRect() }))
    const frame = svg.getBoundingClientRect()
    const slack = 0.5
    const words = (selector: string) => [...svg.querySelectorAll(selector)].map((one) => one.textContent ?? '')
    const touch = (a: DOMRect, b: DOMRect) =>
      Math.min(a.right, b.right) - Math.max(a.left, b.left) > slack && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2
    return {
      box: { width: frame.width, height: frame.height },
      name: svg.getAttribute('role') === 'img' ? (svg.getAttribute('aria-label') ?? '') : '',
      description: document.getElementById(svg.getAttribute('aria-describedby') ?? '')?.textContent ?? '',
      axes: words('[data-axis]'),
      legend: words('.legend text'),
      marks: svg.querySelectorAll('[data-tip]').length,
      outside: texts
        .filter(({ box }) => box.left < frame.left - slack || box.right > frame.right + slack || box.top < frame.top - slack || box.bottom > frame.bottom + slack)
        .map(({ words }) => words),
      overlapping: texts.flatMap((a, i) => texts.slice(i + 1).filter((b) => touch(a.box, b.box)).map((b) => `${a.words} / ${b.words}`)),
      weakTexts: texts.filter(({ text }) => contrast(getComputedStyle(text).fill, svg) < 4.5).map(({ words }) => words),
      weakMarks: [...svg.querySelectorAll('.mark:not(.hollow), .bar')].filter((one) => contrast(getComputedStyle(one).fill, svg) < 3).map((one) => one.outerHTML),
    }
  })
}
