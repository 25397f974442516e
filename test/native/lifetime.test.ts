// What is made and disposed, or lost, leaves nothing: memory, threads and handles return to where they were.
import { runScript } from '../support/child'

const gc = { nodeArgs: ['--expose-gc'], timeout: 110_000 }

/** In the child: resident megabytes after a collection, and the number of threads. */
const meters = `
  const { readdirSync } = require('node:fs')
  const turn = () => new Promise((resolve) => setTimeout(resolve, 10))
  async function settle() { for (let i = 0; i < 5; i++) { gc(); await turn() } }
  const resident = () => process.memoryUsage.rss() / 2 ** 20
  const threads = () => readdirSync('/proc/self/task').length
  function print(value) { console.log(JSON.stringify(value)) }
`
const onLinux = process.platform === 'linux' ? test : test.skip

test('500 tensors of 4 MB made, read, disposed twice', async () => {
  const ended = await runScript(`${meters}
    (async () => {
      const group = await openGroup({ size: 2 })
      const spec = { dtype: 'float32', shape: [1024, 1024], role: 'weight', pieces: [] }
      async function once() {
        const tensor = group.createTensor([spec, spec])
        await tensor.read(1)
        tensor.dispose()
        tensor.dispose()
      }
      for (let i = 0; i < 20; i++) await once()
      await settle()
      const before = resident()
      for (let i = 0; i < 500; i++) { await once(); if (i % 50 === 0) await settle() }
      await settle()
      print({ growth: resident() - before, left: group.info().ranks.map((rank) => rank.weightBytes) })
    })()`, gc)
  expect(ended).toMatchObject({ code: 0, stderr: '' })
  const { growth, left } = JSON.parse(ended.stdout) as { growth: number; left: number[] }
  expect(left).toEqual([0, 0])
  expect(growth).toBeLessThan(64) // 4 GB went through
}, 120_000)

test('500 evaluations leave no program, cache or workspace', async () => {
  const ended = await runScript(`${meters}
    (async () => {
      const group = await openGroup({ size: 2 })
      const x = { data: new Float32Array(65536), shape: [64, 1024] }
      const once = () => group.evaluate((g) => { const y = g.input(x); return y.add(y) })
      for (let i = 0; i < 50; i++) await once()
      await settle()
      const before = resident()
      for (let i = 0; i < 500; i++) { await once(); if (i % 50 === 0) await settle() }
      await settle()
      const { ranks } = group.info()
      print({ growth: resident() - before, left: ranks.map((rank) => rank.weightBytes + rank.cacheBytes + rank.workspaceBytes) })
    })()`, gc)
  expect(ended).toMatchObject({ code: 0, stderr: '' })
  const { growth, left } = JSON.parse(ended.stdout) as { growth: number; left: number[] }
  expect(left).toEqual([0, 0])
  expect(growth).toBeLessThan(32)
}, 120_000)

onLinux('100 groups that were lost without close end their threads', async () => {
  const ended = await runScript(`${meters}
    (async () => {
      await (await openGroup({ size: 1 })).close()
      const before = threads()
      for (let i = 0; i < 100; i++) { await openGroup({ size: 4 }); if (i % 10 === 0) await settle() }
      for (let i = 0; i < 100 && threads() > before; i++) await settle()
      print({ more: threads() - before })
    })()`, gc)
  expect(ended).toMatchObject({ code: 0, stderr: '' })
  expect(JSON.parse(ended.stdout)).toEqual({ more: 0 })
}, 120_000)

test('a group stays as long as its work, although nobody holds it', async () => {
  const ended = await runScript(`${meters}
    (async () => {
      async function read() {
        const group = await openGroup({ size: 2 })
        const spec = { dtype: 'float32', shape: [2048, 2048], role: 'weight', pieces: [] }
        return Array.from({ length: 20 }, () => { const tensor = group.createTensor([spec, spec]); return tensor.ready })
      }
      const work = await read()
      await settle()
      const outcomes = await Promise.allSettled(work)
      print(outcomes.map((outcome) => outcome.status).join())
    })()`, gc)
  expect(ended).toMatchObject({ code: 0, stderr: '' })
  expect(JSON.parse(ended.stdout)).toBe(Array(20).fill('fulfilled').join())
}, 120_000)

onLinux('opening and closing 100 groups leaves no thread and little memory', async () => {
  const ended = await runScript(`${meters}
    (async () => {
      const once = async () => { const group = await openGroup({ size: 3 }); await group.close() }
      for (let i = 0; i < 10; i++) await once()
      await settle()
      const before = { rss: resident(), threads: threads() }
      for (let i = 0; i < 100; i++) await once()
      await settle()
      print({ growth: resident() - before.rss, more: threads() - before.threads })
    })()`, gc)
  expect(ended).toMatchObject({ code: 0, stderr: '' })
  const { growth, more } = JSON.parse(ended.stdout) as { growth: number; more: number }
  expect(more).toBeLessThanOrEqual(0)
  expect(growth).toBeLessThan(16)
}, 120_000)
