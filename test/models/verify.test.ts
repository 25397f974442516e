// Whether splitting changes a model: nothing departs for sound checkpoints, and a wrong slice is found and named.
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { open } from 'node:fs/promises'
import path from 'node:path'
import { compareOutputs, verifyTensorParallel } from '../../lib/generation/verify'
import { planTensorParallel } from '../../lib/planning/plan'
import { golden, repository, tinyModel, withCopy } from '../support/models'
import { readSafetensorsHeader } from '../../lib/models/safetensors'

// At these sizes, these folders in place of the one that was asked for: a size whose ranks hold something else than they should.
const foldersBySize = new Map<number, string>()
jest.mock('../../lib/generation/load-model', () => {
  const actual = jest.requireActual('../../lib/generation/load-model') as typeof import('../../lib/generation/load-model')
  const loadModel: typeof actual.loadModel = (folder, options) => actual.loadModel(foldersBySize.get(options.tpSize!) ?? folder, options)
  return { ...actual, loadModel }
})
afterEach(() => foldersBySize.clear())

const cases = readdirSync(golden('.'), { withFileTypes: true }).filter((entry) => entry.isDirectory()).map(({ name }) => name)
const heddle = (...args: string[]) => spawnSync(process.execPath, ['dist/cli/main.js', 'verify', ...args], { cwd: repository, encoding: 'utf8' })

test('there are cases', () => expect(cases.length).toBeGreaterThan(4))

test.each(cases)('%s: nothing departs at any size up to 8', async (name) => {
  const { validSizes } = await planTensorParallel(golden(name))
  const sizes = validSizes.filter((size) => size <= 8)
  expect(sizes.length).toBeGreaterThanOrEqual(4)
  const found = await verifyTensorParallel(golden(name), { device: 'cpu', dtype: 'float32', sizes })
  expect(found).toMatchObject({ passed: true, referenceSize: 1, dtype: 'float32' })
  expect(found.sizes.map(({ tpSize }) => tpSize)).toEqual(sizes.slice(1))
  for (const { modules, sameTopToken } of found.sizes) {
    expect(modules.length).toBeGreaterThan(4)
    expect(modules.at(-1)!.module).toBe('logits')
    expect(modules.every(({ difference }) => difference < 1e-4)).toBe(true)
    expect(sameTopToken).toBe(1)
  }
})

/** Doubles the second half of the columns of a matrix: the slice that the second of two ranks holds of a row-parallel weight. */
async function breakSlice(folder: string, tensor: string): Promise<void> {
  const { path: file, tensors } = await readSafetensorsHeader(path.join(folder, 'model.safetensors'))
  const { offset, shape: [rows, columns], dtype } = tensors.get(tensor)!
  expect(dtype).toBe('F32')
  const handle = await open(file, 'r+')
  const bytes = Buffer.alloc(4 * rows! * columns!)
  await handle.read(bytes, 0, bytes.length, offset)
  for (let row = 0; row < rows!; row++) {
    for (let column = columns! / 2; column < columns!; column++) {
      const at = 4 * (row * columns! + column)
      bytes.writeFloatLE(2 * bytes.readFloatLE(at), at)
    }
  }
  await handle.write(bytes, 0, bytes.length, offset)
  await handle.close()
}

test.each(['self_attn.o_proj', 'mlp.down_proj'])('a broken slice of layer 1, %s, is found at its size and named, and nothing before it', async (name) => {
  const tensor = `model.layers.1.${name}.weight`
  await withCopy(golden('llama'), (copy) => breakSlice(copy, tensor), async (copy) => {
    foldersBySize.set(2, copy)
    const { passed, sizes: [broken, sound] } = await verifyTensorParallel(golden('llama'), { device: 'cpu', sizes: [1, 2, 4] })
    expect(passed).toBe(false)
    expect(tensor.startsWith(broken!.firstDeparture!.module)).toBe(true)
    expect(broken!.firstDeparture!.difference).toBeGreaterThan(0.1)
    expect(sound!.firstDeparture).toBeUndefined()
  })
})

