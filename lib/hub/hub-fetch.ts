// fetch as the hub is asked: with the token for the hub alone, an end to silence, and ranges that are honoured.
import { HeddleError } from '../errors'
import type { HubEnvironment } from './environment'

/** No byte for so long: the connection is given up, and tried again. */
export const idleMilliseconds = 30_000

export type Fetch = typeof fetch

/** The server sent the whole file where a part was asked for. */
export class RangeIgnored extends Error {}

/** A status that is no success, and when to come back if the hub says. */
export class HubAnswer extends Error {
  constructor(
    readonly statusCode: number,
    readonly retryMilliseconds?: number
  ) {
    super(`the hub answers with status ${statusCode}`)
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
        throw new HubAnswer(response.status, retryMilliseconds(response))
      }
      if (response.status === 200 && isLaterRange(headers.get('range'))) {
        await response.body?.cancel()
        throw new RangeIgnored(`${url.origin} ignores ranges`)
      }
      if (headers.get('range') === 'bytes=0-0') await dropBody(response) // a question about the file; only the headers are read
      return withIdleTimer(response, idle)
    } catch (error) {
      idle.stop()
      throw error
    }
  }
}

/** A range that does not begin the file: the whole file in its place would be taken for the rest of it. */
const isLaterRange = (range: string | null): boolean => /^bytes=[1-9]/.test(range ?? '')

/** A body that nobody reads would keep its connection. */
async function dropBody(response: Response): Promise<void> {
  if (response.ok) await response.body?.cancel()
}

function retryMilliseconds({ headers }: Response): number | undefined {
  const seconds = Number(headers.get('retry-after') ?? NaN)
  return seconds >= 0 ? Math.min(seconds, 60) * 1000 : undefined
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
