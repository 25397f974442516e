// The programs behind the collective cases, and the cases themselves on this CPU and on emulated GPUs. No figure is judged here.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { LineProcess } from '../../bench/support/line-process'
import { readLinks, slowestLinks } from '../../bench/support/link-rate'
import { buildNativeProgram } from '../../bench/support/native-programs'
import { emulatedLibraries, environmentOf } from '../support/emulated-cuda'

const minutes = 60_000
const root = path.resolve(__dirname, '..', '..')
const fakeNvml = path.join(path.dirname(emulatedLibraries.backend), 'libheddle_fake_nvml.so')

beforeAll(() => {
  const build = spawnSync('cmake', ['--build', 'build-cmake', '--target', 'heddle_fake_nvml'], { cwd: root, encoding: 'utf8' })
  if (build.status !== 0) throw new Error(build.stderr)
}, 5 * minutes)

interface Answer {
  bytes: number
  count: number
  microseconds: number
  wrong: number
}

async function answersOf(args: string[], questions: string[]): Promise<Answer[]> {
  const child = new LineProcess('collectives', buildNativeProgram('heddle_collective_bench'), args)
  try {
    const answers: Answer[] = []
    for (const question of questions) answers.push(await child.ask<Answer>(question))
    return answers
  } finally {
    await child.close()
  }
}

describe('the collective bench of local', () => {
  const questions = ['all_reduce 4096 float32 in eager', 'all_reduce 200000 bfloat16 in eager', 'all_gather 65536 float32 out eager',
    'all_gather 65536 bfloat16 in eager', 'reduce_scatter 65536 float32 out eager', 'reduce_scatter 1024 bfloat16 in eager',
    'send_recv 100000 float32 out eager']

  test.each([2, 3])('finds nothing wrong at size %i', async (ranks) => {
    for (const { wrong, microseconds } of await answersOf([String(ranks)], questions)) {
      expect(wrong).toBe(0)
      expect(microseconds).toBeGreaterThanOrEqual(0)
    }
  }, 5 * minutes)

  test('counts a result that was damaged on purpose', async () => {
    const wrong = (await answersOf(['3', '--corrupt'], questions)).map((answer) => answer.wrong)
    expect(wrong).toEqual(questions.map(() => 1))
  }, 5 * minutes)

  test('counts as nccl-tests do: the count of a part, the size of the whole', async () => {
    const [answer] = await answersOf(['3'], ['all_gather 1000 float32 out eager'])
    expect(answer).toMatchObject({ bytes: 960, count: 80 })
  })

  test.each([['all_reduce 4096 float32 out eager', /in place/], ['all_reduce 4096 float32 in graph', /graph/], ['sort 4096', /expected .<collective>/]])(
    'refuses %s', async (question, message) => {
      await expect(answersOf(['2'], [question])).rejects.toThrow(message)
    })
})

describe('the rate of the links', () => {
  const linesOf = (settings: Record<string, string> = {}) => readLinks({ HEDDLE_NVML_LIB: fakeNvml, ...settings })

  test.each([
    ['a Hopper system', {}, 450],
    ['links that are down', { HEDDLE_FAKE_NVML_DOWN: '2' }, 400],
    ['an older driver', { HEDDLE_FAKE_NVML_FIELDS: 'numbered', HEDDLE_FAKE_NVML_LINKS: '12', HEDDLE_FAKE_NVML_MBPS: '25000' }, 300],
    ['more links than numbered fields', { HEDDLE_FAKE_NVML_FIELDS: 'numbered', HEDDLE_FAKE_NVML_MBPS: '26562' }, 450],
    ['no NVLink', { HEDDLE_FAKE_NVML_LINKS: '0' }, 0],
    ['a driver that tells no rate', { HEDDLE_FAKE_NVML_FIELDS: 'none' }, 0],
    ['no GPU', { HEDDLE_FAKE_NVML_GPUS: '0' }, 0],
  ])('of %s', async (_, settings, gigabytesPerSecond) => {
    expect(slowestLinks(await linesOf(settings as Record<string, string>)).gigabytesPerSecond).toBeCloseTo(gigabytesPerSecond, 9)
  })

  test('says why there is none', async () => {
    await expect(linesOf({ HEDDLE_FAKE_NVML_FAIL: '9' })).rejects.toThrow(/NVML: starting: Driver Not Loaded/)
    await expect(linesOf({ HEDDLE_NVML_LIB: '/nowhere/libnvidia-ml.so' })).rejects.toThrow(/NVML: .*cannot open/)
  })
})

describe('the cases', () => {
  interface Record_ {
    error?: string
    skipped: { what: string; why: string }[]
    tables: { title: string; columns: { title: string }[]; rows: Record<string, unknown>[] }[]
  }
  let folder: string
  // compiled apart: other tests run the bench at the same time, and each compiles it
  const compiled = path.join(root, 'build', 'bench-collectives')
  beforeAll(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'heddle-collectives-'))
    const tsc = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc')
    const done = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.bench.json', '--outDir', compiled], { cwd: root, encoding: 'utf8' })
    if (done.status !== 0) throw new Error(done.stdout)
  }, 5 * minutes)
  afterAll(() => { for (const made of [folder, compiled]) rmSync(made, { recursive: true, force: true }) })

  // The smallest size alone: the time of all others is up by then.
  function run(name: string, env: Record<string, string>): Record_ {
    const json = path.join(folder, `${name}.json`)
    const args = [path.join(compiled, 'run.js'), name, '--tp', '2', '--repeats', '1', '--budget', '1', '--json', json]
    const done = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8', timeout: 14 * minutes, env: { ...process.env, ...env } })
    if (done.status !== 0) throw new Error(`status ${done.status}: ${done.stdout}${done.stderr}`)
    return (JSON.parse(readFileSync(json, 'utf8')) as { cases: Record_[] }).cases[0]
  }

  const columns = ['size', 'count', 'type', 'redop', 'time', 'algbw', 'busbw', '#wrong']

  test('sweep on the CPU, and say what is not here', () => {
    const { tables, skipped } = run('reducescatter', { HEDDLE_PEERS: folder, HEDDLE_CUDA_BACKEND: path.join(folder, 'none.so') })
    expect(tables.map(({ title }) => title)).toEqual(['reduce_scatter, local, 2 ranks on CPU, out of place, eager'])
    expect(tables[0].columns.map(({ title }) => title)).toEqual([...columns, 'memory bandwidth'])
    expect(tables[0].rows[0]).toMatchObject({ size: '1024', count: '128', type: 'float', redop: 'sum', wrong: '0' })
    expect(skipped.map(({ what }) => what)).toEqual(expect.arrayContaining(['gloo', 'local and nccl on GPUs, 2 ranks']))
  }, 15 * minutes)

  test('sweep on GPUs, eager and in graphs, beside the rate of the links', () => {
    const { tables } = run('allreduce', { ...environmentOf({ devices: 2 }), HEDDLE_NVML_LIB: fakeNvml, HEDDLE_PEERS: folder })
    const onGpus = ['local', 'nccl'].flatMap((communicator) =>
      ['eager', 'graph'].map((mode) => `all_reduce, ${communicator}, 2 ranks on GPUs, in place, ${mode}`))
    expect(tables.map(({ title }) => title)).toEqual(expect.arrayContaining(onGpus))
    expect(tables[0].columns.map(({ title }) => title)).toEqual([...columns, 'line rate', 'practical limit', 'NVLS limit'])
    for (const { rows } of tables) for (const row of rows) expect(row).toMatchObject({ wrong: '0' })
  }, 15 * minutes)
})
