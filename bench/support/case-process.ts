// Runs one case in a fresh process and collects what it tells. Rule: whatever a case does, crash, hang or leave children behind, the
// bench goes on and nothing of the case stays.
import { fork, type ChildProcess } from 'node:child_process'
import { collect, type CaseEvent, type CaseRecord } from './case-record'

const graceMilliseconds = 3000

export class CaseProcess {
  private readonly child: ChildProcess
  private stopReason?: string
  private lastWords = ''

  /** Starts `script` with the arguments; `limitSeconds` is when it is ended, not when it should be done. */
  constructor(script: string, args: string[], private readonly limitSeconds: number) {
    this.child = fork(script, args, { detached: true, stdio: ['ignore', 'inherit', 'pipe', 'ipc'] })
    this.child.stderr!.on('data', (data) => {
      this.lastWords = (this.lastWords + data).slice(-2000)
      process.stderr.write(data)
    })
  }

  /** Fills the record until the process has ended; never rejects: what went wrong is the record's error. */
  async run(record: CaseRecord, onEvent: (event: CaseEvent) => void): Promise<void> {
    const start = performance.now()
    this.child.on('message', (event: CaseEvent) => {
      collect(record, event)
      onEvent(event)
    })
    const late = Number.isFinite(this.limitSeconds) &&
      setTimeout(() => this.stop(`ended after ${Math.round(this.limitSeconds)} s`), 1000 * this.limitSeconds)
    const ending = await this.ended()
    if (late) clearTimeout(late)
    record.seconds = (performance.now() - start) / 1000
    const crash = this.stopReason ?? (ending && [ending, ...this.cause()].join(' | '))
    if (crash && !record.error) record.error = crash
  }

  // The line that names an error, else the last ones that say anything.
  private cause(): string[] {
    const lines = this.lastWords.split('\n').map((line) => line.trim()).filter(Boolean)
    const named = lines.find((line) => /^[\w.]*(Error|Exception)\b.*:/.test(line))
    return named ? [named] : lines.slice(-3)
  }

  /** Ends the process and its children, politely first. */
  stop(reason: string): void {
    this.stopReason ??= reason
    this.signalGroup('SIGTERM')
    setTimeout(() => this.signalGroup('SIGKILL'), graceMilliseconds).unref()
  }

  /** How it ended, where that was not well. By then all of its messages have come, and what it left behind is gone. */
  private async ended(): Promise<string | undefined> {
    const heard = new Promise<void>((resolve) => this.child.once('disconnect', () => resolve()))
    const closed = new Promise<void>((resolve) => this.child.once('close', () => resolve()))
    const ending = await new Promise<string | undefined>((resolve) => {
      this.child.once('error', (error) => resolve(error.message))
      this.child.once('exit', (code, signal) => resolve(signal ? `ended with ${signal}` : code ? `ended with code ${code}` : undefined))
    })
    if (this.child.pid === undefined) return ending
    this.signalGroup('SIGKILL')
    // a daemon that left the group may hold the pipe of stderr open for ever
    await Promise.all([heard, Promise.race([closed, new Promise((resolve) => setTimeout(resolve, 1000))])])
    return ending
  }

  private signalGroup(signal: NodeJS.Signals): void {
    try {
      process.kill(-this.child.pid!, signal)
    } catch {
      // none of them is left
    }
  }
}
