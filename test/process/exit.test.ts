// A process ends when and how its author meant it, whatever the ranks are doing.
import { promptly, runScript } from '../support/child'

const sizes = [1, 2, 4]

test.each(sizes)('an open, idle group of %i ranks does not keep the process', async (size) => {
  const ended = await runScript(`openGroup({ size: ${size} }).then(() => console.log('ready'))`)
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '' })
  expect(ended.afterReady).toBeLessThan(promptly)
})

test('pending work keeps the process until it is done, although nobody holds its group', async () => {
  const ended = await runScript(`
    start(2, 40).then(({ work }) => { work.then((y) => console.log('done', y.shape.join())); console.log('ready') })`)
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '', stdout: 'ready\ndone 256,1024\n' })
})

test('a group that is used and closed leaves nothing behind', async () => {
  const ended = await runScript(`
    start(2, 4).then(async ({ group, work }) => { await work; await group.close(); await group.close(); console.log('ready') })`)
  expect(ended).toMatchObject({ code: 0, stderr: '' })
  expect(ended.afterReady).toBeLessThan(promptly)
})

test.each(sizes)('process.exit with work in flight on %i ranks', async (size) => {
  const ended = await runScript(`busy(${size}).then(() => process.exit(7))`)
  expect(ended).toMatchObject({ code: 7, signal: null, stderr: '' })
  expect(ended.afterReady).toBeLessThan(promptly)
})

test('process.exit while groups open and tensors are made', async () => {
  const ended = await runScript(`
    for (let i = 0; i < 4; i++) openGroup({ size: 4 }).then((group) => {
      const spec = { dtype: 'float32', shape: [4096, 4096], role: 'cache', pieces: [] }
      group.createTensor([spec, spec, spec, spec])
    })
    setTimeout(() => { console.log('ready'); process.exit(0) }, 20)`)
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '' })
  expect(ended.afterReady).toBeLessThan(promptly)
})

test('an uncaught error with work in flight', async () => {
  const ended = await runScript(`busy(2).then(() => setImmediate(() => { throw new Error('on purpose') }))`)
  expect(ended).toMatchObject({ code: 1, signal: null })
  expect(ended.stderr).toContain('Error: on purpose')
  expect(ended.afterReady).toBeLessThan(promptly)
})

// A thread that spins is always running or ready to; one that polls is scheduled again and again. Neither looks alike twice.
const onLinux = process.platform === 'linux' ? test : test.skip

onLinux('ranks without work sleep, also where there are more of them than cores', async () => {
  const ended = await runScript(`
    const { readdirSync, readFileSync } = require('node:fs')
    const status = (task) => { try { return readFileSync('/proc/self/task/' + task + '/status', 'utf8') } catch { return '' } }
    const ranks = () => readdirSync('/proc/self/task').map(status).filter((text) => /^Name:\\s*heddle-rank/.test(text))
      .map((text) => text.match(/^(Name|State|voluntary_ctxt_switches|nonvoluntary_ctxt_switches):.*$/gm).join())
    start(8, 4).then(async ({ group, work }) => {
      await work
      let asleep = false
      for (const end = performance.now() + ${promptly}; !asleep && performance.now() < end;) {
        const before = ranks()
        await pause(500)
        asleep = ranks().join(';') === before.join(';') && before.every((text) => /State:\\s*S/.test(text))
      }
      console.log(ranks().length, asleep ? 'asleep' : ranks().join(';'))
      await group.close()
    })`)
  expect(ended).toMatchObject({ code: 0, stderr: '', stdout: '8 asleep\n' })
})

test.each(['SIGINT', 'SIGTERM', 'SIGKILL'] as const)('%s with work in flight', async (signal) => {
  const ended = await runScript('busy(2)', { onReady: (pid) => process.kill(pid, signal) })
  expect(ended).toMatchObject({ code: null, signal })
  expect(ended.afterReady).toBeLessThan(promptly)
})

test('work that is closed away rejects with closed, and an unhandled one ends the process with a text that names the caller', async () => {
  const ended = await runScript(`
    busy(2).then(async ({ group, work }) => { const closing = group.close(); await work.catch((error) => console.log(error.name, error.code)); await closing })`)
  expect(ended).toMatchObject({ code: 0, stderr: '', stdout: 'ready\nHeddleError closed\n' })
  expect(ended.afterReady).toBeLessThan(promptly)

  const unhandled = await runScript(
    'async function reader() { const { weight } = await start(1, 1); weight.dispose(); await weight.read(0) }; reader()'
  )
  expect(unhandled).toMatchObject({ code: 1, signal: null })
  expect(unhandled.stderr).toMatch(/HeddleError: .*disposed[^]*at reader/)
})

test('the event loop runs on while ranks work', async () => {
  const ended = await runScript(`
    busy(1).then(async ({ work }) => {
      let done = false
      work.finally(() => { done = true })
      for (let turns = 0; turns < 20; turns++) await pause(5)
      console.log(done ? 'blocked' : 'free')
      process.exit()
    })`)
  expect(ended).toMatchObject({ code: 0, stderr: '', stdout: 'ready\nfree\n' })
})
