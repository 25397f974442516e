// Model folders with only a tokenizer, for tests. Rule: each is temporary and removed by its caller.
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'

export const tinyFolder = path.resolve(__dirname, '../../models/heddle-tiny')

/** A temporary folder with these files; objects are written as JSON. */
export function makeFolder(files: Record<string, unknown>): string {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'heddle-tokenizer-'))
  for (const [name, content] of Object.entries(files)) {
    const raw = typeof content === 'string' || content instanceof Uint8Array
    fs.writeFileSync(path.join(folder, name), raw ? content : JSON.stringify(content))
  }
  return folder
}

export function removeFolder(folder: string): void {
  fs.rmSync(folder, { recursive: true, force: true })
}

const byteTokens = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
const letters = [...'▁abcdefghijklmnopqrstuvwxyz.,']
// Each merge is of two tokens that exist by then; runs of spaces merge as they do in Llama 2.
const merges = ['▁ t', 'h e', '▁t he', '▁ a', 'i n', 'in g', '▁ l', 'o o', 'oo m', '▁l oom', 'a a', 'aa aa', '▁ ▁', '▁▁ ▁▁']

/** A small tokenizer built like that of Llama 2: no pre-tokenizer, spaces as ▁, bytes for unknown characters, a begin token in front. */
export function llama2StyleTokenizer(): Record<string, unknown> {
  const tokens = ['<unk>', '<s>', '</s>', ...byteTokens, ...letters, ...merges.map((merge) => merge.replace(' ', ''))]
  const special = ['<unk>', '<s>', '</s>'].map((content, id) => ({ id, content, special: true, normalized: false }))
  const normalizers = [
    { type: 'Prepend', prepend: '▁' },
    { type: 'Replace', pattern: { String: ' ' }, content: '▁' }
  ]
  const decoders = [
    { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
    { type: 'Strip', content: ' ', start: 1, stop: 0 }
  ]
  const single = [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }]
  return {
    added_tokens: special,
    normalizer: { type: 'Sequence', normalizers },
    pre_tokenizer: null,
    post_processor: { type: 'TemplateProcessing', single, pair: single, special_tokens: {} },
    decoder: { type: 'Sequence', decoders },
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges
    }
  }
}

/** A small tokenizer in the style of BERT: words apart, word parts marked with ##. */
export function wordPieceTokenizer(): Record<string, unknown> {
  const tokens = ['[UNK]', 'loom', 'thread', '##s', 'warp', '##ed', 'weft']
  return {
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: 'WhitespaceSplit' },
    post_processor: null,
    decoder: { type: 'WordPiece', prefix: '##', cleanup: false },
    model: {
      type: 'WordPiece',
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id]))
    }
  }
}

/** The letters that stand for bytes in GPT-2's vocabulary: printable ones for themselves, the others from U+0100 on. */
function byteLetters(): string[] {
  const printable = (byte: number): boolean => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173)
  let others = 0
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : 256 + others++))
}

/** A small tokenizer built like that of GPT-2: one pre-tokenizer splits into words and writes bytes as letters. */
export function gpt2StyleTokenizer(): Record<string, unknown> {
  const own = ['Ġ Ġ', 'Ġ ï', 'Ġ Â', 't h', 'th e', 'Ġ the', "' s", '1 2']
  return {
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      vocab: Object.fromEntries([...byteLetters(), ...own.map((merge) => merge.replace(' ', ''))].map((token, id) => [token, id])),
      merges: own
    }
  }
}

/** Numbers from 0 up to but not including `limit`, the same on every run. */
export function randomNumbers(seed: number): (limit: number) => number {
  let state = seed
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  }
}
