// Reports as text: files checked before use, scales and numbers, charts left out with a reason, nothing in a name taken for markup.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { makeReport } from '../../bench/report/document'
import { htmlReport } from '../../bench/report/html'
import { markdownReport } from '../../bench/report/markdown'
import { makeScale } from '../../bench/report/scale'
import { fitted, textWidth } from '../../bench/report/svg'
import { report } from '../../bench/report/write'
import { bytesText, quantity, shown } from '../../bench/support/numbers'
import { checkRun, readRun, writeRun } from '../../bench/support/run-file'
import { hostile, sampleRun } from '../support/bench-run'

let folder: string
beforeAll(() => { folder = mkdtempSync(path.join(tmpdir(), 'heddle-report-')) })
afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe('the file of a run', () => {
  test('is read as it was written', () => {
    const file = path.join(folder, 'run.json')
    writeRun(file, sampleRun())
    expect(readRun(file)).toEqual(sampleRun())
  })

  const first = 'cases[0].results[0]'
  test.each<[string, (run: any) => void, string]>([
    ['another version', (run) => { run.version = 2 }, 'version: expected 1, got 2'],
    ['no machine', (run) => { delete run.machine }, 'machine: expected an object, got nothing'],
    ['a text for a number', (run) => { run.machine.cores = '2' }, 'machine.cores: expected a finite number, got "2"'],
    ['a sample that JSON cannot write', (run) => { run.cases[0].results[0].samples[1] = null }, `${first}.samples[1]: expected a finite number, got null`],
    ['no samples', (run) => { run.cases[0].results[0].samples = [] }, `${first}.samples: expected at least 1, got 0`],
    ['facts of no metric', (run) => { run.cases[0].results[0].facts.metric = 'toString' }, `${first}.facts.metric: expected gemm or`],
    ['facts without a field', (run) => { delete run.cases[0].results[0].facts.tp }, `${first}.facts.tp: expected a finite number, got nothing`],
    ['a cell that is no text', (run) => { run.cases[4].tables[0].rows[0].size = {} }, 'cases[4].tables[0].rows[0].size: expected a text or a number, got {}'],
    ['a list for an object', (run) => { run.options = [] }, 'options: expected an object, got []'],
  ])('%s is an error that says where', (_, damage, message) => {
    const run = JSON.parse(JSON.stringify(sampleRun()))
    damage(run)
    expect(() => checkRun(run)).toThrow(message)
  })

  test('that is no JSON is named', () => {
    const file = path.join(folder, 'broken.json')
    writeFileSync(file, '{')
    expect(() => readRun(file)).toThrow(/broken\.json: expected the JSON of a bench run/)
    expect(() => checkRun(null)).toThrow('the file: expected an object, got null')
  })
})

describe('numbers', () => {
  test.each([[0, '0.00'], [0.0123, '0.012'], [0.64, '0.64'], [-3.456, '-3.46'], [27.74, '27.7'], [482.4, '482'], [151936, '151936']])(
    '%d is %s', (value, text) => { expect(shown(value)).toBe(text) })

  test.each([[4.82e11, 'FLOP/s', '482 GFLOP/s'], [482, 'GFLOP/s', '482 GFLOP/s'], [1250, 'GFLOP/s', '1.25 TFLOP/s'], [38.4e9, 'B/s', '38.4 GB/s'],
    [900, 'B', '900 B'], [27.7, 'tok/s', '27.7 tok/s']])('%d %s is %s', (value, unit, text) => { expect(quantity(value, unit)).toBe(text) })

  test.each([[512, '512 B'], [1024, '1 KB'], [262144, '256 KB'], [1.5 * 2 ** 20, '1.50 MB'], [2 ** 30, '1 GB']])(
    '%d bytes are %s', (bytes, text) => { expect(bytesText(bytes)).toBe(text) })
})

describe('scales', () => {
  const ticks = (axis: Parameters<typeof makeScale>[0], values: number[]) =>
    makeScale(axis, values, 0, 100).ticks.filter(({ text }) => text).map(({ value }) => value)

  test('linear ones hold 0 and end on whole steps', () => {
    expect(ticks({ title: '', kind: 'linear' }, [3, 17])).toEqual([0, 5, 10, 15, 20])
    expect(ticks({ title: '', kind: 'linear' }, [-4, 7])).toEqual([-5, -2.5, 0, 2.5, 5, 7.5])
    const scale = makeScale({ title: '', kind: 'linear' }, [3, 17], 100, 300)
    expect([scale.at(0), scale.at(10), scale.at(20)]).toEqual([100, 200, 300])
  })

  test('equal factors are equal distances on logarithmic ones', () => {
    for (const kind of ['log2', 'log10'] as const) {
      const { at } = makeScale({ title: '', kind }, [1, 3000], 0, 500)
      expect(at(80) - at(40)).toBeCloseTo(at(2) - at(1), 9)
    }
    expect(ticks({ title: '', kind: 'log10' }, [0.9995, 700])).toEqual([1, 10, 100, 1000])
    expect(ticks({ title: '', kind: 'log2' }, [1024, 2 ** 30])).toEqual([2 ** 10, 2 ** 14, 2 ** 18, 2 ** 22, 2 ** 26, 2 ** 30])
  })

  test('hold every value, also one alone and none', () => {
    for (const kind of ['linear', 'log2', 'log10'] as const) {
      for (const values of [[5], [5, 5000], [1e-3, 7e11]]) {
        const scale = makeScale({ title: '', kind }, values, 0, 100)
        for (const value of values) expect({ kind, value, inside: scale.at(value) >= 0 && scale.at(value) <= 100 }).toEqual({ kind, value, inside: true })
      }
    }
    expect(ticks({ title: '', kind: 'linear' }, [])).toContain(0)
    expect(ticks({ title: '', kind: 'linear' }, [0])).toContain(0)
  })

  test('texts are cut to the width they have', () => {
    expect(fitted('short', 100, 12)).toBe('short')
    const cut = fitted('a name that is much too long for where it should go', 100, 12)
    expect(cut).toMatch(/^a name.*…$/)
    expect(textWidth(cut, 12)).toBeLessThanOrEqual(100)
  })
})

