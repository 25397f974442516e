// Processes and workers that end with a model open: in the middle of a generation or at rest, with the process that renders chat templates
// beside them. Rule: whatever ended, none of the processes that it started is left running.
import { readFileSync } from 'node:fs'
import { promptly, root, runScript } from '../support/child'

/** For scripts and for the workers in them. `answering` gives a model that is in the middle of an answer. */
const helpers = `
  const { AutoModelForCausalLM } = require(${JSON.stringify(`${root}/dist/index.js`)})
  const question = [{ role: 'user', content: 'What is 387 + 456?' }]
  const open = () => AutoModelForCausalLM.fromPretrained(${JSON.stringify(`${root}/models/heddle-tiny`)}, { tpSize: 2 })
  async function answering() {
    const model = await open()
    await model.generate(question) // from here on the template process rests beside us
    const pieces = model.stream(question, { ignoreEos: true })
    await pieces.next()
    return model
  }
  const fs = require('node:fs')
  // Threads and processes may end between two looks.
  const read = (file) => { try { return fs.readFileSync(file, 'utf8') } catch { return '' } }
  const children = () => fs.readdirSync('/proc/self/task')
    .flatMap((task) => read('/proc/self/task/' + task + '/children').split(' ')).filter((id) => id !== '')
  // One that a terminated worker started has ended, but Node collects it only at the end of the process: a zombie (Z).
  const isLiving = (stat) => stat !== '' && !stat.includes(') Z ')
  const living = () => children().filter((id) => isLiving(read('/proc/' + id + '/stat')))
`

/** Whether a process is still there; one that ended and was not collected by anyone (a zombie, Z) is not. */
function isRunning(pid: string): boolean {
  try {
    return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ')
  } catch {
    return false
  }
}

async function expectGone(pids: string[]): Promise<void> {
  const until = performance.now() + promptly
  while (pids.some(isRunning) && performance.now() < until) await new Promise((resolve) => setTimeout(resolve, 20))
  expect(pids.filter(isRunning)).toEqual([])
}

test('process.exit in the middle of an answer', async () => {
  const ended = await runScript(`${helpers} answering().then(() => { console.log('ready'); process.exit(7) })`)
  expect(ended).toMatchObject({ code: 7, signal: null, stderr: '' })
  expect(ended.afterReady).toBeLessThan(promptly)
})

test('the end of a script that leaves its model open', async () => {
  const ended = await runScript(`${helpers} open().then(async (model) => {
    console.log((await model.generate(question)).text)
    globalThis.kept = model
    console.log('ready')
  })`)
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '', stdout: '387 + 456 = 843\nready\n' })
  expect(ended.afterReady).toBeLessThan(promptly)
})

const onLinux = process.platform === 'linux' ? test : test.skip

onLinux('SIGKILL in the middle of an answer leaves no process behind', async () => {
  const ended = await runScript(`${helpers} answering().then(() => { console.log(living().join(' ')); console.log('ready') })`, {
    onReady: (pid) => process.kill(pid, 'SIGKILL')
  })
  const pids = ended.stdout.split('\n')[0]!.split(' ')
  expect(pids.every((pid) => Number(pid) > 1)).toBe(true) // there was one
  expect(ended).toMatchObject({ signal: 'SIGKILL' })
  await expectGone(pids)
})

onLinux('workers that are terminated in the middle of an answer: the process goes on, and a model of its own answers', async () => {
  const script = `${helpers} answering().then(() => require('node:worker_threads').parentPort.postMessage('answering'))`
  const ended = await runScript(`${helpers}
    const { Worker } = require('node:worker_threads')
    ;(async () => {
      for (let i = 0; i < 5; i++) {
        const thread = new Worker(${JSON.stringify(script)}, { eval: true })
        await new Promise((resolve, reject) => thread.on('message', resolve).on('error', reject))
        const begun = performance.now()
        await thread.terminate()
        if (performance.now() - begun > ${promptly}) console.log('late')
      }
      const until = performance.now() + ${promptly}
      while (living().length > 0 && performance.now() < until) await pause(20)
      console.log('left: [' + living().join(' ') + ']')
      const model = await open()
      console.log((await model.generate(question)).text)
      await model.close()
      console.log('ready')
    })()`)
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '', stdout: 'left: []\n387 + 456 = 843\nready\n' })
  expect(ended.afterReady).toBeLessThan(promptly)
})
