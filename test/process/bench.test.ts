// The bench runs as its users run it: on a tiny shape, one repeat, results as JSON. No figure is judged here.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'

const minutes = 60_000
const root = path.resolve(__dirname, '..', '..')
let folder: string

beforeAll(() => { folder = mkdtempSync(path.join(tmpdir(), 'heddle-bench-')) })
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const bench = (...args: string[]) => spawnSync(process.execPath, ['scripts/bench.js', ...args], { cwd: root, encoding: 'utf8', timeout: 14 * minutes })

test('decode, prefill, boundary and load run on a tiny model and write their samples', () => {
  const json = path.join(folder, 'out.json')
  const run = bench('decode', 'prefill', 'boundary', 'load', '--model-shape', 'tiny', '--repeats', '2', '--decode-tokens', '8',
    '--prefill-tokens', '32', '--context', '16', '--data', folder, '--json', json)
  expect({ status: run.status, stderr: run.stderr }).toMatchObject({ status: 0 })
  const { cases } = JSON.parse(readFileSync(json, 'utf8')) as { cases: { results: { name: string; median: number; samples: number[] }[] }[] }
  const results = cases.flatMap((one) => one.results)
  expect(results.map(({ name }) => name)).toEqual(expect.arrayContaining(
    ['decode tp=1', 'decode tp=2 / tp=1', 'prefill 32 tp=2', 'decode step, streamed tp=1', 'load tp=2 cached']))
  for (const { name, median, samples } of results) expect({ name, fine: median > 0 && samples.every((value) => value > 0) }).toEqual({ name, fine: true })
}, 15 * minutes)

test('a case that does not exist is an error that names those that do', () => {
  const run = bench('dekode')
  expect(run.status).not.toBe(0)
  expect(run.stderr).toContain('prefill')
})
