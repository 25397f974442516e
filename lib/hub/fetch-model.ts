// A model of the Hugging Face hub as a local folder: only the files that heddle reads, small ones first, weights last, into the cache that
// other libraries use as well. Rule: what this returns is complete.
import { stat, statfs } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { HeddleError, invalidArgument, messageOf } from '../errors'
import { isFolder } from '../files'
import { downloadBlob, reasonOf, statusOf } from './blob-download'
import type { RemoteFile } from './blob-download'
import { ProgressMeter } from './download-progress'
import type { DownloadProgress } from './download-progress'
import { hubEnvironment } from './environment'
import type { HubEnvironment } from './environment'
import { HubAnswer, hubFetch } from './hub-fetch'
import type { Fetch } from './hub-fetch'
import { cachedCommit, checkName, linkBlob, missingFiles, rememberCommit, repositoryFolders, shardNames, snapshotFolder } from './snapshot'
import type { RepositoryFolders } from './snapshot'

export interface FetchModelOptions {
  /** a branch, a tag or a commit. Default `main` */
  revision?: string
  /** which parts; default all of them. `config.json` comes always */
  parts?: { weights: boolean; tokenizer: boolean }
  signal?: AbortSignal
  onProgress?: (progress: DownloadProgress) => void
  environment?: HubEnvironment
  retryMilliseconds?: number
}

const where = 'AutoModelForCausalLM.fromPretrained'
const configFiles = ['config.json', 'generation_config.json']
const tokenizerFiles = ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja']
const weightFile = 'model.safetensors'
const indexFile = 'model.safetensors.index.json'
const parallelDownloads = 4
const everything = { weights: true, tokenizer: true }

/** `org/name`, or one of the old names without an organisation, such as `gpt2`. Nothing that could be a path. */
export function isHubName(name: string): boolean {
  const part = '[A-Za-z0-9](?:[\\w.-]{0,94}[\\w-])?'
  return new RegExp(`^${part}(?:/${part})?$`).test(name) && !/--|\.\./.test(name) && !/\.git$/.test(name)
}

/**
 * The folder itself where `nameOrFolder` is one, else a folder of the cache with the model's files. Throws `invalid_argument` for a name
 * that is neither, `unavailable` without access (names what is missing, offline), `corrupt_file`, `unsupported_model` without safetensors
 * weights, `aborted`.
 */
export async function modelFolder(nameOrFolder: string, options: FetchModelOptions = {}): Promise<string> {
  const revision = checkRevision(options.revision ?? 'main')
  if (await isFolder(nameOrFolder)) return nameOrFolder
  if (!isHubName(nameOrFolder)) throw invalidArgument(where, 'a model folder, or the name of a model on the Hugging Face hub', nameOrFolder)
  const environment = options.environment ?? hubEnvironment()
  const parts = options.parts ?? everything
  const folders = repositoryFolders(environment.cacheFolder, nameOrFolder)
  const cached = await cachedSnapshot(folders.root, revision, parts)
  if (cached.folder && (environment.offline || cached.pinned)) return cached.folder
  if (environment.offline) throw offline(nameOrFolder, cached.missing)
  try {
    return await new ModelFetch(nameOrFolder, revision, folders, environment, options).run(parts)
  } catch (error) {
    const failure = asHeddleError(nameOrFolder, environment.cacheFolder, error, options.signal)
    if (failure.code === 'unavailable' && cached.folder) return cached.folder // as `transformers`: no network, but all is here
    throw failure
  }
}

interface FileOfModel extends RemoteFile {
  path: string
}

class ModelFetch {
  readonly #fetch: Fetch
  readonly #progress: ProgressMeter

  constructor(
    readonly name: string,
    readonly revision: string,
    readonly folders: RepositoryFolders,
    readonly environment: HubEnvironment,
    readonly options: FetchModelOptions
  ) {
    this.#fetch = hubFetch(environment, options.signal)
    this.#progress = new ProgressMeter(options.onProgress)
  }

