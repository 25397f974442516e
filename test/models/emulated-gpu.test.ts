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

test.each(checks)('gpu-check finds $name right at size $size on one emulated GPU', ({ name, size }) => {
  const script = path.join(repository, 'scripts/gpu-check-models.js')
  const args = ['--only', 'golden', '--cases', name, '--sizes', String(size)]
  const env = { ...process.env, ...environmentOf({ memory: 8 * 2 ** 30 }) }
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...args], { env, encoding: 'utf8', timeout: 19 * minutes })
  expect({ status, stdout, stderr }).toMatchObject({ status: 0, stderr: '' })
  expect(stdout.match(/^ok /gm)).toHaveLength(3) // logits and greedy tokens in float32, agreement in bfloat16
}, 20 * minutes)
