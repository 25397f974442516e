// What models are asked where the caller says nothing: texts and chats that tokenizers and templates trip over, and random token ids.
import { type Message } from 'heddle'
import { XorShift } from '../support/random'

export const texts = [
  'Once upon a time, there was a loom.', '', ' ', '   leading and trailing   ', 'tabs\tand\nnew lines\r\n\r\n  indented', "don't, we'll, I'VE; it's",
  'naïve café, Straße, Ελληνικά, русский, עברית, العربية', '日本語のテキスト。 中文文本，한국어', '👩‍👩‍👧‍👦 🇩🇪 👍🏽 \u{1f9f5}', 'e\u0301 and é, ﬁ and fi, Å and Å', '12345 3.14159 1,000,000 0x1F ٣',
  'x = foo(bar[1:-1]) != {"a": None}  # ok?', '<|im_start|>user\nhi<|im_end|>', '<s> </s> <unk> <pad> [INST] <bos> <|endoftext|>', 'aaaaaaaaaaaaaaaaaaaaaaaa', '\u00a0\u200b\u2003\ufeffx',
  '\u0000\u0007\u001b[0m', '½ ² ① Ⅷ ㎏', 'UPPER lower MiXeD', '...!!!???—–-_',
]

export const chats: Message[][] = [
  [{ role: 'user', content: 'What is 387 + 456?' }],
  [{ role: 'system', content: 'You are terse.' }, { role: 'user', content: ' Hi \n' }],
  [{ role: 'user', content: 'Sort 3 1 2' }, { role: 'assistant', content: '1 2 3' }, { role: 'user', content: 'Backwards: <b>"&\'</b> 👍' }],
]

const promptLengths = [1, 9, 40]

/** Of models without a tokenizer; shorter where the context has no room for the answer, too. */
export function randomPrompts(vocabSize: number, room: number, seed: number): number[][] {
  const random = new XorShift(seed)
  const lengths = promptLengths.map((length) => Math.max(1, Math.min(length, room)))
  return lengths.map((length) => Array.from({ length }, () => random.below(vocabSize)))
}