test('a NaN departs', () => {
  const outputs = (value: number) => new Map([['model.embed_tokens', Float32Array.of(1, 2)], ['logits', Float32Array.of(value, 0)]])
  expect(compareOutputs(outputs(1), outputs(NaN), 1, 2).firstDeparture).toMatchObject({ module: 'logits' })
  expect(compareOutputs(outputs(1), outputs(1), 0, 2)).toEqual({
    modules: ['model.embed_tokens', 'logits'].map((module) => ({ module, difference: 0, largest: 0, differing: 0 })),
    sameTopToken: 1
  })
})

test('with a tolerance of 0 the sign of a zero departs, with any other not', () => {
  const outputs = (value: number) => new Map([['logits', Float32Array.of(value, 1)]])
  expect(compareOutputs(outputs(0), outputs(-0), 0, 2).firstDeparture).toEqual({ module: 'logits', difference: 0, largest: 0, differing: 1 })
  expect(compareOutputs(outputs(0), outputs(-0), 1e-9, 2).firstDeparture).toBeUndefined()
})

test.each(['qwen3', 'gpt2', 'mixtral'])('%s, reproducible: no bit departs in any module', async (name) => {
  const found = await verifyTensorParallel(golden(name), { device: 'cpu', sizes: [1, 2, 4, 8], reproducible: true })
  expect(found).toMatchObject({ passed: true, tolerance: 0, reproducible: true })
  expect(found.sizes.map(({ tpSize, modules }) => [tpSize, modules.every(({ differing }) => differing === 0)])).toEqual([[2, true], [4, true], [8, true]])
})

test.each([
  [{ sizes: [1] }, /sizes/], [{ tolerance: -1 }, /tolerance/], [{ prompt: [] }, /prompt/], [{ prompt: [-1] }, /prompt/], [{ prompt: 'x' }, /no tokenizer/],
  [{ tpSize: 2 }, /expected options sizes, prompt, tolerance, .*, got tpSize/], [{ sizes: [1, 5] }, /valid sizes: 1, 2, 3, 4$/], [{ sizes: [1, 3], strict: true }, /valid sizes: 1, 2, 4$/]
])('%j is refused', async (options, message) => {
  await expect(verifyTensorParallel(golden('llama'), { device: 'cpu', ...options } as object)).rejects.toMatchObject({ code: 'invalid_argument', message: expect.stringMatching(message) })
})

test('what a plan does not name is told once, whatever the sizes', async () => {
  const warned = jest.spyOn(process, 'emitWarning').mockImplementation()
  try {
    await verifyTensorParallel(golden('llama'), { device: 'cpu', sizes: [1, 2, 4], tpPlan: { 'layers.*': 'replicate', lm_head: 'replicate' } })
    expect(warned.mock.calls).toEqual([[expect.stringContaining('no rule for "embed_tokens"'), { type: 'HeddleWarning', code: 'HEDDLE_TP_PLAN' }]])
  } finally {
    warned.mockRestore()
  }
})

test.each([null, 5, []])('options that are %j', async (options) => {
  await expect(verifyTensorParallel(golden('llama'), options as never)).rejects.toMatchObject({ code: 'invalid_argument', message: expect.stringMatching(/options: expected an object/) })
})

test('the command: a verdict for each size, exit code 0 or 1, usage 2', async () => {
  const passed = heddle('--model', tinyModel, '--tp', '1,2,4', '--prompt', 'Once upon a time')
  expect(passed).toMatchObject({ status: 0, stderr: '' })
  expect(passed.stdout).toMatch(/size 2: nothing departs[^]*size 4: nothing departs[^]*passed\n$/)
  const failed = heddle('--model', tinyModel, '--tp', '1,2', '--tolerance', '0', '--json')
  expect(failed.status).toBe(1)
  const found = JSON.parse(failed.stdout) as { passed: boolean; sizes: { firstDeparture: { module: string } }[] }
  expect(found.passed).toBe(false)
  expect(found.sizes[0]!.firstDeparture.module).toMatch(/^model\.layers\.0\./) // the embedding is a sum with zeros: exact
  expect(heddle('--model', tinyModel, '--tp', '2').status).toBe(2)
  const same = heddle('--model', tinyModel, '--tp', '1,2,4', '--reproducible')
  expect(same).toMatchObject({ status: 0, stderr: '' })
  expect(same.stdout).toMatch(/reproducible, against size 1, compared bit for bit\nsize 2: nothing departs: the same bits in every module;/)
})
