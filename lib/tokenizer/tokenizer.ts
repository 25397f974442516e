// AutoTokenizer: text to token ids and back, from the files of a model folder. Rule: this file alone knows the tokenizer library.
import { TextDecoder } from 'node:util'
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import { checkFlags, checkOptions } from '../checks'
import { HeddleError, invalidArgument, messageOf } from '../errors'
import { isHubName, modelFolder } from '../hub/fetch-model'
import { withWordsSpelledOut } from './byte-level-words'
import { chatTemplateOf, specialTokensOf } from './chat-template'
import type { ChatTemplate, ChatTemplateOptions, Message } from './chat-template'
import { createStreamDecoder } from './stream-decoder'
import type { StreamDecoder } from './stream-decoder'
import { listOf } from './token-ids'
import type { TokenIds } from './token-ids'
import { corruptFile, isTokenId, readTokenizerFiles } from './tokenizer-files'
import type { TokenizerFiles } from './tokenizer-files'
import { wordSplitterFor } from './word-splitter'

export interface EncodeOptions {
  /** Add what the tokenizer puts around a text by itself, such as a begin token. Default true. */
  addSpecialTokens?: boolean
}

export interface DecodeOptions {
  /** Leave out special tokens such as the end token. Default true. */
  skipSpecialTokens?: boolean
}

export interface Tokenizer {
  /** One more than the largest token id; the model's vocabulary may be padded beyond it. */
  readonly vocabSize: number
  /** The end tokens that the tokenizer names; a model's generation_config.json may name more. */
  readonly eosTokenIds: readonly number[]
  readonly hasChatTemplate: boolean
  /** Special tokens written in the text become their ids. Runs on the calling thread; a single word of 100,000 letters takes about 1 s. */
  encode(text: string, options?: EncodeOptions): number[]
  /** Ids outside the vocabulary have no text. */
  decode(ids: TokenIds, options?: DecodeOptions): string
  /** The messages as the prompt text that the model was trained on. Throws invalid_argument where the model has no template. */
  applyChatTemplate(messages: readonly Message[], options?: ChatTemplateOptions): Promise<string>
  /** The ids of that prompt; the template has written the special tokens, so none are added. */
  encodeChat(messages: readonly Message[], options?: ChatTemplateOptions): Promise<number[]>
  tokenToId(token: string): number | undefined
  idToToken(id: number): string | undefined
  createStreamDecoder(options?: DecodeOptions): StreamDecoder
}

// The part of @huggingface/tokenizers in use. Its own declarations do not resolve under Node's rules and would be `any` without a word.
interface Library {
  pre_tokenizer: ((text: string, options?: unknown) => string[]) | null
  decoder: LibraryDecoder | null
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[] }
  decode(ids: number[], options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean }): string
  token_to_id(token: string): number | undefined
  id_to_token(id: number): string | undefined
  get_vocab(): Map<string | undefined, number>
}
interface LibraryDecoder {
  text_decoder?: TextDecoder
  decoders?: (LibraryDecoder | null)[]
}
type LibraryConstructor = new (tokenizer: object, config: object) => Library

export const AutoTokenizer = {
  /**
   * Reads tokenizer.json, tokenizer_config.json and chat_template.jinja of a model folder, or of a model on the Hugging Face hub; the last two
   * may be missing. Errors as of `AutoModelForCausalLM.fromPretrained`.
   */
  async fromPretrained(nameOrFolder: string, options: { revision?: string } = {}): Promise<Tokenizer> {
    checkOptions('AutoTokenizer.fromPretrained', options, ['revision'])
    const { revision } = options
    if (revision !== undefined && typeof revision !== 'string') throw invalidArgument('AutoTokenizer.fromPretrained: revision', 'a text', revision)
    const isHub = typeof nameOrFolder === 'string' && isHubName(nameOrFolder)
    const parts = { weights: false, tokenizer: true }
    const folder = isHub ? await modelFolder(nameOrFolder, { parts, ...(revision !== undefined && { revision }) }) : nameOrFolder
    return new FileTokenizer(await readTokenizerFiles(folder))
  }
}

class FileTokenizer implements Tokenizer {
  readonly vocabSize: number
  readonly eosTokenIds: readonly number[]
  private readonly library: Library
  private readonly template?: ChatTemplate
  private readonly specialIds: ReadonlySet<number>
  private readonly file: string

  constructor(files: TokenizerFiles) {
    this.file = files.tokenizerPath
    this.library = openLibrary(files)
    this.template = chatTemplateOf(files)
    const named = specialTokensOf(files.config)
    this.specialIds = new Set([
      ...files.tokenizer.added_tokens.filter((token) => token.special).map((token) => token.id),
      ...this.idsOf(Object.values(named).flat())
    ])
    this.eosTokenIds = this.idsOf([named.eos_token ?? []].flat())
    this.vocabSize = 1 + [...this.library.get_vocab().values()].reduce((largest, id) => Math.max(largest, id), -1)
  }

