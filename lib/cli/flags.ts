// A flag of the command line: how its text becomes what the API takes, and its line in the help. Rule: whatever the user mistyped is a
// UsageError, exit code 2; what the API can check it checks.
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { HeddleError, messageOf } from '../errors'
import { parseStrictJson } from '../models/strict-json'
import type { TPPlan } from '../models/tp-plan'

export class UsageError extends Error {}

export interface Flag<T> {
  /** without dashes */
  flag: string
  /** what the help calls its value; absent for a switch, which has none and a counterpart with `no-` */
  value?: string
  help: string
  /** may be given several times */
  repeats?: true
  read: (given: Given, flag: string) => T
}

/** An option of the API without a flag, and why. */
export interface NoFlag {
  flag: string
  why: string
}

/** For each option of an interface a flag that gives what it takes, or the reason why there is none: none can be forgotten. */
export type FlagTable<Options> = { [K in keyof Options]-?: Flag<NonNullable<Options[K]>> | NoFlag }

export type Flags = Readonly<Record<string, Flag<unknown> | NoFlag>>

export type Given = string | boolean | string[]

export type Values = Readonly<Record<string, Given | undefined>>

/** As `parseArgs` of Node has it. */
interface NodeOption {
  type: 'string' | 'boolean'
  multiple?: boolean
}

type Read<T extends Flags> = { [K in keyof T as T[K] extends Flag<unknown> ? K : never]?: T[K] extends Flag<infer V> ? V : never }

const isFlag = (entry: Flag<unknown> | NoFlag): entry is Flag<unknown> => 'read' in entry

const flagsOf = (tables: readonly Flags[]): Flag<unknown>[] => tables.flatMap((table) => Object.values(table)).filter(isFlag)

/** What a command line gives for the flags of these tables, as texts. `--help` is known everywhere. */
export function parseFlags(args: string[], ...tables: Flags[]): Values {
  const named = flagsOf(tables).flatMap(({ flag, value, repeats }): [string, NodeOption][] => {
    if (value === undefined) return [[flag, { type: 'boolean' }], [`no-${flag}`, { type: 'boolean' }]]
    return [[flag, { type: 'string', ...(repeats && { multiple: true }) }]]
  })
  try {
    const options = { ...Object.fromEntries(named), help: { type: 'boolean' as const } }
    return parseArgs({ args, options, strict: true, allowPositionals: false }).values as Values
  } catch (error) {
    throw new UsageError(reasonOf(messageOf(error), tables))
  }
}

/** An option that the API has may be missing here for a reason; else Node's first line, and the part of its advice that helps. */
function reasonOf(message: string, tables: readonly Flags[]): string {
  const first = message.split('\n')[0]!.split('. To specify')[0]!
  const unknown = /Unknown option '--(?:no-)?([\w-]+)'/.exec(first)?.[1]
  const without = tables.flatMap((table) => Object.values(table)).find((entry) => !isFlag(entry) && entry.flag === unknown)
  if (without && !isFlag(without)) return `--${without.flag} is no option here: ${without.why}`
  const withDash = /use '(--[\w-]+=-XYZ)'/.exec(message)
  return withDash ? `${first.replace(/\.$/, '')}: write a value that begins with a dash as ${withDash[1]}` : first
}

/** The options of the API that were given. */
export function readFlags<T extends Flags>(values: Values, table: T): Read<T> {
  const read = Object.entries(table).flatMap(([option, entry]) => {
    const given = isFlag(entry) ? givenOf(values, entry) : undefined
    return given === undefined ? [] : [[option, (entry as Flag<unknown>).read(given, entry.flag)]]
  })
  return Object.fromEntries(read) as Read<T>
}

function givenOf(values: Values, { flag, value }: Flag<unknown>): Given | undefined {
  if (value !== undefined) return values[flag]
  const [on, off] = [values[flag], values[`no-${flag}`]]
  if (on && off) throw new UsageError(`expected one of --${flag} and --no-${flag}`)
  return on ? true : off ? false : undefined
}

const helpColumn = 30

