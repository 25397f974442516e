// What each rank holds and reads: its share of the weights plus what is replicated by rule, and little more of the files than that.
import { Checkpoint } from '../../lib/models/checkpoint'
import type { ModelConfig } from '../../lib/models/config'
import type { DType } from '../../lib/native'
import { golden, tinyModel, withModel } from '../support/models'

const bytesOf: Record<DType, number> = { float32: 4, bfloat16: 2, float16: 2 }

/** The rule, written out once more and without looking at layers: bytes of one rank's weights in memory, and in the file. */
function expectedBytes(config: ModelConfig, size: number, memory: DType, file: DType): { memory: number; file: number } {
  const { hiddenSize, headCount, kvHeadCount, headDim, intermediateSize, vocabSize, layerCount } = config
  const kvHeads = Math.max(1, kvHeadCount / size) // replicated where the size exceeds them
  const width = (headCount / size + 2 * kvHeads) * headDim // of queries, keys and values
  const outputs = width + (2 * intermediateSize) / size
  const matrices =
    layerCount * (hiddenSize * width + (headCount * headDim * hiddenSize) / size + (3 * hiddenSize * intermediateSize) / size)
  const vectors =
    hiddenSize +
    layerCount *
      (2 * hiddenSize +
        (config.queryKeyNorm ? 2 * headDim : 0) +
        (config.attentionBias ? width + hiddenSize : 0) +
        (config.mlpBias ? outputs - width + hiddenSize : 0))
  const tables = config.tieWordEmbeddings ? 1 : 2 // a tied head shares the embedding's shard
  const rows = Math.ceil(vocabSize / size)
  return {
    // norms, biases and the rotary table are float32
    memory: (matrices + tables * rows * hiddenSize) * bytesOf[memory] + vectors * 4 + (headDim / 2) * 4,
    file: (matrices + tables * rows * hiddenSize + vectors) * bytesOf[file]
  }
}

const cases: [string, string, DType, number[]][] = [
  ['heddle-tiny', tinyModel, 'bfloat16', [1, 2, 4, 8]],
  ['heddle-tiny', tinyModel, 'float32', [1, 2]],
  ['qwen3-tied-sharded', golden('qwen3-tied-sharded'), 'float32', [1, 2, 4, 8]],
  ['llama', golden('llama'), 'float32', [1, 2, 4]],
  ['mqa-llama', golden('mqa-llama'), 'float32', [1, 2, 4, 8]]
]

describe.each(cases)('%s', (_, folder, dtype, sizes) => {
  test.each(sizes)('computing in its data type or float32, at size %i', async (tpSize) => {
    const checkpoint = await Checkpoint.open(folder)
    await withModel(folder, { tpSize, dtype, maxTokens: 64 }, async (model) => {
      // float32 compute keeps a bfloat16 checkpoint as it is
      const expected = expectedBytes(model.config, tpSize, checkpoint.dtype, checkpoint.dtype)
      const { ranks, cacheTokens } = model.info()
      expect(ranks).toHaveLength(tpSize)
      expect(cacheTokens).toBe(64)
      const kvHeads = Math.max(1, model.config.kvHeadCount / tpSize)
      const cacheBytes = 2 * 64 * kvHeads * model.config.headDim * model.config.layerCount * bytesOf[dtype]
      for (const rank of ranks) {
        expect(rank.weightBytes).toBe(expected.memory)
        expect(rank.fileBytesUsed).toBe(expected.file)
        expect(rank.fileBytesRead).toBeLessThanOrEqual(expected.file * 1.5 + 65536)
        expect(rank.cacheBytes).toBe(cacheBytes)
      }
    })
  })
})

test('all ranks together hold the model once, plus norms and the rotary table once per rank more', async () => {
  const weights = async (tpSize: number) =>
    withModel(tinyModel, { tpSize }, async (model) => model.info().ranks.reduce((sum, rank) => sum + rank.weightBytes, 0))
  const [one, four] = [await weights(1), await weights(4)]
  const { layerCount, hiddenSize, headDim } = await withModel(tinyModel, {}, async (model) => model.config)
  const replicated = (hiddenSize + layerCount * (2 * hiddenSize + 2 * headDim) + headDim / 2) * 4
  expect(four).toBe(one + 3 * replicated)
})

