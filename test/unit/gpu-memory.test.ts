// How large a cache becomes on GPUs, and what is said where a model does not fit.
import type { HeddleError } from '../../lib/errors'
import { planGpuCacheTokens, workspaceEstimate } from '../../lib/models/gpu-memory'
import type { DecoderPlan } from '../../lib/models/plan-parts'
import type { GpuMemory, GpuShare } from '../../lib/models/gpu-memory'
import type { ModelConfig } from '../../lib/models/config'

const wish = { contextTokens: 1000, sequences: 4, blockSize: 16 }

const share = (rank: number, device: number, of: Partial<GpuShare> = {}): GpuShare => ({
  rank, device, weightBytes: 1000, workspaceBytes: 100, cacheBytesPerToken: 2, ...of
})

const gpus = (...memory: [totalBytes: number, freeBytes: number][]) => (device: number): GpuMemory => {
  const [totalBytes, freeBytes] = memory[device]!
  return { totalBytes, freeBytes }
}

function refused(plan: () => number): HeddleError {
  try {
    plan()
  } catch (error) {
    return error as HeddleError
  }
  throw new Error('expected a refusal')
}

test('an empty GPU: the part that may be used, without weights and workspace, in whole blocks', () => {
  // 0.5 * 10000 - 1100 = 3900 bytes: 1950 tokens, 121 blocks
  expect(planGpuCacheTokens([share(0, 0)], gpus([10000, 10000]), 0.5, wish)).toBe(121 * 16)
})

test('what others use counts against the part that may be used', () => {
  expect(planGpuCacheTokens([share(0, 0)], gpus([10000, 9000]), 0.5, wish)).toBe(90 * 16) // 2900 bytes
})

test('no more than every sequence can fill', () => {
  expect(planGpuCacheTokens([share(0, 0)], gpus([1e9, 1e9]), 0.9, wish)).toBe(4000)
  expect(planGpuCacheTokens([share(0, 0)], gpus([1e9, 1e9]), 0.9, { ...wish, maxTokens: 17 })).toBe(32)
})

test('ranks of one GPU share it; the fullest GPU decides for all', () => {
  const all = [share(0, 0), share(1, 0), share(2, 1)]
  // GPU 0: 9000 - 2200 = 6800 bytes at 4 bytes a token: 1700; GPU 1: 4900 bytes at 2: 2450
  expect(planGpuCacheTokens(all, gpus([10000, 10000], [6000, 6000]), 1, wish)).toBe(Math.floor(7800 / 64) * 16)
  expect(planGpuCacheTokens(all, gpus([10000, 10000], [3000, 3000]), 1, wish)).toBe(Math.floor(1900 / 32) * 16)
})

test('a model that does not fit: the ranks, the GPU, the need and the free bytes', () => {
  const error = refused(() => planGpuCacheTokens([share(0, 0), share(1, 1), share(2, 1)], gpus([10000, 10000], [2000, 1500]), 0.9, wish))
  expect(error).toMatchObject({ code: 'out_of_memory' })
  expect(error.details).toEqual({ ranks: [1, 2], device: 1, neededBytes: 2200 + 64, freeBytes: 1500, totalBytes: 2000 })
  expect(error.message).toMatch(/ranks 1, 2 on GPU 1: expected .* MB \(weights .*, workspace .*, cache .*\), got .* MB free of .* MB, of which gpuMemoryUtilization 0\.9/)
})

test('a cache that was asked for is had or refused, never made smaller', () => {
  const memory = gpus([10000, 10000])
  expect(planGpuCacheTokens([share(0, 0)], memory, 0.5, { ...wish, maxTokens: 121 * 16 })).toBe(121 * 16)
  const error = refused(() => planGpuCacheTokens([share(0, 0)], memory, 0.5, { ...wish, maxTokens: 121 * 16 + 1 }))
  expect(error.details).toMatchObject({ ranks: [0], neededBytes: 1100 + 122 * 32 })
})

test('the workspace grows with the step and shrinks with the number of ranks', () => {
  const config = { hiddenSize: 4096, headCount: 32, kvHeadCount: 8, headDim: 128, intermediateSize: 12288, vocabSize: 151936 } as ModelConfig
  const limits = { maxTokens: 2048, maxSequences: 64 }
  const planned = (split: 'split' | 'replicate'): DecoderPlan => {
    const part = { split, rules: [] }
    return { attention: [part], mlp: [part], embedding: part, warnings: [], parts: [], resolved: [] }
  }
  const split = planned('split')
  const whole = workspaceEstimate(config, { size: 1 }, limits, split)
  expect(whole).toBeGreaterThan(2048 * 4 * (4096 + 2 * 12288)) // hidden states in float32 beside the inputs of the MLP's second half
  expect(whole).toBeLessThan(2 * 2 ** 30)
  expect(workspaceEstimate(config, { size: 8 }, limits, split)).toBeLessThan(whole)
  expect(workspaceEstimate(config, { size: 1 }, { ...limits, maxTokens: 4096 }, split)).toBeGreaterThan(whole)
  expect(workspaceEstimate(config, { size: 8 }, limits, planned('replicate'))).toBe(whole)
})
