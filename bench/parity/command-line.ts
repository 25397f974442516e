// The command line of the comparison with transformers, checked once.
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { type Message } from 'heddle'
import { type ParityOptions } from './compare-model'
import { type ParityDType } from './differences'

export const families = ['llama', 'mistral', 'qwen2', 'qwen3', 'phi3', 'gemma3_text', 'gpt2', 'mixtral', 'qwen3_moe']

export interface CommandLine {
  help: boolean
  folders: string[]
  /** random checkpoints of each of these families, from number `first` on */
  random: { count: number; first: number; families: string[] }
  json: boolean
  options: ParityOptions
}

export const usage = `usage: npm run compare-with-transformers -- FOLDER... [options]
       npm run compare-with-transformers -- --random 50 [--seed S] [options]
Runs the same checkpoint through transformers (installed by bench/peers/install.sh) and heddle, and compares logits, greedy answers, token ids
and rendered chats. Exit code 0: they agree within what the data type explains; 1: they do not; 2: wrong usage.
  --tp 1,2,...         group sizes (default 1,2,3,4; those beyond a model's heads are left out)
  --dtype float32      or bfloat16, for both
  --device cpu         or cuda, of heddle's ranks, which share GPU 0
  --expert-parallel    whole experts on each rank
  --new-tokens N       of greedy answers (default 16)
  --prompt TEXT        in place of the built-in prompts; may be repeated
  --messages FILE      a list of messages, or of such lists, in place of the built-in chats
  --random N           N random checkpoints with unusual configurations, of the families by turns
  --families A,B       (default ${families.join(',')})
  --seed S             of random checkpoints and token ids (default 1)
  --first I            the number of the first random checkpoint (default 0)
  --json               the result as JSON on stdout`

export function parseCommandLine(args: string[]): CommandLine {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      help: { type: 'boolean', default: false },
      tp: { type: 'string', default: '1,2,3,4' },
      dtype: { type: 'string', default: 'float32' },
      device: { type: 'string', default: 'cpu' },
      'expert-parallel': { type: 'boolean', default: false },
      'new-tokens': { type: 'string', default: '16' },
      prompt: { type: 'string', multiple: true, default: [] },
      messages: { type: 'string' },
      random: { type: 'string', default: '0' },
      families: { type: 'string', default: families.join(',') },
      seed: { type: 'string', default: '1' },
      first: { type: 'string', default: '0' },
      json: { type: 'boolean', default: false },
    },
  })
  const count = whole('--random', values.random, 0)
  if (!values.help && positionals.length + count === 0) throw new Error('expected a model folder, or --random')
  return {
    help: values.help,
    folders: positionals,
    random: { count, first: whole('--first', values.first, 0), families: values.families.split(',').map((name) => oneOf('--families', name, families)) },
    json: values.json,
    options: {
      sizes: values.tp.split(',').map((size) => whole('--tp', size, 1)),
      dtype: oneOf('--dtype', values.dtype, ['float32', 'bfloat16'] satisfies ParityDType[]),
      device: oneOf('--device', values.device, ['cpu', 'cuda']),
      expertParallel: values['expert-parallel'],
      newTokens: whole('--new-tokens', values['new-tokens'], 1),
      prompts: values.prompt,
      chats: values.messages === undefined ? [] : readChats(values.messages),
      seed: whole('--seed', values.seed, 0),
    },
  }
}

function whole(name: string, text: string, least: number): number {
  const value = Number(text)
  if (text.trim() !== '' && Number.isInteger(value) && value >= least) return value
  throw new Error(`${name}: expected a whole number from ${least}, got ${text}`)
}

function oneOf<Name extends string>(name: string, text: string, choices: readonly Name[]): Name {
  const choice = choices.find((one) => one === text)
  if (choice) return choice
  throw new Error(`${name}: expected one of ${choices.join(', ')}, got ${text}`)
}

function readChats(file: string): Message[][] {
  const value: unknown = JSON.parse(readFileSync(file, 'utf8'))
  if (!Array.isArray(value) || value.length === 0) throw new Error(`--messages: expected a list of messages in ${file}`)
  return (Array.isArray(value[0]) ? value : [value]) as Message[][]
}
