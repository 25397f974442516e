// Renders chat templates in a child process. Rule: a template comes from a model folder and is untrusted, and its renderer is synchronous
// and has no limit of its own, so it runs where it can be stopped. A worker thread is not enough: one that runs out of memory inside a
// string operation ends the whole process, not just the thread.
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { HeddleError, invalidArgument, messageOf } from '../errors'

export interface TemplateLimits {
  /** Computing time of one rendering. */
  timeMs: number
  memoryMb: number
  outputCharacters: number
}

interface Request {
  source: string
  variables: Record<string, unknown>
}

type Answer = { text: string } | { error: string } | { ready: true }

const defaultLimits: TemplateLimits = { timeMs: 250, memoryMb: 64, outputCharacters: 2 ** 24 }
const waitLimitMs = 10_000 // for a child that gets no computing time, and for its start
const idleMs = 60_000

// Plain JavaScript in a string: the same text runs from dist and from the TypeScript sources, and a bundler cannot lose the file.
// Without a parent the channel closes, nothing is left to wait for, and the child ends.
const childSource = `
const [jinjaPath, outputCharacters] = process.argv.slice(1)
const { Template } = require(jinjaPath)
let last = {}
process.on('message', ({ source, variables }) => {
  try {
    if (last.source !== source) last = { source, template: new Template(source) }
    const text = last.template.render(variables)
    if (text.length > Number(outputCharacters)) throw new Error('the text is longer than ' + outputCharacters + ' characters')
    process.send({ text })
  } catch (error) {
    process.send({ error: String((error && error.message) || error).slice(0, 1000) })
  }
})
process.send({ ready: true })
`

export class TemplateProcess {
  private readonly limits: TemplateLimits
  private child?: ChildProcess
  private idleTimer?: NodeJS.Timeout
  private last: Promise<unknown> = Promise.resolve()

  constructor(limits: Partial<TemplateLimits> = {}) {
    this.limits = { ...defaultLimits, ...limits }
  }

  /** One rendering at a time, in the order of the calls. The child starts with the first one and stays for the next. */
  render(source: string, variables: Record<string, unknown>): Promise<string> {
    const result = this.last.then(() => this.renderNow({ source, variables }))
    this.last = result.catch(() => undefined)
    return result
  }

  /** Ends the child; a later rendering starts a new one. */
  stop(): void {
    clearTimeout(this.idleTimer)
    this.child?.kill('SIGKILL')
    this.child = undefined
  }

  private async renderNow(request: Request): Promise<string> {
    clearTimeout(this.idleTimer)
    try {
      this.child ??= await this.start()
      keepsProcessAlive(this.child, true)
      return textOf(await this.exchange(this.child, this.limits.timeMs, request))
    } catch (error) {
      // After an error of the template the child is as good as new; after a limit it is busy or gone.
      if (!(error instanceof HeddleError) || error.code !== 'invalid_argument') this.stop()
      throw error
    } finally {
      this.restUntilNeeded()
    }
  }

  private async start(): Promise<ChildProcess> {
    const { memoryMb, outputCharacters } = this.limits
    const options = [`--max-old-space-size=${memoryMb}`, '-e', childSource, require.resolve('@huggingface/jinja'), String(outputCharacters)]
    const child = spawn(process.execPath, options, {
      env: { ...process.env, NODE_OPTIONS: '', ELECTRON_RUN_AS_NODE: '1' },
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      windowsHide: true
    })
    child.on('error', () => undefined) // without any listener a failed start would be an uncaught exception
    try {
      await this.exchange(child, waitLimitMs)
    } catch (error) {
      child.kill('SIGKILL')
      throw error
    }
    // A child that somebody else ends while it rests is replaced by the next rendering.
    child.once('exit', () => {
      if (this.child === child) this.child = undefined
    })
    return child
  }

  // Idle, the child must not keep this process alive; long idle, it goes.
  private restUntilNeeded(): void {
    if (!this.child) return
    keepsProcessAlive(this.child, false)
    this.idleTimer = setTimeout(() => this.stop(), idleMs).unref()
  }

  /** Sends the request, if any, and waits for one answer or for the end of the child or of its time. */
  private exchange(child: ChildProcess, timeMs: number, request?: Request): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const clock = computingClock(child, timeMs)
      const settle = (finish: () => void) => {
        clearTimeout(timer)
        child.off('message', onMessage).off('error', onError).off('exit', onExit)
        finish()
      }
      const fail = (error: HeddleError) => settle(() => reject(error))
      const onMessage = (answer: unknown) => settle(() => resolve(answer as Answer))
      const onError = (cause: Error) => fail(new HeddleError('unavailable', `chat template: ${cause.message}`, { cause }))
      const onExit = (code: number | null, signal: string | null) => fail(endOfChild(code, signal, this.limits))
      const onTime = () => {
        if (clock.isOver()) fail(new HeddleError('timeout', `chat template: expected a result within ${timeMs} ms, got none`))
        else timer = setTimeout(onTime, timeMs / 10)
      }
      let timer = setTimeout(onTime, timeMs)
      child.on('message', onMessage).on('error', onError).on('exit', onExit)
      if (request) sendOr(child, request, fail)
    })
  }
}

function keepsProcessAlive(child: ChildProcess, keep: boolean): void {
  if (keep) {
    child.ref()
    child.channel?.ref()
  } else {
    child.unref()
    child.channel?.unref()
  }
}

function sendOr(child: ChildProcess, request: Request, fail: (error: HeddleError) => void): void {
  try {
    child.send(request, (cause) => cause && fail(new HeddleError('unavailable', `chat template: ${cause.message}`, { cause })))
  } catch (cause) {
    fail(invalidArgument('chat template', `messages and variables that are plain data (${messageOf(cause)})`, 'other values', { cause }))
  }
}

// The child may wait for a core on a busy machine, or its answer for this thread. So what counts is the computing time of the child where
// the system tells it (Linux), and elsewhere a second look.
function computingClock(child: ChildProcess, timeMs: number): { isOver(): boolean } {
  const startedAt = performance.now()
  const computedAtStart = computedMs(child)
  let looks = 0
  return {
    isOver() {
      looks++
      if (performance.now() - startedAt >= waitLimitMs) return looks > 1
      const computed = computedMs(child)
      if (computed === undefined || computedAtStart === undefined) return looks > 1
      return computed - computedAtStart >= timeMs
    }
  }
}

/** User and system time of a process so far, on Linux. */
function computedMs(child: ChildProcess): number | undefined {
  try {
    const stat = readFileSync(`/proc/${child.pid}/stat`, 'latin1')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) * 10 // in ticks of 1/100 s
  } catch {
    return undefined
  }
}

function textOf(answer: Answer): string {
  if ('text' in answer) return answer.text
  throw new HeddleError('invalid_argument', `chat template: ${'error' in answer ? answer.error : 'no text came'}`)
}

// V8 aborts when the memory limit is reached.
function endOfChild(code: number | null, signal: string | null, { memoryMb }: TemplateLimits): HeddleError {
  if (signal === 'SIGABRT' || code === 134) {
    return new HeddleError('out_of_memory', `chat template: expected to render within ${memoryMb} MB of memory, needed more`)
  }
  return new HeddleError('unavailable', `chat template: the process that renders it ended with ${signal ?? `exit code ${code}`}`)
}
