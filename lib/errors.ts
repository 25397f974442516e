// The one error class of heddle. Rule: what goes wrong for a reason outside the code is a HeddleError with a code, and its text says where,
// what was expected and what came.

export const heddleErrorCodes = [
  'invalid_argument',
  'unavailable',
  'out_of_memory',
  'corrupt_file',
  'unsupported_model',
  'device_failed',
  'collective_failed',
  'rank_died',
  'peer_failed',
  'timeout',
  'aborted',
  'closed'
] as const

export type HeddleErrorCode = (typeof heddleErrorCodes)[number]

export interface HeddleErrorOptions {
  /** What led to this error, usually an error of the operating system or of a library. */
  cause?: unknown
  /** Facts a program can use without reading the text: valid sizes, the file, the rank. */
  details?: Record<string, unknown>
}

export class HeddleError extends Error {
  override readonly name = 'HeddleError'
  readonly code: HeddleErrorCode
  readonly details?: Record<string, unknown>

  constructor(code: HeddleErrorCode, message: string, options: HeddleErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    if (options.details) this.details = options.details
  }
}

/** `where: expected …, got …`, with the value shown short. Returns the error, so that the `throw` stays visible at the caller. */
export function invalidArgument(where: string, expected: string, got: unknown, options: HeddleErrorOptions = {}): HeddleError {
  return new HeddleError('invalid_argument', `${where}: expected ${expected}, got ${describe(got)}`, options)
}

/** One short line for any value, safe for whatever a caller passes in: it never throws and never prints a whole array or text. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value)
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value !== 'object' || value === null) return String(value)
  if (Array.isArray(value)) return value.length === 0 ? 'an empty array' : `an array of ${value.length}`
  if (ArrayBuffer.isView(value)) return `${Object.prototype.toString.call(value).slice(8, -1)} of ${value.byteLength} bytes`
  return 'an object'
}

export function isHeddleErrorCode(code: unknown): code is HeddleErrorCode {
  return (heddleErrorCodes as readonly unknown[]).includes(code)
}

/** The text of anything thrown: an error, an error of another realm that is not `instanceof Error`, a string. */
export function messageOf(thrown: unknown): string {
  if (typeof thrown === 'object' && thrown !== null && 'message' in thrown) return String(thrown.message)
  return String(thrown)
}
