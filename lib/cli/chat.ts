// `heddle chat`: a conversation in the terminal, or over piped lines. Ctrl-C ends the answer; at the prompt, Ctrl-C, Ctrl-D or /exit end
// the chat. Rule: with piped input stdout carries the answers alone, one after the other.
import readline from 'node:readline'
import { AutoModelForCausalLM } from '../causal-lm'
import type { CausalLM } from '../causal-lm'
import { HeddleError } from '../errors'
import type { GenerateOptions } from '../generation/options'
import type { Message } from '../tokenizer/chat-template'
import { parseFlags, readFlags } from './flags'
import { loading } from './loading'
import { chatFlags, loadFlags, modelFlag } from './options'
import { printable } from './printable'

const help = '/exit ends the chat, /reset forgets it, Ctrl-C stops an answer\n'

export async function chat(args: string[]): Promise<void> {
  const values = parseFlags(args, modelFlag, loadFlags, chatFlags)
  const { model: name, options } = loading(values)
  const answer = readFlags(values, chatFlags)
  await using model = await AutoModelForCausalLM.fromPretrained(name, options)
  if (!model.tokenizer) throw new HeddleError('invalid_argument', `chat: expected a model folder with a tokenizer, got ${name}`)
  const isTerminal = process.stdin.isTTY === true
  if (isTerminal) process.stderr.write(`${name} over ${model.info().size} rank(s) on ${model.info().device}. ${help}`)
  await new ChatSession(model, answer, isTerminal).run()
}

class ChatSession {
  #messages: Message[] = []
  #answering: AbortController | undefined
  readonly #lines: readline.Interface

  constructor(
    private readonly model: CausalLM,
    private readonly options: GenerateOptions,
    isTerminal: boolean
  ) {
    this.#lines = readline.createInterface({
      input: process.stdin,
      ...(isTerminal && { output: process.stdout }),
      prompt: '> ',
      terminal: isTerminal
    })
    this.#lines.on('SIGINT', () => this.#interrupt()) // in a terminal readline takes the key
    process.on('SIGINT', () => this.#interrupt())
    this.#prompt = isTerminal ? () => this.#lines.prompt() : () => {}
  }

  readonly #prompt: () => void

  async run(): Promise<void> {
    this.#prompt()
    for await (const line of this.#lines) {
      const input = line.trim()
      if (input === '/exit') break
      if (input === '/reset') this.#messages = []
      else if (input === '/help') process.stderr.write(help)
      else if (input !== '') await this.#answer(input)
      this.#prompt()
    }
    this.#lines.close()
  }

  #interrupt(): void {
    if (this.#answering) this.#answering.abort()
    else this.#lines.close()
  }

  /** It outgrew the context, or the template refuses it as it has become; what is wrong with a first message is wrong with all. */
  #isOfConversation(error: unknown): error is HeddleError {
    if (!(error instanceof HeddleError) || error.code !== 'invalid_argument') return false
    return this.#messages.length > 0 || error.details?.promptLength !== undefined
  }

  async #answer(content: string): Promise<void> {
    const messages: Message[] = [...this.#messages, { role: 'user', content }]
    const controller = new AbortController()
    this.#answering = controller
    let text = ''
    try {
      for await (const piece of this.model.stream(messages, { ...this.options, signal: controller.signal })) {
        text += piece.text
        process.stdout.write(piece.text)
      }
    } catch (error) {
      if (!this.#isOfConversation(error)) throw error
      process.stderr.write(`heddle: ${printable(error.message)} (/reset starts a new chat)\n`)
      return
    } finally {
      this.#answering = undefined
    }
    process.stdout.write('\n')
    // A question whose answer was stopped before it began is forgotten.
    if (text !== '') this.#messages = [...messages, { role: 'assistant', content: text }]
  }
}
