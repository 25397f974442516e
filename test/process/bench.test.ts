// The bench runs as its users run it: on a tiny shape, one repeat, results as JSON. No figure is judged here.
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { readRun } from '../../bench/support/run-file'
import { markName, testWithMarks, untilNoneIs } from '../support/marked-processes'

const minutes = 60_000
const root = path.resolve(__dirname, '..', '..')
let folder: string

beforeAll(() => { folder = mkdtempSync(path.join(tmpdir(), 'heddle-bench-')) })
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const bench = (...args: string[]) => spawnSync(process.execPath, ['scripts/bench.js', ...args], { cwd: root, encoding: 'utf8', timeout: 14 * minutes })

/** The bench as the first test has compiled it. */
const compiled = (...args: string[]) => spawnSync(process.execPath, ['build/bench/run.js', ...args], { cwd: root, encoding: 'utf8' })

test('decode, prefill, boundary and load run on a tiny model and write their samples', () => {
  const [json, html, markdown] = ['out.json', 'out.html', 'out.md'].map((name) => path.join(folder, name)) as [string, string, string]
  const run = bench('decode', 'prefill', 'boundary', 'load', '--model-shape', 'tiny', '--repeats', '2', '--decode-tokens', '8',
    '--prefill-tokens', '32', '--context', '16', '--contexts', '16', '--batches', '1', '--data', folder, '--json', json, '--html', html, '--markdown', markdown)
  expect({ status: run.status, stderr: run.stderr }).toMatchObject({ status: 0 })
  const { cases } = readRun(json)
  const results = cases.flatMap((one) => one.results)
  expect(results.map(({ name }) => name)).toEqual(expect.arrayContaining(
    ['decode tp=1', 'decode tp=2 / tp=1', 'prefill 32 tp=2', 'decode step, streamed tp=1', 'load tp=2 cached']))
  const mayBeNone = /event-loop delay|attention of the step/    // a difference, and a delay that rounds to nothing
  for (const { name, median, samples } of results.filter((result) => !mayBeNone.test(result.name))) {
    expect({ name, fine: median > 0 && samples.every((value) => value > 0) }).toEqual({ name, fine: true })
  }
}, 15 * minutes)

test('the other cases that need no peer say what their results are about, and fail at nothing', () => {
  const json = path.join(folder, 'others.json')
  const names = ['generate', 'layers', 'allreduce', 'allgather', 'reducescatter', 'sendrecv', 'gemm']
  // a budget that trims all but the first unit of each
  const run = bench(...names, '--budget', '1', '--model-shape', 'tiny', '--models', 'tiny', '--shards', '1,2', '--rows', '1,4', '--repeats', '1',
    '--context', '16', '--batches', '1', '--decode-tokens', '4', '--prefill-tokens', '16', '--data', folder, '--json', json)
  expect({ status: run.status, stderr: run.stderr }).toMatchObject({ status: 0 })
  const metrics = readRun(json).cases.map(({ name, results }) => [name, new Set(results.map(({ facts }) => facts?.metric))] as const)
  const expected: Record<string, string[]> = { generate: ['rate'], layers: ['layer', 'efficiency'], gemm: ['ceiling', 'gemm'] }
  expect(metrics.map(([name]) => name).sort()).toEqual([...names].sort())
  for (const [name, found] of metrics) expect({ name, found: [...found] }).toEqual({ name, found: expect.arrayContaining(expected[name] ?? ['busbw']) })
}, 15 * minutes)

test('reproducible: what it times has the same bits at both sizes', () => {
  const json = path.join(folder, 'reproducible.json')
  const run = bench('reproducible', '--budget', '5', '--model-shape', 'tiny', '--repeats', '1', '--context', '16', '--decode-tokens', '4',
    '--prefill-tokens', '16', '--data', folder, '--json', json)
  expect({ status: run.status, stderr: run.stderr }).toMatchObject({ status: 0 })
  expect(run.stdout).toMatch(/decode: 1 rounds, the same bits at sizes 1, 2 with reproducible/)
  expect(readRun(json).cases[0]!.results.map(({ name }) => name)).toEqual(
    expect.arrayContaining(['decode tp=1 reproducible / not', 'decode tp=2 reproducible / not', 'prefill 16 tp=2 reproducible / not']))
}, 15 * minutes)

test('wrong usage is said with what would be right, and ends with 2', () => {
  const unknown = bench('dekode')
  expect(unknown).toMatchObject({ status: 2, stderr: expect.stringMatching(/expected cases among .*prefill.*got dekode[\s\S]*usage: npm run bench/) })
  for (const args of [['--repeats', '0'], ['--nonsense'], ['--json', path.join(folder, 'none', 'x.json')], ['--html', folder], ['compare', 'one.json'], ['report', path.join(folder, 'none.json')]]) {
    expect(compiled(...args)).toMatchObject({ status: 2, stderr: expect.stringContaining('usage: npm run bench') })
  }
})

test('help names every case and ends with 0', () => {
  expect(compiled('--help')).toMatchObject({ status: 0, stdout: expect.stringMatching(/usage[\s\S]*cases:[\s\S]*decode[\s\S]*gpu/) })
})

/** The bench under way: waits until its first case measures. */
async function startMeasuring(mark: string, json: string) {
  const args = ['build/bench/run.js', 'boundary', '--model-shape', 'tiny', '--repeats', '1000', '--data', folder, '--json', json]
  const child = spawn(process.execPath, args, { cwd: root, env: { ...process.env, [markName]: mark }, stdio: ['ignore', 'pipe', 'ignore'] })
  let output = ''
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve))
  const measuring = new Promise<void>((resolve) => child.stdout!.on('data', (text) => {
    output += text
    if (/^boundary: /m.test(output)) resolve()
  }))
  await Promise.race([measuring, ended])
  return { child, ended, output: () => output }
}

testWithMarks.each([['SIGTERM', 143], ['SIGINT', 130]] as const)('%s ends the bench with all it started, and the file says so', async (signal, status) => {
  const [mark, json] = [`${signal}-${process.pid}`, path.join(folder, `${signal}.json`)]
  const { child, ended, output } = await startMeasuring(mark, json)
  child.kill(signal)
  expect(await ended).toBe(status)
  await untilNoneIs(mark)
  expect(readRun(json)).toMatchObject({ interrupted: true, cases: [{ name: 'boundary', error: `interrupted by ${signal}` }] })
  expect(output()).toContain('failed: boundary')
})

testWithMarks('the processes of a case end when the bench is killed', async () => {
  const mark = `SIGKILL-${process.pid}`
  const { child, ended } = await startMeasuring(mark, path.join(folder, 'none.json'))
  child.kill('SIGKILL')
  await ended
  await untilNoneIs(mark)
})
