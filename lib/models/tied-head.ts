// Whether a head that config.json ties to the embedding is tied in the weights, too. A file that holds both, and not alike, was saved from a
// model whose head went its own way: as transformers has it, the weights count, not the flag.
import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { HeddleError, messageOf } from '../errors'
import { elementBytes } from '../shard'
import type { WeightSource } from '../shard'
import type { Checkpoint } from './checkpoint'
import type { ModelConfig } from './config'
import { familyNamed } from './families'

const chunkBytes = 8 * 2 ** 20

/** The configuration, its head untied where the checkpoint has a head that differs from the embedding. Reads both to the first difference. */
export async function withHeadOfWeights(config: ModelConfig, checkpoint: Checkpoint): Promise<ModelConfig> {
  if (!config.tieWordEmbeddings) return config
  const { roots, embedding, head } = familyNamed(config.modelType).tensors
  const table = roots.map((root) => `${root}${embedding}.weight`).find((name) => checkpoint.has(name))
  const own = `${head}.weight`
  if (table === undefined || !checkpoint.has(own)) return config
  return (await areEqual(checkpoint.tensor(table), checkpoint.tensor(own))) ? config : { ...config, tieWordEmbeddings: false }
}

async function areEqual(a: WeightSource, b: WeightSource): Promise<boolean> {
  if (a.dtype !== b.dtype || String(a.shape) !== String(b.shape)) return false
  const byteCount = a.shape.reduce((count, length) => count * length, elementBytes(a.dtype))
  const buffers = [Buffer.alloc(chunkBytes), Buffer.alloc(chunkBytes)] as const
  return withFile(a, (one) =>
    withFile(b, async (other) => {
      for (let from = 0; from < byteCount; from += chunkBytes) {
        const count = Math.min(chunkBytes, byteCount - from)
        await Promise.all([readAt(one, buffers[0], a.offset + from, count), readAt(other, buffers[1], b.offset + from, count)])
        if (buffers[0].compare(buffers[1], 0, count, 0, count) !== 0) return false
      }
      return true
    })
  )
}

interface Stored {
  path: string
  handle: FileHandle
}

async function withFile<T>({ source }: WeightSource, use: (file: Stored) => Promise<T>): Promise<T> {
  const { path } = source as { path: string }
  const handle = await open(path).catch((cause: unknown) => {
    throw new HeddleError('corrupt_file', `${path}: expected a file that can be read: ${messageOf(cause)}`, { cause })
  })
  try {
    return await use({ path, handle })
  } finally {
    await handle.close()
  }
}

async function readAt({ path, handle }: Stored, buffer: Buffer, offset: number, count: number): Promise<void> {
  const { bytesRead } = await handle.read(buffer, 0, count, offset)
  if (bytesRead !== count) throw new HeddleError('corrupt_file', `${path}: expected ${count} bytes at ${offset}, got ${bytesRead}`)
}
