// Reads the header of a safetensors file, and nothing else of it. The file is untrusted: every number is checked against the size of the
// file before it is used, and a header that two readers could understand differently is refused.
import { open, stat } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { checkNoPointer, lfsPointerStart } from '../checks'
import { HeddleError } from '../errors'
import { parseStrictJsonObject } from './strict-json'
import type { JsonObject, JsonValue } from './strict-json'

/** What an entry of the header says; `offset` and `byteCount` are bytes of the file. */
export interface SafetensorsEntry {
  name: string
  dtype: string
  shape: number[]
  offset: number
  byteCount: number
}

export interface SafetensorsHeader {
  path: string
  fileBytes: number
  metadata: Map<string, string>
  tensors: Map<string, SafetensorsEntry>
}

export const maxHeaderBytes = 100_000_000
const lengthBytes = 8
const maxRank = 8

/** Bits of an element, by the name that the header uses. */
const bitsOf = new Map<string, number>([
  ['BOOL', 8],
  ['F4', 4],
  ['F6_E2M3', 6],
  ['F6_E3M2', 6],
  ['U8', 8],
  ['I8', 8],
  ['F8_E5M2', 8],
  ['F8_E4M3', 8],
  ['F8_E8M0', 8],
  ['F8_E4M3FNUZ', 8],
  ['F8_E5M2FNUZ', 8],
  ['I16', 16],
  ['U16', 16],
  ['F16', 16],
  ['BF16', 16],
  ['I32', 32],
  ['U32', 32],
  ['F32', 32],
  ['C64', 64],
  ['F64', 64],
  ['I64', 64],
  ['U64', 64]
])

/** Throws `corrupt_file` that names the file, the tensor and the rule. */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsHeader> {
  const file = await openFile(path)
  try {
    const { size } = await file.stat()
    return parseSafetensorsHeader(await readHeaderBytes(file, path, size), path, size)
  } finally {
    await file.close()
  }
}

/** The pure part: the JSON bytes of a header, and the size of the whole file. */
export function parseSafetensorsHeader(header: Uint8Array, path: string, fileBytes: number): SafetensorsHeader {
  const json = parseStrictJsonObject(header, `${path}: header`, { integersOnly: true })
  const dataStart = lengthBytes + header.length
  const tensors = new Map<string, SafetensorsEntry>()
  for (const [name, value] of json) {
    if (name !== '__metadata__') tensors.set(name, readEntry(name, value, path, dataStart))
  }
  checkLayout(tensors, path, dataStart, fileBytes)
  return { path, fileBytes, metadata: readMetadata(json.get('__metadata__'), path), tensors }
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    // Asked before opening: to open a named pipe would wait for a writer.
    if ((await stat(path)).isFile()) return await open(path, 'r')
    throw new Error('not a regular file')
  } catch (cause) {
    throw new HeddleError('corrupt_file', `${path}: the file is missing or cannot be read`, { cause, details: { path } })
  }
}

async function readHeaderBytes(file: FileHandle, path: string, fileBytes: number): Promise<Uint8Array> {
  const length = await readExactly(file, path, 0, lengthBytes, fileBytes)
  if (length.toString('latin1') === lfsPointerStart.slice(0, lengthBytes))
    checkNoPointer(path, (await readExactly(file, path, 0, Math.min(fileBytes, lfsPointerStart.length), fileBytes)).toString('latin1'))
  const headerBytes = length.readBigUInt64LE()
  if (headerBytes > BigInt(maxHeaderBytes)) {
    throw new HeddleError('corrupt_file', `${path}: header too large: expected at most ${maxHeaderBytes} bytes, got ${headerBytes}`)
  }
  return readExactly(file, path, lengthBytes, Number(headerBytes), fileBytes)
}

async function readExactly(file: FileHandle, path: string, offset: number, count: number, fileBytes: number): Promise<Buffer> {
  const truncated = () =>
    new HeddleError('corrupt_file', `${path}: truncated: the header ends at byte ${offset + count}, the file at ${fileBytes}`)
  if (offset + count > fileBytes) throw truncated()
  const buffer = Buffer.allocUnsafe(count)
  let done = 0
  while (done < count) {
    const { bytesRead } = await file.read(buffer, done, count - done, offset + done)
    if (bytesRead === 0) throw truncated()
    done += bytesRead
  }
  return buffer
}

