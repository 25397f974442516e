// Keeps long texts cheap for tokenizers without a pre-tokenizer (Llama 2 style), where byte pair encoding would take the whole text as one
// word. Rule: the ids never change; a text is cut only where no token of the vocabulary can reach across.

const wordStart = '\u2581' // the sign that stands for a space in such vocabularies
const wordPattern = new RegExp(`${wordStart}*[^${wordStart}]+|${wordStart}+`, 'gu')

interface BpeModel {
  type?: unknown
  vocab: Record<string, number>
  ignore_merges?: unknown
  end_of_word_suffix?: unknown
  continuing_subword_prefix?: unknown
  continuing_subword_suffix?: unknown
}

/** Cuts a text into words in front of each run of word starts, or undefined where that could change the ids. */
export function wordSplitterFor(model: BpeModel, preTokenizer: { type?: unknown } | null): ((text: string) => string[]) | undefined {
  const wholeText = preTokenizer === null || preTokenizer.type === 'Metaspace'
  const marksWordParts = model.end_of_word_suffix || model.continuing_subword_prefix || model.continuing_subword_suffix
  if (model.type !== 'BPE' || !wholeText || model.ignore_merges || marksWordParts) return undefined
  // A merge makes a token of the vocabulary. If none has a word start after something else, no merge crosses that place.
  const crossing = new RegExp(`[^${wordStart}]${wordStart}`, 'u')
  if (Object.keys(model.vocab).some((token) => crossing.test(token))) return undefined
  return (text) => text.match(wordPattern) ?? []
}
