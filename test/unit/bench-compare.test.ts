// What `bench compare` says of two runs.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { compare } from '../../bench/compare'
import { betterWhen, compareRuns } from '../../bench/support/comparison'
import { writeRun, type BenchRun } from '../../bench/support/run-file'
import { result, type Result } from '../../bench/support/statistics'
import { around, sampleRun } from '../support/bench-run'

let folder: string
beforeAll(() => { folder = mkdtempSync(path.join(tmpdir(), 'heddle-compare-')) })
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function runOf(...results: Result[]): BenchRun {
  const run = sampleRun()
  return { ...run, cases: [{ ...run.cases[0]!, name: 'decode', results }] }
}

test.each([
  ['tok/s', undefined, 'higher'], ['GB/s', undefined, 'higher'], ['FLOP/s', undefined, 'higher'], ['%', undefined, 'higher'],
  ['µs', undefined, 'lower'], ['ms', undefined, 'lower'], ['s', undefined, 'lower'], ['MB', undefined, 'lower'],
  ['x', undefined, 'higher'], ['x', { most: 1.2 }, 'lower'], ['µs', { least: 1 }, 'higher'],
])('unit %s with goal %j: %s is better', (unit, goal, expected) => {
  expect(betterWhen(result('r', unit, [1], goal))).toBe(expected)
})

test('what a result says itself comes first', () => {
  expect(betterWhen({ ...result('r', 'x', [1], { least: 1 }), better: 'lower' })).toBe('lower')
})

test('changes by direction, results of one run alone, and names that come twice', () => {
  const before = runOf(around('rate', 'tok/s', 20), around('time', 'µs', 20), around('same', 'x', 1), around('gone', 'x', 1), around('two', 'x', 1), around('two', 'x', 5))
  const after = runOf(around('rate', 'tok/s', 30), around('time', 'µs', 30), around('same', 'x', 1), around('new', 'x', 1), around('two', 'x', 1), around('two', 'x', 9))
  const { changes, onlyBefore, onlyAfter, differences } = compareRuns(before, after)
  expect(changes.map(({ name, verdict, ratio }) => [name, verdict, ratio])).toEqual([
    ['rate', 'better', 1.5], ['time', 'worse', 1.5], ['same', 'same', 1], ['two', 'same', 1], ['two', 'better', 9 / 5],
  ])
  expect(changes[0]!.p).toBeCloseTo(2 / 252, 12)
  expect(changes[0]!.interval).toEqual([expect.closeTo((30 * 0.97) / (20 * 1.04), 10), expect.closeTo((30 * 1.04) / (20 * 0.97), 10)])
  expect({ onlyBefore, onlyAfter, differences }).toEqual({ onlyBefore: ['decode: gone (x)'], onlyAfter: ['decode: new (x)'], differences: [] })
})

test('zeros and negative samples have no ratio and still a verdict', () => {
  const five = (value: number) => [1, 2, 3, 4, 5].map((step) => value + step / 100)
  const { changes } = compareRuns(
    runOf(result('wrong', '#wrong', [0, 0, 0, 0, 0]), result('difference', 'µs', five(-1)), result('still', 'µs', [0, 0, 0, 0, 0])),
    runOf(result('wrong', '#wrong', five(1)), result('difference', 'µs', five(-3)), result('still', 'µs', [0, 0, 0, 0, 0])),
  )
  expect(changes.map(({ verdict, ratio, interval }) => [verdict, ratio, interval])).toEqual([
    ['worse', undefined, undefined], ['better', undefined, undefined], ['same', undefined, undefined],
  ])
})

test('other machines, versions and options are said', () => {
  const other = sampleRun()
  other.machine = { ...other.machine, node: 'v22.0.0', date: '2027-01-01T00:00:00.000Z', loadAverage: 3 }
  other.options = { ...other.options, repeats: 9 }
  expect(compareRuns(sampleRun(), other).differences).toEqual(['node: "v20.20.2" → "v22.0.0"', 'option repeats: 5 → 9'])
})

test('the command prints what changed and writes it', () => {
  const [a, b, json] = ['a.json', 'b.json', 'out.json'].map((name) => path.join(folder, name)) as [string, string, string]
  writeRun(a, runOf(around('rate', 'FLOP/s', 2e11), around('same', 'x', 1), result('few', 'x', [1])))
  writeRun(b, runOf(around('rate', 'FLOP/s', 1e11), around('same', 'x', 1.001), result('few', 'x', [2])))
  const text = compare([a, b, '--json', json])
  expect(text).toMatch(/worse:\n +decode: rate +200 → 100 GFLOP\/s +0\.50x \[0\.47 – 0\.54\] +p = 0\.0079/)
  expect(text).toContain('1 worse, 0 better, 1 without change beyond noise, 1 with too few samples')
  expect(text).not.toContain('decode: same')
  expect(compare([a, b, '--all'])).toContain('decode: same')
  expect(compare([a, b, '--alpha', '0.005'])).toContain('0 worse, 0 better, 0 without change beyond noise, 3 with too few')
  expect(JSON.parse(readFileSync(json, 'utf8'))).toMatchObject({ files: [a, b], changes: [{ name: 'rate', verdict: 'worse' }, {}, {}] })
})

test('wrong usage is an error that says what was expected', () => {
  expect(() => compare(['a.json'])).toThrow('compare: expected two files, got 1')
  expect(() => compare(['a', 'b', '--alpha', '2'])).toThrow('--alpha: expected a number between 0 and 1, got 2')
  expect(() => compare([path.join(folder, 'none.json'), 'b'])).toThrow(/none\.json: expected the JSON of a bench run/)
})