function readEntry(name: string, value: JsonValue, path: string, dataStart: number): SafetensorsEntry {
  const where = `${path}: tensor ${JSON.stringify(name.slice(0, 200))}`
  if (name === '' || /[\u0000-\u001f\u007f]/.test(name)) throw corrupt(where, 'expected a name without control characters')
  if (!(value instanceof Map)) throw corrupt(where, 'expected an object with dtype, shape and data_offsets')
  const dtype = value.get('dtype')
  const bits = typeof dtype === 'string' ? bitsOf.get(dtype) : undefined
  if (typeof dtype !== 'string' || bits === undefined) throw corrupt(where, `unknown dtype ${JSON.stringify(dtype ?? null).slice(0, 60)}`)
  const shape = readSizes(value, 'shape', where)
  if (shape.length > maxRank) throw corrupt(where, `expected at most ${maxRank} dimensions, got ${shape.length}`)
  const [begin, end, ...rest] = readSizes(value, 'data_offsets', where)
  if (begin === undefined || end === undefined || rest.length > 0) throw corrupt(where, 'expected two data_offsets')
  if (end < begin) throw corrupt(where, `data_offsets end before they begin: [${begin}, ${end}]`)
  const byteCount = byteCountOf(shape, bits, where)
  if (byteCount !== end - begin) {
    throw corrupt(where, `shape [${shape.join(', ')}] of ${dtype} takes ${byteCount} bytes, data_offsets hold ${end - begin}`)
  }
  return { name, dtype, shape, offset: dataStart + begin, byteCount }
}

function readSizes(entry: JsonObject, field: string, where: string): number[] {
  const value = entry.get(field)
  const isSize = (item: JsonValue): item is number => typeof item === 'number' && item >= 0 && !Object.is(item, -0)
  if (!Array.isArray(value) || !value.every(isSize)) throw corrupt(where, `expected ${field} as a list of non-negative integers`)
  return value
}

function byteCountOf(shape: number[], bits: number, where: string): number {
  let count = bits
  for (const size of shape) {
    count *= size
    if (count > Number.MAX_SAFE_INTEGER) throw corrupt(where, `shape [${shape.join(', ')}] is too large`)
  }
  if (count % 8 !== 0) throw corrupt(where, `shape [${shape.join(', ')}] does not end on a whole byte`)
  return count / 8
}

/** In the order of their offsets, each tensor begins where the one before it ended, and the last ends with the file. */
function checkLayout(tensors: Map<string, SafetensorsEntry>, path: string, dataStart: number, fileBytes: number): void {
  const ordered = [...tensors.values()].sort((a, b) => a.offset - b.offset || a.byteCount - b.byteCount)
  let at = dataStart
  for (const entry of ordered) {
    const where = `${path}: tensor ${JSON.stringify(entry.name.slice(0, 200))}`
    if (entry.offset < at)
      throw corrupt(where, `its data overlaps the tensor before it: expected offset ${at - dataStart}, got ${entry.offset - dataStart}`)
    if (entry.offset > at)
      throw corrupt(where, `a hole before its data: expected offset ${at - dataStart}, got ${entry.offset - dataStart}`)
    at += entry.byteCount
    if (at > fileBytes)
      throw corrupt(where, `its data ends at byte ${at}, the file at ${fileBytes}: out of the file, which may be truncated`)
  }
  if (at !== fileBytes) throw corrupt(path, `the data ends at byte ${at}, the file at ${fileBytes}`)
}

function readMetadata(value: JsonValue | undefined, path: string): Map<string, string> {
  if (value === undefined || value === null) return new Map()
  if (!(value instanceof Map)) throw corrupt(path, 'expected __metadata__ as an object')
  for (const item of value.values()) if (typeof item !== 'string') throw corrupt(path, 'expected texts in __metadata__')
  return value as Map<string, string>
}

function corrupt(where: string, rule: string): HeddleError {
  return new HeddleError('corrupt_file', `${where}: ${rule}`)
}
