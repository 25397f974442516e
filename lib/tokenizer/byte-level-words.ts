// The words that a ByteLevel pre-tokenizer makes by itself (GPT-2's), as a split that is spelled out. Rule: the same words, but for what is
// white space: the library's own pattern goes by JavaScript, where U+FEFF is some and U+0085 is none; in a Split it goes by Unicode, as the
// tokenizers library does.
import type { JsonObject } from './tokenizer-files'
import { isObject } from './tokenizer-files'

/** Radford et al. 2019, encoder.py */
const words = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/** A tokenizer.json whose pre-tokenizer splits in a step of its own, where no space goes before the text in the same step. */
export function withWordsSpelledOut<T extends { pre_tokenizer: unknown }>(tokenizer: T): T {
  return { ...tokenizer, pre_tokenizer: spelledOut(tokenizer.pre_tokenizer) }
}

function spelledOut(preTokenizer: unknown): unknown {
  if (!isObject(preTokenizer)) return preTokenizer
  const { type, pretokenizers } = preTokenizer
  if (type === 'Sequence' && Array.isArray(pretokenizers)) return { ...preTokenizer, pretokenizers: pretokenizers.map(spelledOut) }
  const splits = type === 'ByteLevel' && preTokenizer.use_regex !== false && preTokenizer.add_prefix_space === false
  return splits ? inTwoSteps(preTokenizer) : preTokenizer
}

function inTwoSteps(byteLevel: JsonObject): JsonObject {
  const split = { type: 'Split', pattern: { Regex: words }, behavior: 'Isolated', invert: false }
  return { type: 'Sequence', pretokenizers: [split, { ...byteLevel, use_regex: false }] }
}
