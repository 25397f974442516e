// worker_threads: each loads the addon for itself and may be ended at any moment. The scripts run in a process of their own, so that a
// crash is a failed test and not the end of jest.
import { prelude, promptly, runScript } from '../support/child'

/**
 * In the child: `worker(script)` starts a thread with the same helpers; `until(worker, text)` waits for a message; `terminate(worker)` gives
 * an end that was late away on stdout.
 */
const workers = `
  const { Worker } = require('node:worker_threads')
  const helpers = 'const { parentPort } = require("node:worker_threads");' + ${JSON.stringify(prelude)}
  const worker = (script) => new Worker(helpers + script, { eval: true, stdout: true })
  const until = (thread, text) => new Promise((resolve, reject) => {
    thread.on('message', (message) => { if (message === text) resolve() })
    thread.on('error', reject)
  })
  async function terminate(thread) {
    const begun = performance.now()
    await thread.terminate()
    if (performance.now() - begun > ${promptly}) console.log('late')
  }
`

test('a worker opens a group, runs, closes and ends by itself', async () => {
  const ended = await runScript(`${workers}
    const thread = worker('start(2, 4).then(async ({ group, work }) => { const y = await work; await group.close(); parentPort.postMessage(y.shape.join()) })')
    thread.on('message', (message) => console.log(message))
    thread.on('exit', (code) => console.log('exit', code))`)
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '', stdout: '256,1024\nexit 0\n' })
})

test('20 workers terminated one after the other with work in flight; the main thread, which loads the addon later, goes on', async () => {
  const ended = await runScript(`${workers}
    (async () => {
      for (let i = 0; i < 20; i++) {
        const thread = worker('busy(' + (1 + i % 3) + ').then(() => parentPort.postMessage("running"))')
        await until(thread, 'running')
        await terminate(thread)
      }
      const { group, work } = await start(2, 4)
      const { shape } = await work
      await group.close()
      console.log(shape.join())
    })()`)
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '', stdout: '256,1024\n' })
})

test('workers terminated while they call into the addon as fast as they can', async () => {
  const script = `
    (async () => {
      const spec = { dtype: 'float32', shape: [64, 64], role: 'weight', pieces: [
        { source: { data: new Float32Array(4096) }, dtype: 'float32', offset: 0, rows: 64, rowElements: 64, rowStride: 256, targetOffset: 0, targetStride: 64 }] }
      const group = await openGroup({ size: 2 })
      parentPort.postMessage('running')
      for (;;) {
        const tensors = Array.from({ length: 50 }, () => group.createTensor([spec, spec]))
        await Promise.all(tensors.map((tensor) => tensor.read(0)))
        for (const tensor of tensors) tensor.dispose()
      }
    })()`
  const ended = await runScript(`${workers}
    (async () => {
      for (let i = 0; i < 20; i++) {
        const thread = worker(${JSON.stringify(script)})
        await until(thread, 'running')
        await pause(5 * i)
        await terminate(thread)
      }
      console.log('survived')
    })()`)
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '', stdout: 'survived\n' })
})

test('4 workers at once, each with two groups', async () => {
  const script = `
    (async () => {
      const pair = await Promise.all([start(2, 3), start(1, 3)])
      const [a, b] = await Promise.all(pair.map(({ work }) => work))
      await Promise.all(pair.map(({ group }) => group.close()))
      parentPort.postMessage([a.shape, b.shape].join())
    })()`
  const ended = await runScript(`${workers}
    const threads = [1, 2, 3, 4].map(() => worker(${JSON.stringify(script)}))
    for (const thread of threads) thread.on('message', (message) => console.log(message))`)
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '', stdout: '256,1024,256,1024\n'.repeat(4) })
})

test('process.exit inside a worker and in the main thread with work in flight in both', async () => {
  const ended = await runScript(`${workers}
    (async () => {
      const thread = worker('busy(2).then(() => parentPort.postMessage("running"))')
      await until(thread, 'running')
      const leaving = worker('busy(1).then(() => process.exit(3))')
      await new Promise((resolve) => leaving.on('exit', (code) => { console.log('worker', code); resolve() }))
      await busy(2)
      process.exit(5)
    })()`)
  expect(ended).toMatchObject({ code: 5, signal: null, stderr: '', stdout: 'worker 3\nready\n' })
  expect(ended.afterReady).toBeLessThan(promptly)
})
