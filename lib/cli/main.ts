#!/usr/bin/env node
// The command `heddle`: picks a command, and turns what it throws into one line, a hint and an exit code (2 for wrong usage, else 1).
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { HeddleError, messageOf } from '../errors'
import type { HeddleErrorCode } from '../errors'
import { chat } from './chat'
import { helpLines, UsageError } from './flags'
import type { Flags } from './flags'
import { generate } from './generate'
import { info } from './info'
import { chatFlags, generateFlags, jsonFlag, loadFlags, modelFlag, planFlags, promptFlags, verifyFlags } from './options'
import { plan } from './plan'
import { printable } from './printable'
import { verify } from './verify'

/** Of one command the flags that it does not share with another. */
const notOf = (other: Flags, flags: Flags): Flags => Object.fromEntries(Object.entries(flags).filter(([option, flag]) => other[option] !== flag))

const namesOf = (flags: Flags): string =>
  Object.entries(flags).filter(([option, flag]) => flag === (loadFlags as Flags)[option] && 'read' in flag).map(([, { flag }]) => `--${flag}`).join(', ')

const { version } = JSON.parse(readFileSync(path.join(__dirname, '../../package.json'), 'utf8')) as { version: string }

const usage = `Usage: heddle <command> [options]

Commands
  chat       talk to a model             heddle chat --model models/heddle-tiny --tp 2
  generate   answers to a prompt         heddle generate --model models/heddle-tiny --prompt "Hello" --json
  info       this machine, or a model's shards on its ranks
  plan       what a model takes at each size     heddle plan --model Qwen/Qwen3-8B --gpu H200
  verify     whether splitting changes a model   heddle verify --model models/heddle-tiny --tp 1,2,4

Options of every command
${helpLines(modelFlag)}  --help

heddle --version prints the version.

Options of chat, generate and info
${helpLines(loadFlags)}
Options of chat and generate
${helpLines(chatFlags)}
Options of generate
${helpLines({ ...promptFlags, ...notOf(chatFlags, generateFlags) })}
Options of plan
${helpLines(notOf(loadFlags, planFlags))}  and, as above, ${namesOf(planFlags)}

Options of verify
${helpLines(notOf(loadFlags, verifyFlags))}  and, as above, ${namesOf(verifyFlags)}

Options of generate, info, plan and verify
${helpLines(jsonFlag)}`

const commands: Record<string, (args: string[]) => Promise<number | void>> = { chat, generate, info, plan, verify }

const hints: Partial<Record<HeddleErrorCode, string>> = {
  invalid_argument: 'check the options; heddle --help lists them',
  corrupt_file: 'the file is damaged or incomplete: download or copy it again',
  unsupported_model: 'use a checkpoint of a supported architecture',
  aborted: 'it was stopped by Ctrl-C',
  out_of_memory: 'free memory, or use a smaller model or --dtype bfloat16',
  unavailable: 'heddle info shows what this machine offers'
}

const hubHint = 'a model folder works without the hub; check the name, the network and HF_TOKEN'

async function main(args: string[]): Promise<number> {
  const [name, ...rest] = args
  if ([...args, ...(name === 'help' ? ['--help'] : [])].some((arg) => arg === '--help' || arg === '-h')) return write(process.stdout, usage, 0)
  if (name === '--version' || name === '-v') return write(process.stdout, `${version}\n`, 0)
  try {
    const command = name !== undefined && Object.hasOwn(commands, name) ? commands[name] : undefined
    if (!command) throw new UsageError(name === undefined ? 'expected a command' : `no command ${JSON.stringify(name)}`)
    return (await command(rest)) ?? 0
  } catch (error) {
    return report(error)
  }
}

function report(error: unknown): number {
  const oneLine = printable(messageOf(error))
  if (error instanceof UsageError) return write(process.stderr, `heddle: ${oneLine}\nhint: heddle --help\n`, 2)
  const code = error instanceof HeddleError ? error.code : undefined
  const isOfHub = code === 'unavailable' && /\bthe hub\b|HF_HUB_OFFLINE|cannot be downloaded/.test(oneLine)
  const hint = (isOfHub ? hubHint : code && hints[code]) ?? 'heddle info shows the machine; please report this if it should work'
  return write(process.stderr, `heddle: ${code ? `[${code}] ` : ''}${oneLine}\nhint: ${hint}\n`, 1)
}

function write(stream: NodeJS.WriteStream, text: string, exitCode: number): number {
  stream.write(text)
  return exitCode
}

/** A warning of the library as one line, and once where a command loads several times; others as Node has them. */
function showWarnings(): void {
  const shown = new Set<string>()
  const inherited = process.listeners('warning')
  process.removeAllListeners('warning')
  process.on('warning', (warning) => {
    if (warning.name !== 'HeddleWarning') return inherited.forEach((listener) => listener.call(process, warning))
    if (!shown.has(warning.message)) process.stderr.write(`heddle: warning: ${printable(warning.message)}\n`)
    shown.add(warning.message)
  })
}

showWarnings()
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') process.stderr.write(`heddle: stdout: ${error.message}\n`)
  process.exit(error.code === 'EPIPE' ? 0 : 1) // the reader of a pipe left
})
void main(process.argv.slice(2)).then((exitCode) => {
  process.exitCode = exitCode
})
