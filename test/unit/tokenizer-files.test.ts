// A tokenizer's files are untrusted: each bad one is a HeddleError that names the file.
import * as fs from 'node:fs'
import * as path from 'node:path'
import { AutoTokenizer } from '../../lib/tokenizer/tokenizer'
import { hasTokenizer } from '../../lib/tokenizer/tokenizer-files'
import { llama2StyleTokenizer, makeFolder, randomNumbers, removeFolder, tinyFolder } from '../support/tokenizer-folders'

type Json = Record<string, any>

const folders: string[] = []
afterAll(() => folders.forEach(removeFolder))

function folderWith(files: Record<string, unknown>): string {
  const folder = makeFolder(files)
  folders.push(folder)
  return folder
}

function changed(change: (json: Json) => void): Json {
  const json = llama2StyleTokenizer() as Json
  change(json)
  return json
}

async function failure(folder: unknown): Promise<{ code: string; message: string }> {
  return AutoTokenizer.fromPretrained(folder as string).then(
    () => {
      throw new Error('expected a failure')
    },
    (error) => error
  )
}

test.each([[undefined], [''], [5], [null]])('a folder named %p is refused', async (folder) => {
  expect(await failure(folder)).toMatchObject({ name: 'HeddleError', code: 'invalid_argument' })
})

test('a folder that is not there, or is a file, is refused and named', async () => {
  const missing = path.join(tinyFolder, 'nowhere')
  expect(await failure(missing)).toMatchObject({ code: 'invalid_argument', message: expect.stringContaining(missing) })
  const file = path.join(tinyFolder, 'config.json')
  expect(await failure(file)).toMatchObject({ code: 'invalid_argument', message: expect.stringContaining('got a file') })
})

test('a folder without a tokenizer is refused and can be told apart before', async () => {
  const folder = folderWith({ 'config.json': {} })
  expect(await failure(folder)).toMatchObject({ code: 'invalid_argument', details: { missing: path.join(folder, 'tokenizer.json') } })
  expect(await hasTokenizer(folder)).toBe(false)
  expect(await hasTokenizer(tinyFolder)).toBe(true)
})

test('tokenizer.json alone is enough', async () => {
  const tokenizer = await AutoTokenizer.fromPretrained(folderWith({ 'tokenizer.json': llama2StyleTokenizer() }))
  expect(tokenizer.hasChatTemplate).toBe(false)
  expect(tokenizer.eosTokenIds).toEqual([])
  expect(tokenizer.decode(tokenizer.encode('the loom'))).toBe('the loom')
})

test('older files that leave parts out are read', async () => {
  const json = changed((it) => {
    delete it.post_processor
    delete it.pre_tokenizer
    delete it.added_tokens
  })
  const tokenizer = await AutoTokenizer.fromPretrained(folderWith({ 'tokenizer.json': json }))
  expect(tokenizer.decode(tokenizer.encode('the loom'))).toBe('the loom')
})

describe('a malformed tokenizer.json is corrupt_file', () => {
  const cases: [string, unknown][] = [
    ['an empty file', ''],
    ['no JSON', '{"model": '],
    ['not UTF-8', Uint8Array.of(0x7b, 0xff, 0x7d)],
    ['a list', '[]'],
    ['null', 'null'],
    ['no model', {}],
    [
      'a model that is a text',
      changed((json) => {
        json.model = 'BPE'
      })
    ],
    [
      'no vocabulary',
      changed((json) => {
        delete json.model.vocab
      })
    ],
    [
      'an id that is a text',
      changed((json) => {
        json.model.vocab.x = 'length'
      })
    ],
    [
      'a negative id',
      changed((json) => {
        json.model.vocab.x = -1
      })
    ],
    [
      'a fractional id',
      changed((json) => {
        json.model.vocab.x = 1.5
      })
    ],
    [
      'an id far too large',
      changed((json) => {
        json.model.vocab.x = 4294967294
      })
    ],
    [
      'no merges',
      changed((json) => {
        delete json.model.merges
      })
    ],
    [
      'merges that are numbers',
      changed((json) => {
        json.model.merges = [1, 2]
      })
    ],
    [
      'merges of three',
      changed((json) => {
        json.model.merges = [['a', 'b', 'c']]
      })
    ],
    [
      'added tokens that are no list',
      changed((json) => {
        json.added_tokens = {}
      })
    ],
    [
      'an added token without a text',
      changed((json) => {
        json.added_tokens.push({ id: 5 })
      })
    ],
    [
      'an added token with an empty text',
      changed((json) => {
        json.added_tokens.push({ id: 5, content: '' })
      })
    ],
    [
      'an added token with a huge id',
      changed((json) => {
        json.added_tokens.push({ id: 2 ** 40, content: 'x' })
      })
    ],
    [
      'a decoder that is a text',
      changed((json) => {
        json.decoder = 'ByteLevel'
      })
    ],
    [
      'normalizers that are numbers',
      changed((json) => {
        json.normalizer = { type: 'Sequence', normalizers: [1] }
      })
    ],
    [
      'a bad regular expression',
      changed((json) => {
        json.pre_tokenizer = { type: 'Split', pattern: { Regex: '(' } }
      })
    ],
    [
      'a scored vocabulary without scores',
      changed((json) => {
        json.model = { type: 'Unigram', vocab: [['a']], unk_id: 0 }
      })
    ]
  ]
  test.each(cases)('%s', async (_, content) => {
    const folder = folderWith({ 'tokenizer.json': content })
    const error = await failure(folder)
    expect(error).toMatchObject({ name: 'HeddleError', message: expect.stringContaining(path.join(folder, 'tokenizer.json')) })
    expect(['corrupt_file', 'unsupported_model']).toContain(error.code)
  })
})

