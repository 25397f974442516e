// Reads and writes whole safetensors files, for tests alone: the library reads headers, and the ranks read elements.
import { readFile, writeFile } from 'node:fs/promises'
import { readSafetensorsHeader } from '../../lib/models/safetensors'

export interface RawTensor {
  dtype: string
  shape: number[]
  data: Uint8Array
}

export async function writeSafetensors(file: string, tensors: Record<string, RawTensor>): Promise<void> {
  let offset = 0
  const header: Record<string, object> = {}
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + data.length] }
    offset += data.length
  }
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  await writeFile(file, Buffer.concat([length, json, ...Object.values(tensors).map(({ data }) => data)]))
}

export async function readSafetensors(file: string): Promise<Map<string, RawTensor>> {
  const { tensors } = await readSafetensorsHeader(file)
  const bytes = await readFile(file)
  return new Map(
    [...tensors].map(([name, { dtype, shape, offset, byteCount }]) => [
      name,
      { dtype, shape, data: new Uint8Array(bytes.buffer.slice(bytes.byteOffset + offset, bytes.byteOffset + offset + byteCount)) }
    ])
  )
}

export const floats = (tensor: RawTensor): Float32Array => new Float32Array(tensor.data.buffer)

/** Rows of an int64 matrix as numbers. */
export function idRows(tensor: RawTensor): number[][] {
  const [rows, width] = tensor.shape as [number, number]
  const ids = new BigInt64Array(tensor.data.buffer)
  return Array.from({ length: rows }, (_, row) => Array.from(ids.subarray(row * width, (row + 1) * width), Number))
}

/** A float32 tensor of equal elements. */
export function filled(shape: number[], value = 0): RawTensor {
  const data = new Float32Array(shape.reduce((product, length) => product * length, 1)).fill(value)
  return { dtype: 'F32', shape, data: new Uint8Array(data.buffer) }
}
