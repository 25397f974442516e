// Texts and chats through both tokenizers.
import { AutoTokenizer, HeddleError, type Message, type Tokenizer } from 'heddle'
import { type Reference } from './reference'

export interface TokenizerParity {
  texts: number
  chats: number
  /** what differs, each with both sides */
  differences: string[]
}

/** A chat that both refuse agrees: templates may want roles to alternate. */
export async function compareTokenizer(folder: string, reference: Reference, texts: string[], chats: Message[][]): Promise<TokenizerParity> {
  const tokenizer = await AutoTokenizer.fromPretrained(folder)
  const { hasChatTemplate } = await reference.openTokenizer(folder)
  const differences: string[] = []
  const compare = (what: string, ours: unknown, theirs: unknown): void => {
    const [a, b] = [JSON.stringify(ours), JSON.stringify(theirs)]
    if (a !== b) differences.push(`${what}: ${a.slice(0, 200)}, transformers ${b.slice(0, 200)}`)
  }
  for (const text of texts) await compareText(text, tokenizer, reference, compare)
  compare('has a chat template', tokenizer.hasChatTemplate, hasChatTemplate)
  const common = hasChatTemplate && tokenizer.hasChatTemplate ? chats : []
  for (const messages of common) await compareChat(messages, tokenizer, reference, compare)
  return { texts: texts.length, chats: common.length, differences }
}

type Compare = (what: string, ours: unknown, theirs: unknown) => void

async function compareText(text: string, tokenizer: Tokenizer, reference: Reference, compare: Compare): Promise<void> {
  const theirs = await reference.encode(text)
  const what = JSON.stringify(text)
  compare(`ids of ${what}`, tokenizer.encode(text), theirs.ids)
  compare(`ids of ${what} alone`, tokenizer.encode(text, { addSpecialTokens: false }), theirs.plainIds)
  compare(`text of the ids of ${what}`, tokenizer.decode(theirs.ids), theirs.text)
  compare(`text of the ids of ${what} with special tokens`, tokenizer.decode(theirs.ids, { skipSpecialTokens: false }), theirs.wholeText)
}

async function compareChat(messages: Message[], tokenizer: Tokenizer, reference: Reference, compare: Compare): Promise<void> {
  for (const addGenerationPrompt of [true, false]) {
    const what = `chat of ${messages.map(({ role }) => role).join(', ')}${addGenerationPrompt ? '' : ' without a turn to answer'}`
    const ours = await outcome(async () => [
      await tokenizer.applyChatTemplate(messages, { addGenerationPrompt }), await tokenizer.encodeChat(messages, { addGenerationPrompt }),
    ])
    const theirs = await outcome(async () => {
      const { text, ids } = await reference.chat(messages, addGenerationPrompt)
      return [text, ids]
    })
    compare(what, ours, theirs)
  }
}

async function outcome(run: () => Promise<unknown>): Promise<unknown> {
  try {
    return await run()
  } catch (error) {
    if (error instanceof HeddleError || /Template|Undefined/.test((error as Error).message)) return 'refused'
    throw error
  }
}