describe('the report', () => {
  const html = () => htmlReport(makeReport(sampleRun()))

  test('names, notes, commands and errors are never markup', () => {
    const parts = html().split(hostile)
    expect(parts.length).toBe(1)
    expect(html()).not.toContain('<img')
    const markdown = markdownReport(makeReport(sampleRun()))
    expect(markdown.replace(/```[\s\S]*?```/g, '')).not.toMatch(/(^|[^\\])<img/)
    for (const line of markdown.split('\n').filter((one) => one.startsWith('| '))) expect(line).toMatch(/^\| (\\.|[^\\])* \|$/)
  })

  test('loads nothing from elsewhere', () => {
    expect(html()).toContain("default-src &#39;none&#39;")
    expect(html()).not.toMatch(/(src|href)="(?!#|data:,")/)
  })

  test('the same sections in HTML and Markdown', () => {
    const titles = makeReport(sampleRun()).sections.map(({ title }) => title)
    expect(titles).toEqual(['Goals', 'Tokens a second', 'Beside the peers', 'GEMMs', 'Layers', 'Collectives', 'Case decode', 'Case peers',
      'Case gemm', 'Case layers', 'Case allreduce', 'Case load'])
    const markdown = markdownReport(makeReport(sampleRun()))
    for (const title of titles) {
      expect(html()).toContain(`<h2>${title}</h2>`)
      expect(markdown).toContain(`## ${title}\n`)
    }
    for (const text of ['transformers: 5.23.0', 'transformers.js: no ONNX model', 'head tp=8 rows=4096', 'ended with SIGSEGV']) {
      expect(html()).toContain(text)
      expect(markdown.replaceAll('\\', '')).toContain(text)
    }
  })

  test('every result is there with its quartiles, its samples and its goal', () => {
    const run = sampleRun()
    const tables = makeReport(run).sections.flatMap(({ blocks }) => blocks).flatMap((one) => (one.kind === 'table' ? [one.table] : []))
    const results = tables.filter(({ title }) => title === 'Results').flatMap(({ rows }) => rows)
    expect(results.length).toBe(run.cases.flatMap((one) => one.results).length)
    expect(results).toContainEqual({ name: 'decode batch=1 tokens=128 tp=2', median: '39.0', spread: '38.6 – 39.8', unit: 'tok/s', samples: '5', goal: '≥ 35.0', verdict: 'met' })
  })

  test('a chart without figures is left out with a sentence that says why', () => {
    const run = sampleRun()
    run.cases = [
      { ...run.cases[0]!, results: [] },
      { ...run.cases[2]!, results: [], trimmed: [], skipped: [{ what: 'gemm on a GPU', why: 'there is none' }] },
    ]
    const { sections } = makeReport(run)
    const text = (title: string) => sections.find((one) => one.title === title)!.blocks
    expect(text('Tokens a second')).toEqual([{ kind: 'text', text: 'No chart of tokens/s by group size: decode, prefill, generate gave no figures for it.' }])
    expect(text('GEMMs')).toEqual([{ kind: 'text', text: 'No chart of the roofline of the GEMMs: gemm gave no figures for it; gemm skipped gemm on a GPU: there is none.' }])
    expect(text('Collectives')[0]).toMatchObject({ text: expect.stringContaining('it takes the case allreduce or allgather or reducescatter or sendrecv, which was not run') })
    expect(htmlReport(makeReport(run))).not.toContain('<svg')
  })

  test('one point, one size, ceilings alone and a figure without limits are drawn, too', () => {
    const run = sampleRun()
    const kept = new Set(['decode batch=1 tokens=128 tp=1', 'qkv tp=1 rows=1', 'all_reduce local 1024', 'TPMLP rows=1 tp=1', 'decode heddle tp=2'])
    for (const one of run.cases) one.results = one.results.filter(({ name }) => kept.has(name))
    const page = htmlReport(makeReport(run))
    expect(page.match(/<svg/g)).toHaveLength(5)
    expect(page).not.toMatch(/NaN|Infinity|undefined/)
  })

  test('from a file, as the command does it', () => {
    const [json, page, text] = ['in.json', 'out.html', 'out.md'].map((name) => path.join(folder, name)) as [string, string, string]
    writeRun(json, sampleRun())
    report([json, '--html', page, '--markdown', text])
    expect(readFileSync(page, 'utf8')).toBe(html())
    expect(report([json])).toBe(readFileSync(text, 'utf8'))
    expect(() => report([])).toThrow('report: expected one file, got 0')
  })
})
