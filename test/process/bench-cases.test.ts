// Cases that cost minutes at their real size, on a shape that costs nothing: what they report, not how fast.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import path from 'node:path'
import type { Facts, FactsOf } from '../../bench/support/facts'

const minutes = 60_000
const root = path.resolve(__dirname, '..', '..')
let folder: string

beforeAll(() => { folder = mkdtempSync(path.join(tmpdir(), 'heddle-bench-cases-')) })
afterAll(() => rmSync(folder, { recursive: true, force: true }))

interface Result { name: string; unit: string; median: number; samples: number[]; facts?: Facts }
interface CaseRecord { name: string; results: Result[]; tables: { rows: Record<string, number | string>[] }[]; error?: string }

function bench(name: string, ...args: string[]): CaseRecord {
  const json = path.join(folder, `${name}.json`)
  const run = spawnSync(process.execPath, ['scripts/bench.js', name, ...args, '--data', folder, '--json', json],
    { cwd: root, encoding: 'utf8', timeout: 14 * minutes })
  expect({ status: run.status, stderr: run.stderr }).toMatchObject({ status: 0 })
  const { cases } = JSON.parse(readFileSync(json, 'utf8')) as { cases: CaseRecord[] }
  expect(cases).toHaveLength(1)
  expect(cases[0]).not.toHaveProperty('error')
  return cases[0]!
}

function of<M extends Facts['metric']>(record: CaseRecord, metric: M): (Result & { facts: FactsOf<M> })[] {
  return record.results.filter((result): result is Result & { facts: FactsOf<M> } => result.facts?.metric === metric)
}

test('gemm measures the ceilings first, then every linear at every size and number of rows', () => {
  const record = bench('gemm', '--models', 'tiny', '--shards', '1,2,3', '--rows', '1,8', '--repeats', '2')
  expect(of(record, 'ceiling').map(({ facts }) => facts.of)).toEqual(['memory', 'arithmetic'])
  expect(record.results.findIndex(({ facts }) => facts?.metric === 'gemm')).toBeGreaterThan(1)
  const products = of(record, 'gemm').map(({ facts: { linear, tp, rows } }) => `${linear} ${tp} ${rows}`)
  const expected = [1, 8].flatMap((rows) => [1, 2].flatMap((tp) => ['qkv', 'o', 'gate_up', 'down', 'head'].map((linear) => `${linear} ${tp} ${rows}`)))
  expect(products.sort()).toEqual(expected.sort())    // 3 does not divide
  expect(record.tables[0]!.rows).toHaveLength(expected.length)
  for (const { name, median } of record.results) expect({ name, fine: median > 0 }).toEqual({ name, fine: true })
}, 15 * minutes)

test('layers measures groups that have a core for every rank, and calls the others modelled', () => {
  const record = bench('layers', '--models', 'tiny', '--shards', '1,2,8', '--repeats', '2')
  const totals = of(record, 'layer').filter(({ facts }) => facts.part === 'total')
  expect(totals.length).toBe(2 * 3 * 3)               // layers, steps, sizes
  for (const { facts, name } of totals) {
    expect({ name, modelled: facts.modelled }).toEqual({ name, modelled: facts.tp > availableParallelism() })
    expect(name.includes('modelled')).toBe(facts.modelled)
  }
  for (const { facts, samples } of of(record, 'efficiency')) if (facts.tp === 1) expect(samples).toEqual(samples.map(() => 100))
}, 15 * minutes)

test('generate tells the first token, the others, and the event loop for every number of answers', () => {
  const record = bench('generate', '--model-shape', 'tiny', '--tp', '2', '--batches', '1,3', '--context', '16', '--decode-tokens', '8', '--repeats', '2')
  expect(of(record, 'rate').map(({ facts }) => facts.batch)).toEqual([1, 3])
  const names = record.results.map(({ name }) => name)
  for (const what of ['time to first token', 'p50 of a token', 'p99 of a token', 'p99 of event-loop delay']) {
    expect(names).toContain(`generate tp=2, 3 at once, ${what}`)
  }
}, 15 * minutes)