  async run(parts: { weights: boolean; tokenizer: boolean }): Promise<string> {
    const commit = await this.#commit()
    const folder = snapshotFolder(this.folders.root, commit)
    const files = await this.#list(commit)
    if (!files.has('config.json')) throw new HeddleError('unsupported_model', `${this.name}: expected a config.json on the hub, got none`)
    const single = files.has(weightFile)
    if (parts.weights && !single && !files.has(indexFile))
      throw new HeddleError('unsupported_model', `${this.name}: expected ${weightFile} or ${indexFile} on the hub, got neither`)
    const known = (names: string[]): FileOfModel[] => names.map((name) => this.#known(files, name))
    const described = [...configFiles, ...(parts.tokenizer ? tokenizerFiles : [])].filter((name) => files.has(name))
    const small = known(parts.weights && !single ? [...described, indexFile] : described)
    const one = known(parts.weights && single ? [weightFile] : [])
    await this.#expect([...small, ...one])
    await this.#load(small, commit, folder)
    const weights = parts.weights && !single ? known(await shardNames(folder)) : one
    await this.#expect(weights)
    await this.#checkSpace(weights)
    await this.#load(weights, commit, folder)
    await rememberCommit(this.folders.root, this.revision, commit)
    return folder
  }

  async #commit(): Promise<string> {
    const { modelInfo } = await import('@huggingface/hub')
    const asked = { name: this.name, revision: this.revision, hubUrl: this.environment.endpoint, fetch: this.#fetch }
    const { sha } = await this.#retry(() => modelInfo({ ...asked, additionalFields: ['sha'] }))
    if (/^[0-9a-f]{40}$/.test(sha)) return sha
    throw new HeddleError('corrupt_file', `${this.name}: expected a commit from the hub, got ${JSON.stringify(sha)}`)
  }

  async #list(commit: string): Promise<Map<string, RemoteFile>> {
    const { listFiles } = await import('@huggingface/hub')
    return this.#retry(async () => {
      const files = new Map<string, RemoteFile>()
      const asked = { repo: this.name, revision: commit, recursive: true, hubUrl: this.environment.endpoint, fetch: this.#fetch }
      for await (const { type, path, size, oid, lfs } of listFiles(asked)) {
        const hash = lfs?.oid ?? oid ?? ''
        if (type === 'file') files.set(path, { name: `${this.name}/${path}`, size: lfs?.size ?? size, hash })
      }
      return files
    })
  }

  async #expect(files: RemoteFile[]): Promise<void> {
    for (const file of files) this.#progress.expect(file, Math.min(file.size, await this.#bytesHere(file)))
  }

  #known(files: Map<string, RemoteFile>, name: string): FileOfModel {
    const file = files.get(checkName(name))
    if (!file) throw new HeddleError('corrupt_file', `${this.name}: ${indexFile} names ${JSON.stringify(name)}, which the hub does not have`)
    if (/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(file.hash) && Number.isSafeInteger(file.size) && file.size >= 0) return { ...file, path: name }
    throw new HeddleError('corrupt_file', `${file.name}: expected a size and a hash from the hub, got ${file.size} and ${JSON.stringify(file.hash)}`)
  }

  /** A few at a time, in order. */
  async #load(files: FileOfModel[], commit: string, folder: string): Promise<void> {
    const queue = [...files]
    const failed = new AbortController()
    const signal = AbortSignal.any([failed.signal, ...(this.options.signal ? [this.options.signal] : [])])
    const worker = async (): Promise<void> => {
      for (let file = queue.shift(); file && !failed.signal.aborted; file = queue.shift()) {
        const one = file
        const blob = await downloadBlob(this.folders.blobs, one, (start) => this.#read(one.path, commit, start), {
          signal,
          onBytes: (bytes) => this.#progress.report(one, bytes),
          ...(this.options.retryMilliseconds !== undefined && { retryMilliseconds: this.options.retryMilliseconds })
        })
        await linkBlob(blob, folder, one.path)
      }
    }
    const workers = Array.from({ length: parallelDownloads }, () => worker().catch((error) => failed.abort(error))) // the others stop where they are
    await Promise.allSettled(workers)
    if (failed.signal.aborted) throw failed.signal.reason
  }

  async #read(file: string, commit: string, start: number): Promise<ReadableStream<Uint8Array>> {
    const { endpoint } = this.environment
    const url = `${endpoint}/${this.name}/resolve/${commit}/${file.split('/').map(encodeURIComponent).join('/')}`
    // a part of a compressed body would be no part of the file
    const headers = { 'accept-encoding': 'identity', ...(start > 0 && { range: `bytes=${start}-` }) }
    const response = await this.#fetch(url, { headers })
    if (response.ok && response.body) return response.body
    await response.body?.cancel()
    throw new HubAnswer(response)
  }

  async #checkSpace(files: RemoteFile[]): Promise<void> {
    const missing = await Promise.all(files.map(async (file) => file.size - (await this.#bytesHere(file))))
    const needed = missing.reduce((sum, bytes) => sum + bytes, 0)
    const { bavail, bsize } = await statfs(this.folders.root)
    if (needed <= bavail * bsize) return
    const text = `${this.name}: expected ${needed} free bytes in ${this.environment.cacheFolder}, got ${bavail * bsize}`
    throw new HeddleError('unavailable', text, { details: { neededBytes: needed, freeBytes: bavail * bsize } })
  }

  async #bytesHere({ hash }: RemoteFile): Promise<number> {
    const sizes = await Promise.all([hash, `${hash}.incomplete`].map((name) => stat(`${this.folders.blobs}/${name}`).then(({ size }) => size, () => 0)))
    return Math.max(...sizes)
  }

  /** Small questions; files have their own, finer way. */
  async #retry<T>(ask: () => Promise<T>): Promise<T> {
    const pause = this.options.retryMilliseconds ?? 500
    for (let tries = 0; ; tries++) {
      try {
        return await ask()
      } catch (error) {
        const status = statusOf(error)
        const passing = status === undefined || status === 429 || status >= 500
        if (this.options.signal?.aborted || !passing || tries >= 3) throw error
        const wait = error instanceof HubAnswer ? error.retryMilliseconds : undefined
        await sleep(wait ?? pause * 2 ** tries, undefined, { signal: this.options.signal }).catch(() => {})
      }
    }
  }
}

