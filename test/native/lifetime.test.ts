// What is made and disposed, or lost, leaves nothing: memory, threads and handles return to where they were.
import { runMetered } from '../support/meters'

const mebibyte = 2 ** 20
const onLinux = process.platform === 'linux' ? test : test.skip

/** Of what the rounds made; a leak keeps all of it. */
const leakShare = 0.2

test('500 tensors of 4 MB made, read, disposed twice', async () => {
  const ended = await runMetered(`
    (async () => {
      const group = await openGroup({ size: 2 })
      const spec = { dtype: 'float32', shape: [1024, 1024], role: 'weight', pieces: [] }
      const growth = await growthPerQuarter(500, async () => {
        const tensor = group.createTensor([spec, spec])
        await tensor.read(1)
        tensor.dispose()
        tensor.dispose()
      })
      console.log(JSON.stringify({ growth, left: group.info().ranks.map((rank) => rank.weightBytes) }))
    })()`)
  expect(ended).toMatchObject({ code: 0, stderr: '' })
  const { growth, left } = JSON.parse(ended.stdout) as { growth: number; left: number[] }
  expect(left).toEqual([0, 0])
  expect(growth).toBeLessThan(leakShare * 125 * 4 * mebibyte)
})

test('500 evaluations leave no program, cache or workspace', async () => {
  const ended = await runMetered(`
    (async () => {
      const group = await openGroup({ size: 2 })
      const x = { data: new Float32Array(2 ** 18), shape: [256, 1024] }
      const growth = await growthPerQuarter(500, () => group.evaluate((g) => { const y = g.input(x); return y.add(y) }))
      const { ranks } = group.info()
      console.log(JSON.stringify({ growth, left: ranks.map((rank) => rank.weightBytes + rank.cacheBytes + rank.workspaceBytes) }))
    })()`)
  expect(ended).toMatchObject({ code: 0, stderr: '' })
  const { growth, left } = JSON.parse(ended.stdout) as { growth: number; left: number[] }
  expect(left).toEqual([0, 0])
  expect(growth).toBeLessThan(leakShare * 125 * mebibyte)
})

onLinux('100 groups that were lost without close end their threads', async () => {
  const ended = await runMetered(`
    (async () => {
      await (await openGroup({ size: 1 })).close()
      await settle()
      const before = threads()
      for (let i = 0; i < 100; i++) { await openGroup({ size: 4 }); if (i % 10 === 0) await settle() }
      await settleUntil(() => threads() <= before)
      console.log(Math.max(threads() - before, 0))
    })()`)
  expect(ended).toMatchObject({ code: 0, stderr: '', stdout: '0\n' })
})

test('a group stays as long as its work, although nobody holds it', async () => {
  const ended = await runMetered(`
    (async () => {
      async function read() {
        const group = await openGroup({ size: 2 })
        const spec = { dtype: 'float32', shape: [2048, 2048], role: 'weight', pieces: [] }
        return Array.from({ length: 20 }, () => { const tensor = group.createTensor([spec, spec]); return tensor.ready })
      }
      const work = await read()
      await settle()
      const outcomes = await Promise.allSettled(work)
      console.log(outcomes.map((outcome) => outcome.status).join())
    })()`)
  expect(ended).toMatchObject({ code: 0, stderr: '', stdout: `${Array(20).fill('fulfilled').join()}\n` })
})

onLinux('opening and closing 100 groups leaves no thread and none of what they held', async () => {
  const ended = await runMetered(`
    (async () => {
      const spec = { dtype: 'float32', shape: [512, 512], role: 'weight', pieces: [] }
      const once = async () => {
        const group = await openGroup({ size: 3 })
        await group.createTensor([spec, spec, spec]).ready
        await group.close()
      }
      await once()
      await settle()
      const before = threads()
      const growth = await growthPerQuarter(100, once)
      await settleUntil(() => threads() <= before)
      console.log(JSON.stringify({ growth, more: Math.max(threads() - before, 0) }))
    })()`)
  expect(ended).toMatchObject({ code: 0, stderr: '' })
  const { growth, more } = JSON.parse(ended.stdout) as { growth: number; more: number }
  expect(more).toBe(0)
  expect(growth).toBeLessThan(leakShare * 25 * 3 * mebibyte)
})
