// Chat templates: which one a model folder has, and messages to prompt text.
// Rule: role and content are checked here; the template itself only ever runs in the child process.
import { checkOptions } from '../checks'
import { HeddleError, describe, invalidArgument } from '../errors'
import { TemplateProcess } from './template-process'
import { isObject } from './tokenizer-files'
import type { JsonObject, TokenizerFiles } from './tokenizer-files'

export interface Message {
  /** Usually system, user or assistant; the template decides which it knows. */
  role: string
  content: string
}

export interface ChatTemplateOptions {
  /** End with the opening of an assistant turn. Default true. */
  addGenerationPrompt?: boolean
  /** More variables for the template (`enable_thinking` of Qwen3); they cannot replace the messages or the special tokens. */
  variables?: Record<string, unknown>
}

const namedTokens = ['bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token', 'mask_token'] as const

const sharedRenderer = new TemplateProcess() // no process runs before the first rendering

export class ChatTemplate {
  constructor(
    private readonly source: string,
    private readonly specialTokens: Record<string, unknown>,
    private readonly renderer: TemplateProcess = sharedRenderer
  ) {}

  async render(messages: readonly Message[], options: ChatTemplateOptions = {}): Promise<string> {
    checkMessages(messages)
    checkOptions('applyChatTemplate', options, ['addGenerationPrompt', 'variables'])
    const { addGenerationPrompt = true, variables = {} } = options
    if (typeof addGenerationPrompt !== 'boolean') throw invalidArgument('addGenerationPrompt', 'true or false', addGenerationPrompt)
    if (!isObject(variables)) throw invalidArgument('variables of a chat template', 'an object', variables)
    return this.renderer.render(this.source, {
      tools: null,
      documents: null,
      ...variables,
      ...this.specialTokens,
      messages,
      add_generation_prompt: addGenerationPrompt
    })
  }
}

/** The template of a model folder: the file chat_template.jinja comes before tokenizer_config.json, as in transformers. */
export function chatTemplateOf({ config, chatTemplate }: Pick<TokenizerFiles, 'config' | 'chatTemplate'>): ChatTemplate | undefined {
  const source = chatTemplate ?? pickTemplate(config.chat_template)
  return source === undefined ? undefined : new ChatTemplate(source, specialTokensOf(config))
}

/** The special tokens that tokenizer_config.json names, as template variables: bos_token, eos_token, … */
export function specialTokensOf(config: JsonObject): Record<string, string | string[]> {
  const tokens: Record<string, string | string[]> = {}
  for (const name of namedTokens) {
    const text = tokenText(config[name])
    if (text !== undefined) tokens[name] = text
  }
  const additional = config.additional_special_tokens
  if (Array.isArray(additional)) tokens.additional_special_tokens = additional.map(tokenText).filter((text) => text !== undefined)
  return tokens
}

export function checkMessages(messages: unknown): asserts messages is readonly Message[] {
  if (!Array.isArray(messages) || messages.length === 0) throw invalidArgument('messages', 'a list of at least one message', messages)
  for (const [index, message] of messages.entries()) {
    if (!isObject(message)) throw invalidArgument(`messages[${index}]`, 'an object with role and content', message)
    if (typeof message.role !== 'string' || message.role === '') throw invalidArgument(`messages[${index}].role`, 'a text', message.role)
    if (typeof message.content !== 'string') throw invalidArgument(`messages[${index}].content`, 'a text', message.content)
  }
}

// One text, or a list of {name, template} of which the one named "default" is for chats.
function pickTemplate(value: unknown): string | undefined {
  if (value === undefined || value === null) return undefined
  if (typeof value === 'string') return value
  if (Array.isArray(value)) {
    const entries = value.filter((entry) => isObject(entry) && typeof entry.template === 'string')
    const picked = entries.find((entry) => entry.name === 'default') ?? (entries.length === 1 ? entries[0] : undefined)
    if (picked) return picked.template
  }
  const expected = 'expected chat_template to be a text or a list with a template named "default"'
  throw new HeddleError('corrupt_file', `tokenizer_config.json: ${expected}, got ${describe(value)}`)
}

// A token is written as its text or as an object with details.
function tokenText(token: unknown): string | undefined {
  if (typeof token === 'string') return token
  return isObject(token) && typeof token.content === 'string' ? token.content : undefined
}
