// One file of the hub into the cache's blobs: resumed where an earlier try stopped, tried again after a fault, and checked against its hash
// before it gets its name. Rule: a file under its final name is whole.
import { createHash } from 'node:crypto'
import type { Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { HeddleError, messageOf } from '../errors'
import { HubAnswer, RangeIgnored } from './hub-fetch'

export interface RemoteFile {
  /** for messages: what a user calls it */
  name: string
  size: number
  /** SHA-256 of the content (large files), else git's SHA-1 of a blob; also the name of the blob in the cache */
  hash: string
}

export interface DownloadOptions {
  signal?: AbortSignal
  /** bytes of the file that are there now; falls where a damaged part was thrown away */
  onBytes?: (bytes: number) => void
  /** first pause before another try; doubles each time without progress */
  retryMilliseconds?: number
}

/** The content from byte `start` on. */
export type ReadFrom = (start: number) => Promise<ReadableStream<Uint8Array>>

const maxTries = 6
const lockCheckMilliseconds = 200
const staleMilliseconds = 5 * 60_000 // far beyond the longest pause of a download that lives

/**
 * Makes sure that `blobs/<hash>` is there and returns its path. Throws `unavailable` when the tries are used up, `corrupt_file` when the
 * content has another hash twice, `aborted`; what was read stays for the next call.
 */
export async function downloadBlob(blobFolder: string, file: RemoteFile, readFrom: ReadFrom, options: DownloadOptions): Promise<string> {
  const target = path.join(blobFolder, file.hash)
  await mkdir(blobFolder, { recursive: true })
  await withLock(`${target}.lock`, options.signal, async () => {
    if ((await sizeOf(target)) === file.size) return
    await fill(`${target}.incomplete`, file, readFrom, options)
    await rename(`${target}.incomplete`, target)
  })
  options.onBytes?.(file.size)
  return target
}

async function fill(incomplete: string, file: RemoteFile, readFrom: ReadFrom, options: DownloadOptions): Promise<void> {
  for (let round = 0; round < 2; round++) {
    const hash = await readAll(incomplete, file, readFrom, options)
    if (hash === file.hash) return
    await rm(incomplete, { force: true }) // an earlier part may have been damaged on the disk: once more, from the start
  }
  throw new HeddleError('corrupt_file', `${file.name}: expected content with the hash ${file.hash}, got other content twice`)
}

/** Tries until the file has its size; returns the hash of what is there. */
async function readAll(incomplete: string, file: RemoteFile, readFrom: ReadFrom, options: DownloadOptions): Promise<string> {
  const pause = options.retryMilliseconds ?? 500
  for (let tries = 0; ; tries++) {
    const before = await sizeOf(incomplete)
    try {
      return await readOnce(incomplete, file, readFrom, options)
    } catch (error) {
      throwIfAborted(file, options.signal)
      if (error instanceof RangeIgnored) await rm(incomplete, { force: true })
      else if ((await sizeOf(incomplete)) > before) tries = 0
      if (!isPassing(error) || tries + 1 >= maxTries)
        throw new HeddleError('unavailable', `${file.name}: cannot be downloaded: ${reasonOf(error)}`, { cause: error })
      await sleep(retryAfter(error) ?? pause * 2 ** tries, undefined, { signal: options.signal }).catch(() => {})
      throwIfAborted(file, options.signal)
    }
  }
}

async function readOnce(incomplete: string, file: RemoteFile, readFrom: ReadFrom, { onBytes, signal }: DownloadOptions): Promise<string> {
  const hash = contentHash(file)
  let written = await sizeOf(incomplete)
  if (written > file.size) {
    await rm(incomplete, { force: true })
    written = 0
  }
  if (written > 0) for await (const chunk of createReadStream(incomplete)) hash.update(chunk as Buffer)
  onBytes?.(written)
  if (written === file.size && file.size > 0) return hash.digest('hex')
  const handle = await open(incomplete, 'a')
  try {
    if (file.size === 0) return hash.digest('hex')
    for await (const chunk of await readFrom(written)) {
      signal?.throwIfAborted()
      if (written + chunk.length > file.size) throw new SizeMismatch(`expected ${file.size} bytes, got more`)
      await handle.writeFile(chunk)
      hash.update(chunk)
      written += chunk.length
      onBytes?.(written)
    }
  } finally {
    await handle.close()
  }
  if (written < file.size) throw new SizeMismatch(`expected ${file.size} bytes, got ${written}`)
  return hash.digest('hex')
}

class SizeMismatch extends Error {}

function contentHash({ hash, size }: RemoteFile): Hash {
  return hash.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`)
}

/** Statuses that may pass, and everything that is not an answer at all: broken connections, silence, short bodies. */
function isPassing(error: unknown): boolean {
  const status = statusOf(error)
  if (status !== undefined) return status === 408 || status === 429 || status >= 500
  const code = codeOf(error)
  return code === undefined || !['ENOSPC', 'EACCES', 'EROFS', 'EPERM', 'EDQUOT', 'EMFILE'].includes(code)
}

export function statusOf(error: unknown): number | undefined {
  const status = (error as { statusCode?: unknown } | null)?.statusCode
  return typeof status === 'number' ? status : undefined
}

function codeOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' ? code : undefined
}

function retryAfter(error: unknown): number | undefined {
  return error instanceof HubAnswer ? error.retryMilliseconds : undefined
}

export function reasonOf(error: unknown): string {
  const cause = (error as { cause?: unknown } | null)?.cause
  return cause === undefined ? messageOf(error) : `${messageOf(error)} (${messageOf(cause)})`
}

function throwIfAborted(file: RemoteFile, signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new HeddleError('aborted', `${file.name}: the download was aborted by its signal`, { cause: signal.reason })
}

async function sizeOf(file: string): Promise<number> {
  return stat(file).then(
    ({ size }) => size,
    () => 0
  )
}

/** Several processes may want the same file: the first loads it, the others wait for that. A lock whose process is gone is taken over. */
async function withLock(lock: string, signal: AbortSignal | undefined, body: () => Promise<void>): Promise<void> {
  while (!(await takeLock(lock))) {
    if (await isStale(lock)) await rm(lock, { force: true })
    else await sleep(lockCheckMilliseconds, undefined, { signal }).catch(() => {})
    if (signal?.aborted) throw new HeddleError('aborted', `${path.basename(lock)}: aborted while waiting`, { cause: signal.reason })
  }
  try {
    await body()
  } finally {
    await rm(lock, { force: true })
  }
}

async function takeLock(lock: string): Promise<boolean> {
  return writeFile(lock, String(process.pid), { flag: 'wx' }).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'EEXIST') return false
      throw new HeddleError('unavailable', `${path.dirname(lock)}: cannot be written to: ${error.message}`, { cause: error })
    }
  )
}

async function isStale(lock: string): Promise<boolean> {
  const text = await readFile(lock, 'utf8').catch(() => undefined)
  if (text === undefined) return false // released just now
  const pid = Number(text)
  if (pid > 0 && !isRunning(pid)) return true
  // written by a process that died before it wrote its number, or whose number another process has by now
  const lastSign = Math.max(await changedAt(lock), await changedAt(lock.replace(/\.lock$/, '.incomplete')))
  return Date.now() - lastSign > staleMilliseconds
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH'
  }
}

async function changedAt(file: string): Promise<number> {
  return stat(file).then(
    ({ mtimeMs }) => mtimeMs,
    () => 0
  )
}
