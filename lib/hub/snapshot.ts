// A model's folder in the hub's cache, in the layout that all of Hugging Face's libraries share:
// models--org--name/{refs/<revision> (a commit), blobs/<hash>, snapshots/<commit>/<file> → a blob}.
// Rule: no name from the hub or from an index leads out of the snapshot's folder.
import { copyFile, mkdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { isSafeFileName } from '../checks'
import { HeddleError, messageOf } from '../errors'
import { isFile } from '../files'

const maxIndexBytes = 100_000_000
const indexFile = 'model.safetensors.index.json'
const commitPattern = /^[0-9a-f]{40}$/

export interface RepositoryFolders {
  root: string
  blobs: string
}

export function repositoryFolders(cacheFolder: string, name: string): RepositoryFolders {
  const root = path.join(cacheFolder, `models--${name.replace('/', '--')}`)
  return { root, blobs: path.join(root, 'blobs') }
}

export const snapshotFolder = (root: string, commit: string): string => path.join(root, 'snapshots', commit)

/** The commit that a revision meant when it was last asked for. */
export async function cachedCommit(root: string, revision: string): Promise<string | undefined> {
  if (commitPattern.test(revision)) return revision
  const text = await readFile(path.join(root, 'refs', revision), 'utf8').catch(() => '')
  return commitPattern.test(text.trim()) ? text.trim() : undefined
}

export async function rememberCommit(root: string, revision: string, commit: string): Promise<void> {
  if (revision === commit) return
  const file = path.join(root, 'refs', revision)
  await mkdir(path.dirname(file), { recursive: true })
  await writeFile(`${file}.${process.pid}`, commit)
  await rename(`${file}.${process.pid}`, file)
}

/** Puts a blob under its name into the snapshot; a link where the file system has links, else a copy. */
export async function linkBlob(blob: string, folder: string, name: string): Promise<void> {
  const target = path.join(folder, checkName(name))
  if (await isFile(target)) return
  await mkdir(path.dirname(target), { recursive: true })
  await rm(target, { force: true }) // a link to a blob that is gone
  await symlink(path.relative(path.dirname(target), blob), target).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code === 'EEXIST') return
    await copyFile(blob, `${target}.${process.pid}`)
    await rename(`${target}.${process.pid}`, target)
  })
}

export function checkName(name: string): string {
  if (isSafeFileName(name)) return name
  throw new HeddleError('corrupt_file', `hub: expected a file inside the model, got ${JSON.stringify(name.slice(0, 200))}`)
}

/** The weight files that an index names. */
export async function shardNames(folder: string): Promise<string[]> {
  const file = path.join(folder, indexFile)
  const wrong = (problem: string, cause?: unknown): HeddleError => new HeddleError('corrupt_file', `${file}: ${problem}`, { cause })
  if ((await stat(file)).size > maxIndexBytes) throw wrong(`larger than ${maxIndexBytes} bytes`)
  let index: unknown
  try {
    index = JSON.parse(await readFile(file, 'utf8'))
  } catch (cause) {
    throw wrong(`not JSON: ${messageOf(cause)}`, cause)
  }
  const map = (index as { weight_map?: unknown } | null)?.weight_map
  if (typeof map !== 'object' || map === null) throw wrong('expected an object weight_map')
  return [...new Set(Object.values(map))].map((name) => checkName(String(name)))
}

/** What a model still lacks in a snapshot: nothing where it can be loaded without the network. */
export async function missingFiles(folder: string, parts: { weights: boolean; tokenizer: boolean }): Promise<string[]> {
  const missing: string[] = []
  if (parts.tokenizer && !parts.weights) await need('tokenizer.json')
  else await need('config.json')
  if (parts.weights && !(await isFile(path.join(folder, 'model.safetensors')))) {
    if (!(await isFile(path.join(folder, indexFile)))) missing.push('model.safetensors')
    else for (const name of await shardNames(folder)) await need(name)
  }
  return missing

  async function need(name: string): Promise<void> {
    if (!(await isFile(path.join(folder, name)))) missing.push(name)
  }
}
