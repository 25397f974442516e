// A checkpoint is one file or several with an index; the index is untrusted and never leads out of the folder.
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { isSafeFileName } from '../../lib/checks'
import { Checkpoint } from '../../lib/models/checkpoint'
import { writeSafetensors } from '../support/safetensors-file'

let folder = ''
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'heddle-checkpoint-'))
})
afterEach(() => rm(folder, { recursive: true }))

const index = (weightMap: Record<string, unknown>) =>
  writeFile(path.join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: weightMap }))
const a = { a: { dtype: 'F32', shape: [2], data: new Uint8Array(8) } }
const b = { b: { dtype: 'BF16', shape: [3, 1], data: new Uint8Array(6) } }

test('one file: where each tensor is, and the data type of most bytes', async () => {
  await writeSafetensors(path.join(folder, 'model.safetensors'), { ...a, ...b })
  const checkpoint = await Checkpoint.open(folder)
  expect(checkpoint.names.sort()).toEqual(['a', 'b'])
  expect(checkpoint.dtype).toBe('float32')
  const { shape, dtype, source, offset } = checkpoint.tensor('b')
  expect({ shape, dtype, source }).toEqual({ shape: [3, 1], dtype: 'bfloat16', source: { path: path.join(folder, 'model.safetensors') } })
  expect(offset - checkpoint.tensor('a').offset).toBe(8)
})

test('several files with an index', async () => {
  await mkdir(path.join(folder, 'sub'))
  await writeSafetensors(path.join(folder, 'one.safetensors'), a)
  await writeSafetensors(path.join(folder, 'sub', 'two.safetensors'), b)
  await index({ a: 'one.safetensors', b: 'sub/two.safetensors' })
  const checkpoint = await Checkpoint.open(folder)
  expect(checkpoint.tensor('b').source).toEqual({ path: path.join(folder, 'sub', 'two.safetensors') })
})

test('a missing tensor and a dtype that is no weight are named', async () => {
  await writeSafetensors(path.join(folder, 'model.safetensors'), { i: { dtype: 'I64', shape: [1], data: new Uint8Array(8) } })
  const checkpoint = await Checkpoint.open(folder)
  expect(() => checkpoint.tensor('x')).toThrow(
    expect.objectContaining({ code: 'corrupt_file', message: expect.stringMatching(/"x" is missing/) })
  )
  expect(() => checkpoint.tensor('i')).toThrow(
    expect.objectContaining({ code: 'unsupported_model', message: expect.stringMatching(/"i".*I64/) })
  )
})

describe('refused', () => {
  const expectCorrupt = (pattern: RegExp) =>
    expect(Checkpoint.open(folder)).rejects.toMatchObject({ code: 'corrupt_file', message: expect.stringMatching(pattern) })

  test('no weights', () => expectCorrupt(/neither model\.safetensors nor/))
  test('no folder', () => expect(Checkpoint.open(path.join(folder, 'none'))).rejects.toMatchObject({ code: 'invalid_argument' }))

  test('an index without weight_map, or that is no JSON', async () => {
    await writeFile(path.join(folder, 'model.safetensors.index.json'), '{}')
    await expectCorrupt(/weight_map/)
    await writeFile(path.join(folder, 'model.safetensors.index.json'), '{"weight_map": {"a": "x", "a": "y"}}')
    await expectCorrupt(/duplicate/)
  })

  test('an index that names a missing file, or a file without the tensor', async () => {
    await writeSafetensors(path.join(folder, 'one.safetensors'), a)
    await index({ a: 'one.safetensors', b: 'two.safetensors' })
    await expectCorrupt(/two\.safetensors.*missing/)
    await index({ a: 'one.safetensors', b: 'one.safetensors' })
    await expectCorrupt(/"b" is not in one\.safetensors/)
  })

  test('a tensor that two files have', async () => {
    await writeSafetensors(path.join(folder, 'one.safetensors'), a)
    await cp(path.join(folder, 'one.safetensors'), path.join(folder, 'two.safetensors'))
    await writeSafetensors(path.join(folder, 'two.safetensors'), { ...a, ...b })
    await index({ a: 'one.safetensors', b: 'two.safetensors' })
    await expectCorrupt(/"a" is a duplicate/)
  })

  test('a file name that is none', async () => {
    await index({ a: 1 })
    await expectCorrupt(/inside the folder/)
  })
})

const hostile = [
  '',
  '.',
  '..',
  '../x',
  'a/../x',
  'a/..',
  '/etc/passwd',
  '//server/share',
  '\\\\server\\share\\x',
  'C:\\x',
  'C:x',
  'c:/x',
  'a\\..\\b',
  '..\\x',
  'x\0y',
  'a//b',
  'a/./b',
  './x',
  'a/',
  'x:stream',
  'con/..',
  'file:///etc/passwd',
  '.. /x',
  '.../x',
  '..../x',
  'a/.. /b',
  'x.',
  'x ',
  'a /b',
  'x\n',
  '\u007f',
  'x\ty',
  '/',
  '\\',
  '\\x',
  '~\\x',
  'a\\b',
  '%2e%2e\\x',
  '\\\\?\\C:\\x',
  '\\\\.\\pipe\\x',
  'x/\u0000',
  '../../../../../../etc/shadow',
  'a/b/../../../c',
  'x'.repeat(2000)
]
test.each(hostile)('refused as a file name: %j', (name) => expect(isSafeFileName(name)).toBe(false))

test.each(['model-00001-of-00002.safetensors', 'a/b.safetensors', '..x', 'x..y', '.hidden', '%2e%2e', 'modèle.safetensors'])(
  'accepted as a file name: %j',
  (name) => expect(isSafeFileName(name)).toBe(true)
)

test.each(hostile)('an index with it opens nothing: %j', async (name) => {
  await index({ a: name })
  await expect(Checkpoint.open(folder)).rejects.toMatchObject({ code: 'corrupt_file', message: expect.stringMatching(/inside the folder/) })
})
