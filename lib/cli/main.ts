#!/usr/bin/env node
// The command `heddle`: picks a command, and turns what it throws into one line, a hint and an exit code (2 for wrong usage, else 1).
import { HeddleError, messageOf } from '../errors'
import type { HeddleErrorCode } from '../errors'
import { gpuProfiles } from '../planning/gpus'
import { UsageError } from './arguments'
import { chat } from './chat'
import { generate } from './generate'
import { info } from './info'
import { plan } from './plan'
import { verify } from './verify'

const gpuNames = gpuProfiles.map(({ name }) => name).join(', ')

const usage = `Usage: heddle <command> [options]

Commands
  chat       talk to a model             heddle chat --model models/heddle-tiny --tp 2
  generate   one answer                  heddle generate --model models/heddle-tiny --prompt "Hello" --json
  info       this machine, or a model's shards on its ranks
  plan       what a model takes at each size     heddle plan --model Qwen/Qwen3-8B --gpu H200
  verify     whether splitting changes a model   heddle verify --model models/heddle-tiny --tp 1,2,4

Options of every command
  --model NAME            a model folder with safetensors weights, or a model on the Hugging Face hub
  --revision REVISION     its branch, tag or commit on the hub (default main)
  --tp N                  ranks that share the model (default 1)
  --dtype TYPE            auto, float32, bfloat16 or float16 (default auto: the checkpoint's own)
  --device DEVICE         auto, cpu or cuda (default auto)
  --devices N,N,…         the GPU of each rank; 0,0 puts two ranks on one GPU
  --communicator NAME     auto, local or nccl: what ranks on GPUs talk over (default auto)
  --help

Options of chat and generate
  --max-new-tokens N  --min-new-tokens N  --temperature T  --top-p P  --top-k K  --min-p P  --seed S
  --repetition-penalty R  --presence-penalty P  --frequency-penalty P
  --logit-bias ID:B,…     added to the logits of token ids
  --stop TEXT             a text that ends the answer

Options of generate
  --prompt TEXT           raw text
  --messages FILE         a JSON list of {"role", "content"}; goes through the chat template; - is stdin
  --echo                  begin with the prompt
  --logprobs N            with --json: log-probabilities, and of the N likeliest tokens
  --json                  print one JSON object (generate, info, plan and verify)

Options of plan
  --tp N                  one size (default: every valid one up to 8)
  --gpu NAME              predict speed and room on ${gpuNames}
  --explain               what becomes of every parameter: style, shape and bytes on a rank

Options of verify
  --tp N,N,…              the sizes to compare with the first of them (default 1,2)
  --prompt TEXT           what they compute (default: 32 token ids drawn with a fixed seed)
  --tolerance X           relative difference of a module that is let pass (default: by data type)
`

const commands: Record<string, (args: string[]) => Promise<number | void>> = { chat, generate, info, plan, verify }

const hints: Partial<Record<HeddleErrorCode, string>> = {
  invalid_argument: 'check the options; heddle --help lists them',
  corrupt_file: 'the file is damaged or incomplete: download or copy it again',
  unsupported_model: 'use a checkpoint of a supported architecture',
  aborted: 'it was stopped by Ctrl-C',
  out_of_memory: 'free memory, or use a smaller model or --dtype bfloat16',
  unavailable: 'heddle info shows what this machine offers'
}

async function main(args: string[]): Promise<number> {
  const [name, ...rest] = args
  if (name === '--help' || name === 'help' || rest.includes('--help')) return write(process.stdout, usage, 0)
  try {
    const command = name !== undefined && Object.hasOwn(commands, name) ? commands[name] : undefined
    if (!command) throw new UsageError(name === undefined ? 'expected a command' : `no command ${JSON.stringify(name)}`)
    return (await command(rest)) ?? 0
  } catch (error) {
    return report(error)
  }
}

function report(error: unknown): number {
  const oneLine = messageOf(error).replace(/\s*\n\s*/g, ' ')
  if (error instanceof UsageError) return write(process.stderr, `heddle: ${oneLine}\nhint: heddle --help\n`, 2)
  const code = error instanceof HeddleError ? error.code : undefined
  const hint = (code && hints[code]) ?? 'heddle info shows the machine; please report this if it should work'
  return write(process.stderr, `heddle: ${code ? `[${code}] ` : ''}${oneLine}\nhint: ${hint}\n`, 1)
}

function write(stream: NodeJS.WriteStream, text: string, exitCode: number): number {
  stream.write(text)
  return exitCode
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1)) // the reader of a pipe left
void main(process.argv.slice(2)).then((exitCode) => {
  process.exitCode = exitCode
})
