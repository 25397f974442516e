// fetch as the hub is asked: with the token for the hub alone, an end to silence, and ranges that are honoured. Files come by plain HTTP from
// `resolve`, also those in the hub's Xet storage: it redirects to a bridge that serves ranges, so that one way resumes everything.
import { HeddleError } from '../errors'
import type { HubEnvironment } from './environment'

/** No byte for so long: the connection is given up, and tried again. */
export const idleMilliseconds = 30_000

export type Fetch = typeof fetch

/** The server sent something else than the part that was asked for. */
export class RangeIgnored extends Error {}

/** A status that is no success, what the hub says of it, and when to come back if it says that. */
export class HubAnswer extends Error {
  readonly statusCode: number
  readonly retryMilliseconds?: number

  constructor({ status, headers }: Response) {
    const said = headers.get('x-error-message')?.slice(0, 200)
    super(`the hub answers with status ${status}${said ? `: ${said}` : ''}`)
    this.statusCode = status
    this.retryMilliseconds = retryMilliseconds(headers)
  }
}

export function hubFetch({ endpoint, token }: HubEnvironment, signal: AbortSignal | undefined): Fetch {
  const { origin } = new URL(endpoint)
  return async (input, init = {}) => {
    const url = new URL(input instanceof Request ? input.url : input)
    const headers = new Headers(init.headers)
    if (token && url.origin === origin) headers.set('authorization', `Bearer ${token}`) // never to where a file is stored
    const idle = new IdleTimer()
    const signals = [idle.signal, ...(signal ? [signal] : [])]
    try {
      const response = await fetch(url, { ...init, headers, signal: AbortSignal.any(signals) })
      if (response.status === 429 || response.status === 503) {
        await response.body?.cancel()
        throw new HubAnswer(response)
      }
      if (response.ok && !startsAt(response, headers.get('range'))) {
        await response.body?.cancel()
        throw new RangeIgnored(`${url.origin} ignores ranges`)
      }
      return withIdleTimer(response, idle)
    } catch (error) {
      idle.stop()
      throw error
    }
  }
}

/** Whether it begins where it was asked to: the whole file, or another part of it, would else be taken for the rest. */
function startsAt({ status, headers }: Response, range: string | null): boolean {
  const start = /^bytes=([1-9]\d*)-/.exec(range ?? '')?.[1]
  if (start === undefined) return status !== 206
  const given = headers.get('content-range')
  return status === 206 && (given === null || given.startsWith(`bytes ${start}-`))
}

const longestWait = 60_000

/** `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), else the reset of the hub's `RateLimit`, such as `"api";r=0;t=55`. */
function retryMilliseconds(headers: Headers): number | undefined {
  const after = headers.get('retry-after')
  const reset = /;\s*t=(\d+)/.exec(headers.get('ratelimit') ?? '')?.[1]
  const wait = after === null ? Number(reset ?? NaN) * 1000 : /^\d+$/.test(after) ? Number(after) * 1000 : Date.parse(after) - Date.now()
  return Number.isNaN(wait) ? undefined : Math.min(Math.max(wait, 0), longestWait)
}

class IdleTimer {
  readonly #controller = new AbortController()
  #timer: NodeJS.Timeout | undefined
  constructor() {
    this.restart()
  }
  get signal(): AbortSignal {
    return this.#controller.signal
  }
  restart(): void {
    clearTimeout(this.#timer)
    const reason = new HeddleError('timeout', `hub: expected data within ${idleMilliseconds / 1000} s, got none`)
    this.#timer = setTimeout(() => this.#controller.abort(reason), idleMilliseconds)
    this.#timer.unref()
  }
  stop(): void {
    clearTimeout(this.#timer)
  }
}

function withIdleTimer(response: Response, idle: IdleTimer): Response {
  if (!response.body || response.bodyUsed) {
    idle.stop()
    return response
  }
  const watch = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      idle.restart()
      controller.enqueue(chunk)
    },
    flush: () => idle.stop()
  })
  const watched = new Response(response.body.pipeThrough(watch), response)
  Object.defineProperty(watched, 'url', { value: response.url }) // a constructed response has none, and the hub's library asks for it
  return watched
}