  get hasChatTemplate(): boolean {
    return this.template !== undefined
  }

  encode(text: string, options: EncodeOptions = {}): number[] {
    checkFlagOptions('Tokenizer.encode', options, ['addSpecialTokens'])
    const { addSpecialTokens = true } = options
    if (typeof text !== 'string') throw invalidArgument('Tokenizer.encode', 'a text', text)
    const { ids } = this.guarded(() => this.library.encode(text, { add_special_tokens: addSpecialTokens }))
    if (ids.every(isTokenId)) return ids
    throw corruptFile(this.file, 'a token that it adds to the text, or its unknown token, is not in its vocabulary')
  }

  decode(tokenIds: TokenIds, options: DecodeOptions = {}): string {
    checkFlagOptions('Tokenizer.decode', options, ['skipSpecialTokens'])
    const { skipSpecialTokens = true } = options
    const ids = listOf(tokenIds)
    if (!Array.isArray(ids)) throw invalidArgument('Tokenizer.decode', 'a list of token ids', ids)
    const wrong = ids.findIndex((id) => !Number.isInteger(id) || id < 0)
    if (wrong >= 0) throw invalidArgument(`Tokenizer.decode: ids[${wrong}]`, 'a token id', ids[wrong])
    return this.textOf(ids.filter((id) => this.contributes(id, skipSpecialTokens)))
  }

  async applyChatTemplate(messages: readonly Message[], options?: ChatTemplateOptions): Promise<string> {
    if (!this.template) {
      throw new HeddleError('invalid_argument', `applyChatTemplate: expected a model with a chat template, got one without (${this.file})`)
    }
    return this.template.render(messages, options)
  }

  async encodeChat(messages: readonly Message[], options?: ChatTemplateOptions): Promise<number[]> {
    return this.encode(await this.applyChatTemplate(messages, options), { addSpecialTokens: false })
  }

  tokenToId(token: string): number | undefined {
    return this.library.token_to_id(token)
  }

  idToToken(id: number): string | undefined {
    return this.library.id_to_token(id)
  }

  createStreamDecoder(options: DecodeOptions = {}): StreamDecoder {
    checkFlagOptions('Tokenizer.createStreamDecoder', options, ['skipSpecialTokens'])
    const { skipSpecialTokens = true } = options
    return createStreamDecoder({
      contributes: (id) => this.contributes(id, skipSpecialTokens),
      textOf: (ids) => this.textOf(ids)
    })
  }

  private contributes(id: number, skipSpecialTokens: boolean): boolean {
    return this.library.id_to_token(id) !== undefined && !(skipSpecialTokens && this.specialIds.has(id))
  }

  // The clean-up would take spaces out of the text ("a , b"), and it looks at neighbours, which a stream cannot.
  private textOf(ids: readonly number[]): string {
    if (ids.length === 0) return ''
    return this.guarded(() => this.library.decode([...ids], { skip_special_tokens: false, clean_up_tokenization_spaces: false }))
  }

  /** The library believes its files: what is wrong in the depths of one shows only when a text comes by. */
  private guarded<T>(call: () => T): T {
    try {
      return call()
    } catch (cause) {
      throw corruptFile(this.file, `expected a tokenizer as the tokenizers library writes it: ${messageOf(cause)}`, cause)
    }
  }

  private idsOf(tokens: string[]): number[] {
    return tokens.map((token) => this.tokenToId(token)).filter((id) => id !== undefined)
  }
}

function checkFlagOptions(where: string, options: object, known: readonly string[]): void {
  checkOptions(where, options, known)
  checkFlags(where, { ...options })
}

function openLibrary({ tokenizer, tokenizerPath, config }: TokenizerFiles): Library {
  try {
    const library = new (HuggingFaceTokenizer as unknown as LibraryConstructor)(withWordsSpelledOut(tokenizer), {
      ...config,
      ...specialTokensOf(config)
    })
    const split = wordSplitterFor(tokenizer.model, tokenizer.pre_tokenizer)
    const preTokenize = library.pre_tokenizer
    if (split) library.pre_tokenizer = (text, options) => (preTokenize ? preTokenize(text, options) : [text]).flatMap(split)
    keepByteOrderMarks(library.decoder)
    return library
  } catch (cause) {
    const problem = messageOf(cause)
    if (problem.startsWith('Unknown ')) throw new HeddleError('unsupported_model', `${tokenizerPath}: ${problem}`, { cause })
    throw corruptFile(tokenizerPath, `expected a tokenizer as the tokenizers library writes it: ${problem}`, cause)
  }
}

// The library's decoder of byte tokens drops U+FEFF at the start of each run of them, which is a character of the text like any other.
function keepByteOrderMarks(decoder: LibraryDecoder | null): void {
  if (decoder?.text_decoder) decoder.text_decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  decoder?.decoders?.forEach(keepByteOrderMarks)
}
