// Streamed text: the pieces joined are what decoding all ids at once gives, and no piece cuts a character.
import { createStreamDecoder } from '../../lib/tokenizer/stream-decoder'
import { AutoTokenizer } from '../../lib/tokenizer/tokenizer'
import type { Tokenizer } from '../../lib/tokenizer/tokenizer'
import golden from '../golden/heddle-tiny.json'
import { llama2StyleTokenizer, makeFolder, randomNumbers, removeFolder, tinyFolder, wordPieceTokenizer } from '../support/tokenizer-folders'

const tokenizers: Record<string, Tokenizer> = {}
beforeAll(async () => {
  tokenizers.byteLevel = await AutoTokenizer.fromPretrained(tinyFolder)
  for (const [name, json] of Object.entries({ byteFallback: llama2StyleTokenizer(), wordPiece: wordPieceTokenizer() })) {
    const folder = makeFolder({ 'tokenizer.json': json, 'tokenizer_config.json': { eos_token: '</s>' } })
    tokenizers[name] = await AutoTokenizer.fromPretrained(folder)
    removeFolder(folder)
  }
})

function pieces(tokenizer: Tokenizer, ids: number[], options?: { skipSpecialTokens?: boolean }): string[] {
  const decoder = tokenizer.createStreamDecoder(options)
  return [...ids.map((id) => decoder.push(id)), decoder.flush()]
}

const text = '🙂👩‍👩‍👧‍👦 emoji 🏳️‍🌈 日本語のテキスト and 한국어 naïve café — “quotes” \ufeff\u0000 loom  a   the looming'

describe.each(['byteLevel', 'byteFallback'])('%s', (name) => {
  test('a text in many scripts comes whole, character by character', () => {
    const tokenizer = tokenizers[name]!
    const ids = tokenizer.encode(text)
    const got = pieces(tokenizer, ids)
    expect(got.join('')).toBe(text)
    expect(got.filter((piece) => piece.includes('\ufffd'))).toEqual([])
    expect(got.filter((piece) => /\p{Surrogate}/u.test(piece))).toEqual([]) // a surrogate alone
    expect(got.at(-1)).toBe('') // nothing is held back that is complete
    expect(got.find((piece) => piece !== '')).toBe('🙂') // its four bytes are four tokens and one piece
  })

  test('random ids, broken characters among them, join to the full text', () => {
    const tokenizer = tokenizers[name]!
    const random = randomNumbers(3)
    for (let round = 0; round < 1500; round++) {
      // Low ids are single bytes; mixing ranges gives broken and whole characters.
      const limit = [40, 270, tokenizer.vocabSize + 8][random(3)]!
      const ids = Array.from({ length: 1 + random(48) }, () => random(limit))
      for (const skipSpecialTokens of [true, false]) {
        expect(pieces(tokenizer, ids, { skipSpecialTokens }).join('')).toBe(tokenizer.decode(ids, { skipSpecialTokens }))
      }
    }
  })

  test('any grouping of the ids gives the same text', () => {
    const tokenizer = tokenizers[name]!
    const random = randomNumbers(5)
    const ids = tokenizer.encode(text)
    for (let round = 0; round < 100; round++) {
      const decoder = tokenizer.createStreamDecoder()
      let joined = ''
      for (let at = 0; at < ids.length;) {
        const count = random(6)
        joined += decoder.push(ids.slice(at, at + count))
        at += count
      }
      expect(joined + decoder.flush()).toBe(text)
    }
  })

  test('an incomplete character is held back and shows at the end', () => {
    const tokenizer = tokenizers[name]!
    const emoji = tokenizer.encode('🙂', { addSpecialTokens: false }).slice(-4)
    const decoder = tokenizer.createStreamDecoder()
    expect(emoji.slice(0, 3).map((id) => decoder.push(id))).toEqual(['', '', ''])
    expect(decoder.flush()).toBe('\ufffd')
    expect(decoder.flush()).toBe('')
    expect(decoder.push(emoji)).toBe('🙂') // ready for a new text
  })

  test('broken bytes without end come out and do not pile up', () => {
    const tokenizer = tokenizers[name]!
    const broken = tokenizer.encode('🙂', { addSpecialTokens: false }).slice(-1) // a lone last byte
    const decoder = tokenizer.createStreamDecoder()
    let joined = ''
    for (let count = 0; count < 3000; count++) joined += decoder.push(broken)
    expect(joined.length).toBe(2999)
    expect(joined + decoder.flush()).toBe('\ufffd'.repeat(3000))
  })

  test('a real U+FFFD comes out one token later', () => {
    const tokenizer = tokenizers[name]!
    const ids = tokenizer.encode('a\ufffdb\ufffd')
    const got = pieces(tokenizer, ids)
    expect(got.join('')).toBe('a\ufffdb\ufffd')
    expect(got.at(-1)).toBe('\ufffd')
  })
})

test('the answers of the reference stream to their text', () => {
  for (const { output_ids: ids, text: answer } of golden.chat) expect(pieces(tokenizers.byteLevel!, ids).join('')).toBe(answer)
})

test('a skipped special token between words keeps the space of the next', () => {
  const tokenizer = tokenizers.byteFallback!
  const [loom, end] = [tokenizer.tokenToId('▁loom')!, tokenizer.tokenToId('</s>')!]
  const ids = [end, loom, end, end, loom, end, loom]
  expect(pieces(tokenizer, ids)).toEqual(['', 'loom', '', '', ' loom', '', ' loom', ''])
  expect(tokenizer.decode(ids)).toBe('loom loom loom')
  expect(pieces(tokenizer, ids, { skipSpecialTokens: false }).join('')).toBe(tokenizer.decode(ids, { skipSpecialTokens: false }))
})

test('spaces at the start and in runs survive', () => {
  const tokenizer = tokenizers.byteFallback!
  for (const spaces of [1, 2, 3, 4, 5, 9, 40]) {
    const spaced = `${' '.repeat(spaces)}loom${' '.repeat(spaces)}a`
    expect(pieces(tokenizer, tokenizer.encode(spaced)).join('')).toBe(spaced)
  }
})

test('word parts join to words', () => {
  const tokenizer = tokenizers.wordPiece!
  const random = randomNumbers(9)
  expect(pieces(tokenizer, tokenizer.encode('warped threads weft'))).toEqual(['warp', 'ed', ' thread', 's', ' weft', ''])
  for (let round = 0; round < 200; round++) {
    const ids = Array.from({ length: random(12) }, () => random(tokenizer.vocabSize))
    expect(pieces(tokenizer, ids).join('')).toBe(tokenizer.decode(ids))
  }
})

test('the work of a token does not grow with the text', () => {
  let decoded = 0
  const decoder = createStreamDecoder({
    contributes: () => true,
    textOf: (ids) => {
      decoded += ids.length
      return ids.map((id) => String.fromCharCode(id)).join('')
    }
  })
  for (let count = 0; count < 10_000; count++) expect(decoder.push(97 + (count % 26))).toHaveLength(1)
  expect(decoded).toBeLessThan(40_000)
})
