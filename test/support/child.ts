// Runs a script in a process of its own, for what cannot be seen from inside: how it ends and how long that takes.
// Rule: the script uses the compiled package (dist/), as a user's program does; `npm test` builds it first.
import { spawn } from 'node:child_process'
import path from 'node:path'

export const root = path.resolve(__dirname, '..', '..')

export interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
  /** milliseconds from the line "ready" on stdout to the end */
  afterReady: number
}

/** What scripts can use: `busy(size)` starts work of several seconds on a new group and prints "ready" once it runs. */
const prelude = `
  const root = ${JSON.stringify(root)}
  const { openGroup } = require(root + '/dist/group.js')
  const size = 1024
  async function start(rankCount, operations = 2000) {
    const group = await openGroup({ size: rankCount, device: 'cpu' })
    const spec = { dtype: 'float32', shape: [size, size], role: 'weight', pieces: [] }
    const weight = group.createTensor(Array.from({ length: rankCount }, () => spec))
    await weight.ready
    const x = { data: new Float32Array(256 * size).fill(1), shape: [256, size] }
    const work = group.evaluate((g) => {
      let y = g.input(x)
      for (let i = 0; i < operations; i++) y = y.linear(weight)
      return y
    })
    return { group, weight, work }
  }
  function running() {
    return new Promise((resolve) => setTimeout(resolve, 150))
  }
  async function busy(rankCount) {
    const started = await start(rankCount)
    await running()
    console.log('ready')
    return started
  }
`

export function runScript(
  script: string,
  { nodeArgs = [] as string[], env = {} as NodeJS.ProcessEnv, onReady = undefined as undefined | ((pid: number) => void), timeout = 60_000 } = {}
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...nodeArgs, '-e', prelude + script], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
      timeout,
      killSignal: 'SIGKILL'
    })
    let stdout = ''
    let stderr = ''
    let readyAt = NaN
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
      if (!Number.isNaN(readyAt) || !/^ready$/m.test(stdout)) return
      readyAt = performance.now()
      onReady?.(child.pid!)
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr, afterReady: performance.now() - readyAt }))
  })
}
