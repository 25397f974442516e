// Runs a script in a process of its own, for what cannot be seen from inside: how it ends, what it leaves, what it holds.
// Rule: the script uses the compiled package (dist/), as a user's program does; `npm test` builds it first.
import { spawn } from 'node:child_process'
import path from 'node:path'

export const root = path.resolve(__dirname, '..', '..')

/**
 * Milliseconds that an end may take on a machine however slow. What should not be waited for takes much longer, whatever the machine:
 * the work of `busy` a few minutes, a resting template process a minute.
 */
export const promptly = 30_000

export interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
  /** milliseconds from the line "ready" on stdout to the end */
  afterReady: number
}

/** What scripts can use, and the workers in them: `busy(size)` starts minutes of work on a new group and prints "ready" once it runs. */
export const prelude = `
  const root = ${JSON.stringify(root)}
  const { openGroup } = require(root + '/dist/group.js')
  const size = 1024
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
  async function start(rankCount, operations = 2000, repeats = 1) {
    const group = await openGroup({ size: rankCount, device: 'cpu' })
    const spec = { dtype: 'float32', shape: [size, size], role: 'weight', pieces: [] }
    const weight = group.createTensor(Array.from({ length: rankCount }, () => spec))
    await weight.ready
    const x = { data: new Float32Array(256 * size).fill(1), shape: [256, size] }
    const evaluate = () => group.evaluate((g) => {
      let y = g.input(x)
      for (let i = 0; i < operations; i++) y = y.linear(weight)
      return y
    })
    const work = Promise.all(Array.from({ length: repeats }, evaluate)).then((results) => results[0])
    return { group, weight, work }
  }
  /** Until the ranks hold their first program, which they run next. */
  async function running(group) {
    do await pause(100)
    while (!group.info().ranks.every((rank) => rank.workspaceBytes > 0))
  }
  async function busy(rankCount) {
    const started = await start(rankCount, 2000, 12)
    await running(started.group)
    console.log('ready')
    return started
  }
`

interface Options {
  nodeArgs?: string[]
  env?: NodeJS.ProcessEnv
  onReady?: (pid: number) => void
  /** milliseconds until the script is killed: less than a test has */
  timeout?: number
}

export function runScript(script: string, { nodeArgs = [], env = {}, onReady, timeout = 240_000 }: Options = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...nodeArgs, '-e', prelude + script], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
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