test('a vocabulary of 320 is padded at sizes 3, 6 and 12, in memory and nowhere else', async () => {
  const ids = [[5, 17, 300, 319, 0]]
  const whole = await withModel(golden('llama3-rope-gqa'), {}, (model) => model.forward(ids))
  for (const tpSize of [3, 6, 12]) {
    await withModel(golden('llama3-rope-gqa'), { tpSize }, async (model) => {
      const { logits, shape } = await model.forward(ids)
      expect(shape).toEqual([1, 5, 320])
      logits.forEach((value, index) => {
        if (!(Math.abs(value - whole.logits[index]!) <= 2e-4)) throw new Error(`logit ${index}: ${value}, expected ${whole.logits[index]}`)
      })
      const sampled = await model.generate(ids[0]!, { maxNewTokens: 60, temperature: 100, seed: 1, ignoreEos: true })
      expect(sampled.tokenIds.every((id) => id < 320)).toBe(true)
    })
  }
})

describe('families whose weights lie otherwise in the file', () => {
  test.each([1, 2, 4, 8])('gpt2 at size %i: transposed and fused, a table of positions', async (tpSize) => {
    await withModel(golden('gpt2'), { tpSize, dtype: 'float32', maxTokens: 64 }, (model) => {
      const [hidden, inner, vocab, positions, layers] = [64, 256, 320, 256, 3]
      const matrices = layers * (4 * hidden * hidden + 2 * hidden * inner)
      const tables = (Math.ceil(vocab / tpSize) + Math.ceil(positions / tpSize)) * hidden
      const vectors = 2 * hidden + layers * (4 * hidden + (3 * hidden) / tpSize + hidden + inner / tpSize + hidden)
      for (const rank of model.info().ranks) {
        expect(rank.weightBytes).toBe(4 * (matrices / tpSize + tables + vectors))
        expect(rank.fileBytesUsed).toBe(rank.weightBytes)
        expect(rank.fileBytesRead).toBeLessThanOrEqual(2 * rank.fileBytesUsed)
      }
      return Promise.resolve()
    })
  })

  test.each([
    [1, false],
    [4, false],
    [4, true],
    [8, true]
  ])('qwen3-moe at size %i, expertParallel %s: the router whole, of the experts a share', async (tpSize, expertParallel) => {
    await withModel(golden('qwen3-moe'), { tpSize, dtype: 'float32', maxTokens: 64, expertParallel }, (model) => {
      const [hidden, inner, experts, vocab, heads, headDim, layers] = [64, 48, 8, 320, 8, 16, 2]
      const kvHeads = Math.max(1, 4 / tpSize)
      const attention = 2 * hidden * (heads / tpSize + kvHeads) * headDim
      const mixture = (experts * 3 * hidden * inner) / tpSize + experts * hidden
      const vectors = hidden + layers * (2 * hidden + 2 * headDim)
      const elements = layers * (attention + mixture) + (2 * vocab * hidden) / tpSize + vectors
      for (const rank of model.info().ranks) {
        expect(rank.weightBytes).toBe(4 * (elements + headDim / 2))
        expect(rank.fileBytesUsed).toBe(4 * elements)
      }
      return Promise.resolve()
    })
  })
})

test('progress counts every byte of the checkpoint once, up to the total', async () => {
  const seen: { loadedBytes: number; totalBytes: number; tensor: string }[] = []
  await withModel(tinyModel, { tpSize: 2, onProgress: (progress) => { if (progress.phase === 'load') seen.push(progress) } }, async () => {})
  expect(seen.length).toBeGreaterThan(10)
  expect(seen.map(({ loadedBytes }) => loadedBytes)).toEqual(seen.map(({ loadedBytes }) => loadedBytes).toSorted((a, b) => a - b))
  expect(seen.at(-1)).toMatchObject({ loadedBytes: 10493184, totalBytes: 10493184, tensor: 'model.norm.weight' })
})
