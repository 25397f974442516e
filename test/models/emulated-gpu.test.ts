// The check of `npm run gpu-check` that reference cases come out right, run on the emulator: several ranks on one GPU, graphs and all.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { environmentOf } from '../support/emulated-cuda'
import { repository } from '../support/models'

const minutes = 60_000

const checks: { name: string; size: number }[] = [
  { name: 'qwen3', size: 4 },
  { name: 'qwen3', size: 3 }, // ranks with different heads and widths
  { name: 'gpt2-untied', size: 2 }, // positions, LayerNorm, two-matrix MLP
  { name: 'gemma3-text-and-images', size: 2 }, // norms around everything, scaled embeddings, windows
  { name: 'mixtral-fused', size: 2 } // experts
]

/** Runs a part of the check; gives how many lines say that something is right. */
function gpuCheck(args: string[], devices = 1): number {
  const script = path.join(repository, 'scripts/gpu-check-models.js')
  const env = { ...process.env, ...environmentOf({ devices, memory: 8 * 2 ** 30 }) }
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...args], { env, encoding: 'utf8', timeout: 19 * minutes })
  expect({ status, stdout, stderr }).toMatchObject({ status: 0, stderr: '' })
  return stdout.match(/^ok /gm)?.length ?? 0
}

test.each(checks)('gpu-check finds $name right at size $size on one emulated GPU', ({ name, size }) => {
  // logits and greedy tokens in float32, agreement in bfloat16
  expect(gpuCheck(['--only', 'golden', '--cases', name, '--sizes', String(size)])).toBe(3)
}, 20 * minutes)

const reference = 3 // as above, at size 1
const reproducible = [
  { name: 'qwen3', lines: 2 * 3 + reference }, // two data types at sizes 2, 4 and 8
  { name: 'llama', lines: 2 * 2 + reference }, // four heads: no size 8
  { name: 'gpt2', lines: 2 * 3 + reference },
  { name: 'gemma3', lines: 2 * 2 + reference }, // norms of sums, which at size 1 are no sums of ranks
  { name: 'mixtral', lines: 2 * (2 * 3 + reference) } // experts in parts, and whole ones
]

test.each(reproducible)('gpu-check finds the same bits of $name at every size on one emulated GPU', ({ name, lines }) => {
  expect(gpuCheck(['--only', 'reproducible', '--cases', name, '--sizes', '1,2,4,8'])).toBe(lines)
}, 20 * minutes)

test('gpu-check finds the same bits on eight emulated GPUs over NCCL', () => {
  const args = ['--only', 'reproducible', '--cases', 'qwen3', '--sizes', '1,2,8', '--devices', '0,1,2,3,4,5,6,7', '--communicator', 'nccl']
  expect(gpuCheck(args, 8)).toBe(2 * 2 + reference)
}, 20 * minutes)