/** A line for each flag, two where it is long. */
export function helpLines(table: Flags): string {
  return flagsOf([table]).map(({ flag, value, help }) => {
    const shown = value === undefined ? `--[no-]${flag}` : `--${flag} ${value}`
    const column = shown.length < helpColumn ? shown.padEnd(helpColumn) : `${shown}\n${' '.repeat(helpColumn + 2)}`
    return `  ${column}${help}\n`
  }).join('')
}

export const without = (flag: string, why: string): NoFlag => ({ flag, why })

export const switched = (flag: string, help: string): Flag<boolean> => ({ flag, help, read: (given) => given === true })

export const text = (flag: string, value: string, help: string): Flag<string> => ({ flag, value, help, read: String })

/** May be given several times. */
export const texts = (flag: string, value: string, help: string): Flag<string[]> =>
  ({ flag, value, help, repeats: true, read: (given) => given as string[] })

export const number = (flag: string, value: string, help: string): Flag<number> => ({ flag, value, help, read: readNumber })

/** A whole number from 1. */
export const count = (flag: string, value: string, help: string): Flag<number> => ({ flag, value, help, read: readCount })

export const choice = <T extends string>(flag: string, choices: readonly T[], help: string): Flag<T> =>
  ({ flag, value: choices.join('|'), help, read: (given) => readChoice(given, flag, choices) })

/** Whole numbers from 0, between commas. */
export const numbers = (flag: string, value: string, help: string): Flag<number[]> => ({ flag, value, help, read: readNumbers })

export const biases = (flag: string, value: string, help: string): Flag<Map<number, number>> => ({ flag, value, help, read: readBiases })

export const plan = (flag: string, value: string, help: string): Flag<TPPlan> => ({ flag, value, help, read: readPlan })

function readNumber(given: Given, flag: string): number {
  const parsed = String(given).trim() === '' ? NaN : Number(given)
  if (Number.isFinite(parsed)) return parsed
  throw new UsageError(`--${flag} expects a number, got ${JSON.stringify(given)}`)
}

function readCount(given: Given, flag: string): number {
  const read = readNumber(given, flag)
  if (Number.isInteger(read) && read >= 1) return read
  throw new UsageError(`--${flag} expects a whole number from 1, got ${JSON.stringify(given)}`)
}

function readChoice<T extends string>(given: Given, flag: string, choices: readonly T[]): T {
  if (choices.includes(given as T)) return given as T
  throw new UsageError(`--${flag} expects ${choices.join(', ')}, got ${JSON.stringify(given)}`)
}

function readNumbers(given: Given, flag: string): number[] {
  if (/^\d{1,9}(,\d{1,9})*$/.test(String(given))) return String(given).split(',').map(Number)
  throw new UsageError(`--${flag} expects numbers such as 0,1, got ${JSON.stringify(given)}`)
}

function readBiases(given: Given, flag: string): Map<number, number> {
  const entries = String(given).split(',').map((entry): [number, number] => {
    const [, id, bias] = /^(\d{1,9}):(-?(?:\d+(?:\.\d+)?|Infinity))$/.exec(entry.trim()) ?? []
    if (id === undefined) throw new UsageError(`--${flag} expects token ids and numbers such as 5:-2,17:1.5, got ${JSON.stringify(given)}`)
    return [Number(id), Number(bias)]
  })
  return new Map(entries)
}

/** `auto`, or a file with a JSON object of styles by module; what the styles mean the API checks. */
function readPlan(given: Given, flag: string): TPPlan {
  if (given === 'auto') return 'auto'
  const where = `--${flag} ${String(given)}`
  const wrong = (cause: unknown): HeddleError => new HeddleError('invalid_argument', `${where}: ${messageOf(cause).replace(`${where}: `, '')}`, { cause })
  try {
    const rules = parseStrictJson(readFileSync(String(given)), where)
    if (rules instanceof Map) return Object.fromEntries(rules) as TPPlan
  } catch (cause) {
    throw wrong(cause)
  }
  throw wrong('expected a JSON object from modules to styles, got something else')
}