test('a part that is not known is unsupported_model and named', async () => {
  const json = changed((it) => {
    it.pre_tokenizer = { type: 'Telepathy' }
  })
  const folder = folderWith({ 'tokenizer.json': json })
  expect(await failure(folder)).toMatchObject({ code: 'unsupported_model', message: expect.stringContaining('Telepathy') })
})

test('deep nesting is an error, not a crash', async () => {
  const depth = 100_000
  const nested = `${'{"type":"Sequence","normalizers":['.repeat(depth)}${']}'.repeat(depth)}`
  const text = JSON.stringify(
    changed((json) => {
      json.normalizer = { here: 1 }
    })
  ).replace('{"here":1}', nested)
  expect((await failure(folderWith({ 'tokenizer.json': text }))).code).toBe('corrupt_file')
})

test('names that mean something to JavaScript are tokens like any other', async () => {
  const json = JSON.stringify(llama2StyleTokenizer()).replace('"vocab":{', '"vocab":{"__proto__":400,"constructor":401,"toString":402,')
  const tokenizer = await AutoTokenizer.fromPretrained(folderWith({ 'tokenizer.json': json }))
  expect(tokenizer.tokenToId('__proto__')).toBe(400)
  expect(tokenizer.decode([400, 401, 402])).toBe('__proto__constructortoString')
  expect(tokenizer.tokenToId('hasOwnProperty')).toBeUndefined()
  expect(tokenizer.vocabSize).toBe(403)
})

test('a file above its size limit is refused unread', async () => {
  const folder = folderWith({ 'tokenizer.json': '{}' })
  fs.truncateSync(path.join(folder, 'tokenizer.json'), 200 * 2 ** 20) // a hole, not 200 MiB on disk
  expect(await failure(folder)).toMatchObject({ code: 'corrupt_file', message: expect.stringContaining('at most 128 MiB') })
})

test('a folder in the place of a file is refused', async () => {
  const folder = folderWith({ 'tokenizer.json': llama2StyleTokenizer() })
  fs.mkdirSync(path.join(folder, 'tokenizer_config.json'))
  expect(await failure(folder)).toMatchObject({ code: 'corrupt_file', message: expect.stringContaining('tokenizer_config.json') })
})

test('a malformed tokenizer_config.json is corrupt_file and named', async () => {
  const folder = folderWith({ 'tokenizer.json': llama2StyleTokenizer(), 'tokenizer_config.json': '{"eos_token"' })
  expect(await failure(folder)).toMatchObject({ code: 'corrupt_file', message: expect.stringContaining('tokenizer_config.json') })
})

test('special tokens of odd types are left alone', async () => {
  const config = { bos_token: null, eos_token: 7, unk_token: ['x'], additional_special_tokens: [1, null, { content: 'the' }, '<unk>'] }
  const folder = folderWith({ 'tokenizer.json': llama2StyleTokenizer(), 'tokenizer_config.json': config })
  const tokenizer = await AutoTokenizer.fromPretrained(folder)
  expect(tokenizer.eosTokenIds).toEqual([])
  expect(tokenizer.encode('the loom')).toHaveLength(3)
})

test('a begin token that is not in the vocabulary is corrupt_file when it would be used', async () => {
  const json = changed((it) => {
    it.post_processor.single[0].SpecialToken.id = '<begin>'
    it.model.unk_token = null
  })
  const tokenizer = await AutoTokenizer.fromPretrained(folderWith({ 'tokenizer.json': json }))
  expect(() => tokenizer.encode('the')).toThrow(expect.objectContaining({ code: 'corrupt_file' }))
  expect(tokenizer.encode('the', { addSpecialTokens: false })).toHaveLength(1)
})

// found by test/fuzz
test.each([
  ['a behaviour that is a list', (it: any) => { it.pre_tokenizer = { type: 'Split', pattern: { String: ' ' }, behavior: ['Isolated'], invert: false } }],
  ['a template that holds a number', (it: any) => { it.post_processor.single = [0.5] }],
  ['an id that is true', (it: any) => { it.post_processor.single[0].SpecialToken.id = '<s>'; it.model.unk_token = true; it.model.byte_fallback = false }]
])('%s shows when a text comes by: corrupt_file, or ids', async (_, change) => {
  const tokenizer = await AutoTokenizer.fromPretrained(folderWith({ 'tokenizer.json': changed(change) })).catch((error) => {
    expect(error).toMatchObject({ name: 'HeddleError' })
  })
  if (!tokenizer) return
  try {
    expect(tokenizer.encode('the loom\u00e9 %').every(Number.isInteger)).toBe(true)
  } catch (error) {
    expect(error).toMatchObject({ name: 'HeddleError', code: 'corrupt_file' })
  }
})

test('any damage to a file gives a tokenizer or a HeddleError', async () => {
  const original = JSON.stringify(llama2StyleTokenizer())
  const random = randomNumbers(11)
  const folder = folderWith({})
  const counts = { read: 0, refused: 0 }
  for (let round = 0; round < 150; round++) {
    const at = random(original.length)
    const pieces = ['', '"', '{', '}', '[', ']', '0', '-1', 'null', '9e9', ',', ':']
    const damaged = original.slice(0, at) + pieces[random(pieces.length)] + original.slice(at + random(12))
    fs.writeFileSync(path.join(folder, 'tokenizer.json'), damaged)
    try {
      await AutoTokenizer.fromPretrained(folder)
      counts.read++
    } catch (error) {
      expect(error).toMatchObject({ name: 'HeddleError' })
      counts.refused++
    }
  }
  expect(counts.refused).toBeGreaterThan(50)
  expect(counts.read).toBeGreaterThan(0)
})
