// Tokenizers give the ids and the text of the reference implementation, on ordinary and on hostile text.
import { AutoTokenizer } from '../../lib/tokenizer/tokenizer'
import type { Tokenizer } from '../../lib/tokenizer/tokenizer'
import golden from '../golden/heddle-tiny.json'
import { gpt2StyleTokenizer, llama2StyleTokenizer, makeFolder, randomNumbers, removeFolder, tinyFolder } from '../support/tokenizer-folders'

describe('heddle-tiny', () => {
  let tokenizer: Tokenizer
  beforeAll(async () => {
    tokenizer = await AutoTokenizer.fromPretrained(tinyFolder)
  })

  test('the reference data is there', () => {
    expect(golden.tokenizer).toHaveLength(13)
    expect(golden.chat).toHaveLength(40)
  })

  test.each(golden.tokenizer)('encodes and decodes $text as the reference does', ({ text, ids, decoded }) => {
    expect(tokenizer.encode(text)).toEqual(ids)
    expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(decoded)
  })

  test('decodes the answers of the reference without the end token', () => {
    for (const { output_ids: ids, text } of golden.chat) {
      expect(ids.at(-1)).toBe(2047)
      expect(tokenizer.decode(ids)).toBe(text)
      expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(`${text}<|im_end|>`)
    }
  })

  test('knows its vocabulary and its end token', () => {
    expect(tokenizer.vocabSize).toBe(2048)
    expect(tokenizer.eosTokenIds).toEqual([2047])
    expect(tokenizer.hasChatTemplate).toBe(true)
    expect(tokenizer.tokenToId('<|im_start|>')).toBe(2046)
    expect(tokenizer.idToToken(2046)).toBe('<|im_start|>')
    expect(tokenizer.tokenToId('no such token')).toBeUndefined()
    expect(tokenizer.idToToken(2048)).toBeUndefined()
  })

  test('gives any text back', () => {
    const random = randomNumbers(1)
    for (let round = 0; round < 300; round++) {
      const text = Array.from({ length: random(40) }, () => String.fromCodePoint(random(2) ? 32 + random(95) : random(0xd800))).join('')
      expect(tokenizer.decode(tokenizer.encode(text), { skipSpecialTokens: false })).toBe(text)
    }
  })

  test('keeps spaces in front of punctuation', () => {
    const text = "a , b . c ? d ! it 's n't"
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text)
  })

  test('takes nothing for nothing', () => {
    expect(tokenizer.encode('')).toEqual([])
    expect(tokenizer.decode([])).toBe('')
    expect(tokenizer.decode([2047])).toBe('')
  })

  test('gives ids outside the vocabulary no text', () => {
    expect(tokenizer.decode([1115, 2048, 151935, 2 ** 31])).toBe(tokenizer.decode([1115]))
  })

  test.each([
    [[1.5], 'ids[0]'],
    [[3, -1], 'ids[1]'],
    [[1, 2, NaN], 'ids[2]'],
    [['4'], 'ids[0]'],
    ['text', 'a list'],
    [undefined, 'a list']
  ])('refuses to decode %p', (ids, named) => {
    const expected = { code: 'invalid_argument', message: expect.stringContaining(named) }
    expect(() => tokenizer.decode(ids as number[])).toThrow(expect.objectContaining(expected))
  })

  test.each([[undefined], [null], [5], [['a']]])('refuses to encode %p', (text) => {
    expect(() => tokenizer.encode(text as unknown as string)).toThrow(expect.objectContaining({ code: 'invalid_argument' }))
  })

  test('refuses options that it does not know, and that are none', async () => {
    const refused = (named: string) => expect.objectContaining({ code: 'invalid_argument', message: expect.stringContaining(named) })
    for (const options of [{ skip: true }, null, 5] as never[]) {
      expect(() => tokenizer.encode('a', options)).toThrow(refused('Tokenizer.encode: '))
      expect(() => tokenizer.decode([1], options)).toThrow(refused('Tokenizer.decode: '))
      expect(() => tokenizer.createStreamDecoder(options)).toThrow(refused('Tokenizer.createStreamDecoder: '))
      await expect(tokenizer.applyChatTemplate([{ role: 'user', content: 'x' }], options)).rejects.toEqual(refused('applyChatTemplate: '))
      await expect(AutoTokenizer.fromPretrained(tinyFolder, options)).rejects.toEqual(refused('AutoTokenizer.fromPretrained: '))
    }
    expect(() => tokenizer.encode('a', { addSpecialTokens: 1 } as never)).toThrow(refused('addSpecialTokens: expected true or false'))
    await expect(AutoTokenizer.fromPretrained(tinyFolder, { revision: 5 } as never)).rejects.toEqual(refused('revision'))
    const decoder = tokenizer.createStreamDecoder()
    for (const id of ['a', undefined, null, -1, 1.5, ['a'], [1, -1]] as never[]) expect(() => decoder.push(id)).toThrow(refused('StreamDecoder.push: '))
    expect(decoder.push(tokenizer.encode('ok'))).toBe('ok')
  })

  test.each([
    ['one letter', 'a', 200_000],
    ['underscores', '_', 50_000],
    ['spaces', ' ', 200_000],
    ['lines', ' \n', 100_000],
    ['joined emoji', '👩‍👩‍👧‍👦', 10_000],
    ['starts of a special token', '<|im_', 40_000],
    ['an apostrophe', "'", 100_000]
  ])(
    'takes a long text of %s',
    (_, unit, count) => {
      const text = unit.repeat(count)
      const ids = tokenizer.encode(text)
      expect(ids.length).toBeGreaterThan(0)
      expect(tokenizer.decode(ids) === text).toBe(true)
    },
    60_000
  )

  test('takes lone surrogates as U+FFFD', () => {
    expect(tokenizer.decode(tokenizer.encode('a\ud83db'))).toBe('a\ufffdb')
  })
})

