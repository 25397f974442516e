// The check of `npm run gpu-check` that a reference case comes out right, run on the emulator: four ranks on one GPU, graphs and all.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { environmentOf } from '../support/emulated-cuda'
import { repository } from '../support/models'

const minutes = 60_000

test('gpu-check finds a reference case right at size 4 on one emulated GPU', () => {
  const script = path.join(repository, 'scripts/gpu-check-models.js')
  const args = ['--only', 'golden', '--cases', 'qwen3', '--sizes', '4']
  const env = { ...process.env, ...environmentOf({ memory: 8 * 2 ** 30 }) }
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...args], { env, encoding: 'utf8', timeout: 19 * minutes })
  expect({ status, stdout, stderr }).toMatchObject({ status: 0, stderr: '' })
  expect(stdout.match(/^ok /gm)).toHaveLength(3) // logits and greedy tokens in float32, agreement in bfloat16
}, 20 * minutes)
