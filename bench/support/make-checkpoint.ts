// Writes a synthetic bfloat16 checkpoint of a named shape in Hugging Face layout: config.json, generation_config.json, model.safetensors.
// Weights are N(0, 0.02), norms 1; there is no tokenizer. Memory stays at one chunk, whatever the size of the model.
import { mkdirSync, openSync, closeSync, writeSync, writeFileSync, existsSync, readFileSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { bfloat16Bits, normalTable, XorShift } from './random'
import { configOf, elementCount, shapeOf, tensorsOf, type NamedShape } from './model-shapes'

const chunkElements = 4 << 20
const weightDeviation = 0.02
const formatVersion = 1 // part of the stamp: a folder of an older layout is written again

export interface CheckpointOptions {
  seed?: number
}

// Returns the folder; a folder that holds this very checkpoint already is left as it is.
export function makeCheckpoint(folder: string, shapeName: string, options: CheckpointOptions = {}): string {
  const { seed = 1 } = options
  const shape = shapeOf(shapeName)
  if (shape.layersOnly) throw new Error(`make-checkpoint: ${shapeName}: only its layers are measured, by the cases gemm and layers`)
  const stamp = JSON.stringify({ shapeName, shape, seed, formatVersion })
  const stampFile = join(folder, 'synthetic.json')
  if (existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) return folder
  mkdirSync(folder, { recursive: true })
  writeJson(join(folder, 'config.json'), configOf(shape))
  writeJson(join(folder, 'generation_config.json'), { do_sample: false, eos_token_id: shape.vocabSize - 1 })
  writeWeights(join(folder, 'model.safetensors'), tensorsOf(shape), seed)
  writeFileSync(stampFile, stamp) // last: a folder without it was never finished
  return folder
}

function writeWeights(path: string, tensors: NamedShape[], seed: number): void {
  const partial = `${path}.partial`
  const file = openSync(partial, 'w')
  try {
    writeFully(file, safetensorsHeader(tensors))
    const random = new XorShift(seed)
    const table = normalTable(weightDeviation, seed + 1)
    for (const tensor of tensors) writeTensor(file, tensor, table, random)
  } finally {
    closeSync(file)
  }
  renameSync(partial, path)
}

function safetensorsHeader(tensors: NamedShape[]): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let offset = 0
  for (const { name, shape } of tensors) {
    const end = offset + 2 * elementCount(shape)
    header[name] = { dtype: 'BF16', shape, data_offsets: [offset, end] }
    offset = end
  }
  const text = JSON.stringify(header)
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8)) // names are ASCII; data starts at a multiple of 8
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  return Buffer.concat([length, json])
}

function writeTensor(file: number, tensor: NamedShape, table: Uint16Array, random: XorShift): void {
  let left = elementCount(tensor.shape)
  const chunk = new Uint16Array(Math.min(left, chunkElements))
  if (tensor.norm) chunk.fill(bfloat16Bits(1))
  while (left > 0) {
    const count = Math.min(left, chunk.length)
    if (!tensor.norm) fillFromTable(chunk, count, table, random)
    writeFully(file, new Uint8Array(chunk.buffer, 0, 2 * count))
    left -= count
  }
}

function fillFromTable(chunk: Uint16Array, count: number, table: Uint16Array, random: XorShift): void {
  for (let i = 0; i < count; i += 2) {
    const draw = random.next()
    chunk[i] = table[draw & 0xffff]
    if (i + 1 < count) chunk[i + 1] = table[draw >>> 16]
  }
}

function writeFully(file: number, bytes: Uint8Array): void {
  for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written)
}

function writeJson(path: string, value: object): void {
  writeFileSync(path, `${JSON.stringify(value, null, 2)}\n`)
}

if (require.main === module) {
  const [shapeName, folder, seed] = process.argv.slice(2)
  if (!shapeName || !folder) {
    process.stderr.write('usage: make-checkpoint SHAPE FOLDER [SEED]\n')
    process.exitCode = 2
  } else {
    process.stdout.write(`${makeCheckpoint(folder, shapeName, { seed: Number(seed ?? 1) })}\n`)
  }
}