describe('a tokenizer in the style of GPT-2', () => {
  // ids of tokenizers 0.23.3; U+FEFF is no white space, U+0085 is some
  test.each([
    ["the  the's 12 121", [260, 32, 261, 262, 32, 263, 32, 263, 49]],
    ['  \ufeff<', [32, 257, 187, 191, 60]],
    ['a \u0085b', [97, 32, 194, 133, 98]],
    ['  \u0085x', [256, 194, 133, 120]],
    ['\ufeff\ufeff the', [239, 187, 191, 239, 187, 191, 261]],
    [' \u00a0 the\u2003 the', [258, 160, 261, 226, 128, 131, 261]],
    ['\n\n the\n', [10, 10, 261, 10]]
  ])('%j', async (text, ids) => {
    const folder = makeFolder({ 'tokenizer.json': gpt2StyleTokenizer() })
    const tokenizer = await AutoTokenizer.fromPretrained(folder)
    removeFolder(folder)
    expect(tokenizer.encode(text)).toEqual(ids)
    expect(tokenizer.decode(ids)).toBe(text)
  })
})

describe('a tokenizer in the style of Llama 2', () => {
  let folder: string
  let tokenizer: Tokenizer
  let uncut: Tokenizer
  beforeAll(async () => {
    const config = { bos_token: '<s>', eos_token: { content: '</s>' }, unk_token: '<unk>', clean_up_tokenization_spaces: true }
    folder = makeFolder({ 'tokenizer.json': llama2StyleTokenizer(), 'tokenizer_config.json': config })
    tokenizer = await AutoTokenizer.fromPretrained(folder)
    uncut = await uncutTokenizer(config)
  })
  afterAll(() => removeFolder(folder))

  // One token that reaches over a space is enough to make cutting unsafe; it has no merge, so the ids stay the same.
  async function uncutTokenizer(config: object): Promise<Tokenizer> {
    const json = llama2StyleTokenizer()
    const { vocab } = json.model as { vocab: Record<string, number> }
    vocab['of▁the'] = Object.keys(vocab).length
    const uncutFolder = makeFolder({ 'tokenizer.json': json, 'tokenizer_config.json': config })
    try {
      return await AutoTokenizer.fromPretrained(uncutFolder)
    } finally {
      removeFolder(uncutFolder)
    }
  }

  test('adds the begin token unless told not to', () => {
    const loom = tokenizer.tokenToId('▁loom')
    expect(tokenizer.encode('loom')).toEqual([1, loom])
    expect(tokenizer.encode('loom', { addSpecialTokens: false })).toEqual([loom])
    expect(tokenizer.decode([1, loom!])).toBe('loom')
    expect(tokenizer.eosTokenIds).toEqual([2])
  })

  test('writes what it does not know as bytes', () => {
    const ids = tokenizer.encode('the é 🙂', { addSpecialTokens: false })
    expect(ids.map((id) => tokenizer.idToToken(id))).toEqual(['▁the', '▁', '<0xC3>', '<0xA9>', '▁', '<0xF0>', '<0x9F>', '<0x99>', '<0x82>'])
    expect(tokenizer.decode(ids)).toBe('the é 🙂')
  })

  test('keeps U+FEFF, which is written as bytes', () => {
    expect(tokenizer.decode(tokenizer.encode('a\ufeffb \ufeff'))).toBe('a\ufeffb \ufeff')
  })

  test('gives a long text the same ids in words as in one piece', () => {
    const random = randomNumbers(7)
    const units = ['the ', ' ', '  ', '▁', 'loom', 'aaaaaa', 'ing', ', ', 'é', '🙂', '\n', '</s>', 'x▁y', 'q. ']
    for (let round = 0; round < 200; round++) {
      const text = Array.from({ length: random(60) }, () => units[random(units.length)]).join('')
      expect(tokenizer.encode(text)).toEqual(uncut.encode(text))
    }
  })

  test.each([
    ['letters', 'a', 200_000],
    ['spaces', ' ', 100_000],
    ['words', 'the loom is a loom, ', 20_000],
    ['bytes', '🙂', 20_000]
  ])('takes a long text of %s', (_, unit, count) => {
    const text = unit.repeat(count)
    expect(tokenizer.decode(tokenizer.encode(text)) === text).toBe(true)
  })
})
