// The weights of a model folder: one safetensors file, or several with an index. Opening reads headers only; the ranks read the elements.
// The index is untrusted: a file name in it can never lead out of the folder.
import { readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { isSafeFileName } from '../checks'
import { HeddleError } from '../errors'
import { isFile, isFolder } from '../files'
import type { DType } from '../tensor'
import type { WeightSource } from '../shard'
import { readSafetensorsHeader } from './safetensors'
import type { SafetensorsEntry } from './safetensors'
import { parseStrictJsonObject } from './strict-json'

const singleFile = 'model.safetensors'
const indexFile = 'model.safetensors.index.json'
const maxIndexBytes = 100_000_000
const maxShardFiles = 10_000

const dtypes = new Map<string, DType>([
  ['F32', 'float32'],
  ['BF16', 'bfloat16'],
  ['F16', 'float16']
])

interface StoredTensor extends SafetensorsEntry {
  path: string
}

export class Checkpoint {
  private constructor(
    readonly folder: string,
    private readonly tensors: Map<string, StoredTensor>
  ) {}

  /** Throws `invalid_argument` for no such folder, else `corrupt_file` that names the file, the tensor and the rule. */
  static async open(folder: string): Promise<Checkpoint> {
    await checkModelFolder(folder)
    if (await isFile(path.join(folder, singleFile))) return new Checkpoint(folder, await readFiles(folder, [singleFile]))
    const indexPath = path.join(folder, indexFile)
    if (!(await isFile(indexPath))) {
      throw new HeddleError(
        'corrupt_file',
        `Checkpoint: ${folder} has neither ${singleFile} nor ${indexFile} (only safetensors weights are read)`
      )
    }
    const index = await readIndex(indexPath)
    const tensors = await readFiles(folder, [...new Set(index.values())])
    for (const [name, file] of index) {
      if (tensors.get(name)?.path === path.join(folder, file)) continue
      throw new HeddleError('corrupt_file', `${indexPath}: tensor ${JSON.stringify(name)} is not in ${file}`)
    }
    return new Checkpoint(folder, tensors)
  }

  get names(): string[] {
    return [...this.tensors.keys()]
  }

  has(name: string): boolean {
    return this.tensors.has(name)
  }

  /** Where a tensor's elements are. Throws `corrupt_file` when it is missing, `unsupported_model` for a dtype that is no weight of ours. */
  tensor(name: string): WeightSource {
    const stored = this.tensors.get(name)
    if (!stored)
      throw new HeddleError('corrupt_file', `${this.folder}: tensor ${JSON.stringify(name)} is missing`, { details: { tensor: name } })
    const dtype = dtypes.get(stored.dtype)
    if (!dtype) {
      const supported = [...dtypes.keys()].join(', ')
      throw new HeddleError(
        'unsupported_model',
        `${stored.path}: tensor ${JSON.stringify(name)}: expected dtype ${supported}, got ${stored.dtype}`
      )
    }
    return { dtype, shape: stored.shape, source: { path: stored.path }, offset: stored.offset }
  }

  /** The data type that most bytes have: what `dtype: 'auto'` means. */
  get dtype(): DType {
    const bytes = new Map<DType, number>()
    for (const { dtype, byteCount } of this.tensors.values()) {
      const known = dtypes.get(dtype)
      if (known) bytes.set(known, (bytes.get(known) ?? 0) + byteCount)
    }
    const [most] = [...bytes].sort((a, b) => b[1] - a[1])
    return most?.[0] ?? 'float32'
  }
}

/** Throws `invalid_argument` where there is no such folder. */
export async function checkModelFolder(folder: string): Promise<void> {
  if (await isFolder(folder)) return
  throw new HeddleError(
    'invalid_argument',
    `AutoModelForCausalLM: expected a model folder, got ${JSON.stringify(folder)}`
  )
}

async function readIndex(indexPath: string): Promise<Map<string, string>> {
  if ((await stat(indexPath)).size > maxIndexBytes)
    throw new HeddleError('corrupt_file', `${indexPath}: larger than ${maxIndexBytes} bytes`)
  const index = parseStrictJsonObject(await readFile(indexPath), indexPath)
  const weightMap = index.get('weight_map')
  if (!(weightMap instanceof Map)) throw new HeddleError('corrupt_file', `${indexPath}: expected an object weight_map`)
  for (const [name, file] of weightMap) {
    if (typeof file === 'string' && isSafeFileName(file)) continue
    const shown = JSON.stringify(file).slice(0, 200)
    throw new HeddleError('corrupt_file', `${indexPath}: tensor ${JSON.stringify(name)}: expected a file inside the folder, got ${shown}`)
  }
  return weightMap as Map<string, string>
}

async function readFiles(folder: string, files: string[]): Promise<Map<string, StoredTensor>> {
  if (files.length > maxShardFiles)
    throw new HeddleError('corrupt_file', `${folder}: expected at most ${maxShardFiles} weight files, got ${files.length}`)
  const tensors = new Map<string, StoredTensor>()
  for (const file of files) {
    const { path: filePath, tensors: entries } = await readSafetensorsHeader(path.join(folder, file))
    for (const [name, entry] of entries) {
      const other = tensors.get(name)
      if (other)
        throw new HeddleError('corrupt_file', `${filePath}: tensor ${JSON.stringify(name)} is a duplicate: ${other.path} has it too`)
      tensors.set(name, { ...entry, path: filePath })
    }
  }
  return tensors
}