async function cachedSnapshot(
  root: string,
  revision: string,
  parts: { weights: boolean; tokenizer: boolean }
): Promise<{ folder?: string; pinned: boolean; missing: string[] }> {
  const commit = await cachedCommit(root, revision)
  if (!commit) return { pinned: false, missing: [`revision ${revision}`] }
  const folder = snapshotFolder(root, commit)
  const missing = await missingFiles(folder, parts)
  return { ...(missing.length === 0 && { folder }), pinned: commit === revision, missing }
}

function checkRevision(revision: unknown): string {
  const good = typeof revision === 'string' && /^[\w][\w./-]{0,200}$/.test(revision) && !revision.split('/').some((part) => /^\.*$/.test(part))
  if (good) return revision
  throw invalidArgument(`${where}: revision`, 'a branch, a tag or a commit', revision)
}

const offline = (name: string, missing: string[]): HeddleError =>
  new HeddleError('unavailable', `${name}: no such folder; expected the model in the cache, since HF_HUB_OFFLINE is set; missing: ${missing.slice(0, 5).join(', ')}`, {
    details: { missing }
  })

/** An error of the file system; those of the network have a code, too, but no path. */
const isOfDisk = (error: unknown): boolean => typeof error === 'object' && error !== null && 'syscall' in error && 'path' in error

function asHeddleError(name: string, cacheFolder: string, error: unknown, signal: AbortSignal | undefined): HeddleError {
  if (signal?.aborted) return new HeddleError('aborted', `${where}: aborted by its signal`, { cause: signal.reason })
  if (isOfDisk(error)) return new HeddleError('unavailable', `${name}: the cache ${cacheFolder} cannot be written to: ${messageOf(error)}`, { cause: error })
  const refusal = error instanceof HeddleError ? error.cause : error
  const status = statusOf(refusal)
  const details = { details: { status }, cause: error }
  if (status === 401 || status === 403) {
    const said = messageOf(refusal).replace(/^the hub answers with status \d+(: )?/, '').replace(/\s*\. URL: .*$/s, '')
    const why = `a private or gated model, or none; set HF_TOKEN to a token of an account that may read it`
    return new HeddleError('unavailable', `${name}: the hub refuses access (${status}${said && `: ${said}`}): ${why}`, details)
  }
  if (error instanceof HeddleError) return error
  if (status === 404) return new HeddleError('invalid_argument', `${where}: expected a model folder or a model on the hub, got ${JSON.stringify(name)}: ${messageOf(error)}`, details)
  return new HeddleError('unavailable', `${name}: no such folder, and the hub cannot be reached: ${reasonOf(error)}`, details)
}
