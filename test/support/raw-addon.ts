// The addon without lib/native.ts in between, for tests that pass it what TypeScript would never let through.
// Rule: every call ends as an outcome; one that neither throws nor completes fails the test by its timeout.
import path from 'node:path'

export type Raw = Record<string, (...args: unknown[]) => unknown> & { version: string }

export const addon = require('node-gyp-build')(path.resolve(__dirname, '..', '..')) as Raw

export interface Outcome {
  how: 'returned' | 'threw' | 'completed' | 'failed'
  code?: string
  message?: string
  rank?: number
  result?: unknown
}

const waiting = new Map<number, (outcome: Outcome) => void>()
let lastTicket = 0

export const mailbox = addon.initialize!((ticket: number, code?: string, message?: string, rank?: number, result?: unknown) => {
  waiting.get(ticket)?.(code === undefined ? { how: 'completed', result } : { how: 'failed', code, message: message!, rank: rank! })
  waiting.delete(ticket)
})

/** A call whose arguments may hold `ticket()` results: waits for the completion of `ticket` unless the call throws. */
export function attempt(ticket: number, call: () => unknown): Promise<Outcome> {
  return new Promise((resolve) => {
    waiting.set(ticket, resolve)
    try {
      call()
    } catch (thrown) {
      waiting.delete(ticket)
      resolve(threw(thrown))
    }
  })
}

/** A call without a ticket. */
export function attemptNow(call: () => unknown): Outcome {
  try {
    return { how: 'returned', result: call() }
  } catch (thrown) {
    return threw(thrown)
  }
}

export function ticket(): number {
  return ++lastTicket
}

export async function open(size: number, dtype = 'float32'): Promise<unknown> {
  const mine = ticket()
  let handle: unknown
  const outcome = await attempt(mine, () => {
    handle = addon.openGroup!(mailbox, mine, { size, device: 'cpu', dtype })
  })
  if (outcome.how !== 'completed') throw new Error(`openGroup: ${outcome.code} ${outcome.message}`)
  return handle
}

/** A call by name with a fresh ticket as the first argument. */
export function call(name: string, ...args: unknown[]): Promise<Outcome> {
  const mine = ticket()
  return attempt(mine, () => addon[name]!(mine, ...args))
}

function threw(thrown: unknown): Outcome {
  const { code, message } = (thrown ?? {}) as { code?: string; message?: string }
  return { how: 'threw', code: code!, message: message ?? String(thrown) }
}
