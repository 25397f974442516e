// A child process that answers one line of JSON to each line it is asked. Whatever is timed runs in such a process, never in the bench's
// own; it stays between questions, so that contenders can alternate.
import { spawn, type ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'

export interface LineProcessOptions {
  env?: Record<string, string>
  timeoutSeconds?: number
}

interface Waiter {
  resolve(line: string): void
  reject(error: Error): void
}

export class LineProcess {
  private readonly child: ChildProcess
  private waiter?: Waiter
  private ended?: Error
  private errorText = ''
  private readonly timeoutSeconds: number

  constructor(readonly name: string, command: string, args: string[], options: LineProcessOptions = {}) {
    this.timeoutSeconds = options.timeoutSeconds ?? 600
    this.child = spawn(command, args, { env: { ...process.env, ...options.env }, stdio: ['pipe', 'pipe', 'pipe'] })
    this.child.stdin!.on('error', () => {}) // the exit below says it better than EPIPE
    this.child.stderr!.on('data', (data) => { this.errorText = (this.errorText + data).slice(-2000) })
    this.child.on('error', (error) => this.end(error.message))
    this.child.on('close', (code, signal) => this.end(`ended with ${signal ?? `code ${code}`}`))
    createInterface({ input: this.child.stdout! }).on('line', (line) => this.settle((waiter) => waiter.resolve(line)))
  }

  // One question at a time. An answer that carries `error` rejects.
  async ask<Answer>(question: string | object): Promise<Answer> {
    if (this.waiter) throw new Error(`${this.name}: asked while a question is open`)
    if (this.ended) throw this.ended
    const text = typeof question === 'string' ? question : JSON.stringify(question)
    const line = await this.answerTo(text)
    const answer = JSON.parse(line) as Answer & { error?: string }
    if (answer.error !== undefined) throw new Error(`${this.name}: ${answer.error}`)
    return answer
  }

  async close(): Promise<void> {
    if (this.ended) return
    const closed = new Promise<void>((resolve) => this.child.once('close', () => resolve()))
    this.child.stdin!.end()
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 10_000)
    await closed
    clearTimeout(timer)
  }

  private answerTo(text: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.child.kill('SIGKILL'), this.timeoutSeconds * 1000)
      const settled = (act: () => void) => { clearTimeout(timer); act() }
      this.waiter = { resolve: (line) => settled(() => resolve(line)), reject: (error) => settled(() => reject(error)) }
      this.child.stdin!.write(`${text}\n`)
    })
  }

  private settle(act: (waiter: Waiter) => void): void {
    const waiter = this.waiter
    this.waiter = undefined
    if (waiter) act(waiter)
  }

  private end(reason: string): void {
    if (this.ended) return
    const lastWords = this.errorText.trim().split('\n').slice(-3).join(' | ')
    this.ended = new Error(`${this.name}: ${reason}${lastWords ? `: ${lastWords}` : ''}`)
    this.settle((waiter) => waiter.reject(this.ended!))
  }
}
