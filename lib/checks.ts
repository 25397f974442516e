// Checks of what a caller passes in, shared by every part. Rule: a value of the wrong kind, or an option that nobody knows, is an
// `invalid_argument` at once; a misspelled option would else be ignored without a word.
import { HeddleError, invalidArgument } from './errors'

/** An object with no other names than the known ones. */
export function checkOptions(where: string, options: unknown, known: readonly string[]): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) throw invalidArgument(`${where}: options`, 'an object', options)
  const unknown = Object.keys(options).find((name) => !known.includes(name))
  if (unknown !== undefined)
    throw new HeddleError('invalid_argument', `${where}: expected options ${known.join(', ')}, got ${unknown.slice(0, 100)}`)
}

/** By what a group does: modules that need this are below it. */
export function checkGroup(where: string, group: unknown): void {
  if (typeof (group as { evaluate?: unknown } | null | undefined)?.evaluate === 'function') return
  throw invalidArgument(`${where}: group`, 'a group of openGroup()', group)
}

/** Whole numbers from 1. */
export function checkPositive(where: string, values: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(values)) {
    if (!Number.isSafeInteger(value) || (value as number) < 1) throw invalidArgument(`${where}: ${name}`, 'a positive integer', value)
  }
}

/** True, false, or left out. */
export function checkFlags(where: string, values: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined && typeof value !== 'boolean') throw invalidArgument(`${where}: ${name}`, 'true or false', value)
  }
}

/** What keeps a norm from dividing by zero. */
export function checkEps(where: string, eps: unknown): void {
  if (typeof eps !== 'number' || !(eps >= 0) || eps === Infinity) throw invalidArgument(`${where}: eps`, 'a finite number from 0', eps)
}

/** What `git clone` leaves for a large file where Git LFS is not set up. Source: the specification of git-lfs, "The Pointer". */
export const lfsPointerStart = 'version https://git-lfs'

/** Throws `corrupt_file` for such a pointer; `content`: how the file at `path` begins. */
export function checkNoPointer(path: string, content: string): void {
  if (!content.startsWith(lfsPointerStart)) return
  throw new HeddleError('corrupt_file', `${path}: expected the file itself, got a pointer of Git LFS: git lfs pull fetches it`)
}

/**
 * Whether a name from a model's files can only mean a file inside its folder. Refuses by POSIX and by Windows rules alike, on every platform:
 * what is safe here is safe elsewhere.
 */
export function isSafeFileName(name: string): boolean {
  if (name === '' || name.length > 1024 || /[\u0000-\u001f\u007f\\:]/.test(name)) return false
  return name.split('/').every((segment) => segment !== '' && segment !== '.' && !/^\.\.[. ]*$/.test(segment) && !/[. ]$/.test(segment))
}
