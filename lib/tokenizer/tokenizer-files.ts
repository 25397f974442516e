// Reads and checks the tokenizer's files of a model folder.
// Rule: the files are untrusted; a bad one is a HeddleError that names it, never a crash.
import { promises as fs } from 'node:fs'
import * as path from 'node:path'
import { checkNoPointer } from '../checks'
import { HeddleError, describe, invalidArgument, messageOf } from '../errors'
import { isFile } from '../files'

const where = 'AutoTokenizer.fromPretrained'
const mebibyte = 2 ** 20
const sizeLimits = { 'tokenizer.json': 128 * mebibyte, 'tokenizer_config.json': 16 * mebibyte, 'chat_template.jinja': mebibyte }
const maxTokenId = 2 ** 24 // far above any vocabulary in use; an id is an index into an array

type FileName = keyof typeof sizeLimits
export type JsonObject = Record<string, unknown>

export interface TokenizerJson extends JsonObject {
  model: JsonObject & { vocab: Record<string, number> }
  pre_tokenizer: JsonObject | null
  added_tokens: { id: number; content: string; special?: boolean }[]
}

export interface TokenizerFiles {
  tokenizer: TokenizerJson
  tokenizerPath: string
  config: JsonObject
  /** The text of chat_template.jinja; undefined where there is none. */
  chatTemplate?: string
}

export async function readTokenizerFiles(folder: string): Promise<TokenizerFiles> {
  if (typeof folder !== 'string' || folder === '') throw invalidArgument(where, 'the path of a model folder', folder)
  await checkFolder(folder)
  const tokenizerPath = path.join(folder, 'tokenizer.json')
  const tokenizerText = await readText(folder, 'tokenizer.json')
  if (tokenizerText === undefined) {
    throw new HeddleError('invalid_argument', `${where}: expected a file tokenizer.json in ${folder}, got none`, {
      details: { missing: tokenizerPath }
    })
  }
  const configText = await readText(folder, 'tokenizer_config.json')
  return {
    tokenizer: checkTokenizer(parseObject(tokenizerText, tokenizerPath), tokenizerPath),
    tokenizerPath,
    config: configText === undefined ? {} : parseObject(configText, path.join(folder, 'tokenizer_config.json')),
    chatTemplate: await readText(folder, 'chat_template.jinja')
  }
}

/** Whether a folder has a tokenizer at all; a model without one takes and gives ids. */
export const hasTokenizer = (folder: string): Promise<boolean> => isFile(path.join(folder, 'tokenizer.json'))

export function corruptFile(file: string, problem: string, cause?: unknown): HeddleError {
  return new HeddleError('corrupt_file', `${file}: ${problem}`, { cause, details: { file } })
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

async function checkFolder(folder: string): Promise<void> {
  const stat = await fs.stat(folder).catch(() => undefined)
  if (stat?.isDirectory()) return
  const got = stat ? 'a file' : 'nothing there'
  throw new HeddleError('invalid_argument', `${where}: expected a model folder at ${folder}, got ${got}`)
}

async function readText(folder: string, name: FileName): Promise<string | undefined> {
  const file = path.join(folder, name)
  const stat = await fs.stat(file).catch(() => undefined)
  if (!stat) return undefined
  if (!stat.isFile()) throw corruptFile(file, 'expected a file, got something else')
  const limit = sizeLimits[name]
  if (stat.size > limit) throw corruptFile(file, `expected at most ${limit / mebibyte} MiB, got ${Math.ceil(stat.size / mebibyte)} MiB`)
  let bytes: Buffer
  try {
    bytes = await fs.readFile(file)
  } catch (cause) {
    throw new HeddleError('unavailable', `${file}: cannot be read: ${messageOf(cause)}`, { cause })
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw corruptFile(file, 'expected UTF-8 text, got other bytes', cause)
  }
}

function parseObject(text: string, file: string): JsonObject {
  checkNoPointer(file, text)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw corruptFile(file, `expected JSON: ${messageOf(cause)}`, cause)
  }
  if (!isObject(value)) throw corruptFile(file, 'expected a JSON object')
  return value
}

// The library indexes arrays with what it finds here, so ids are checked before it sees them; the rest of the structure it checks itself.
function checkTokenizer(json: JsonObject, file: string): TokenizerJson {
  const { model, added_tokens: addedTokens = [] } = json
  if (!isObject(model)) throw corruptFile(file, 'expected an object "model"')
  if (Array.isArray(model.vocab)) checkScoredVocabulary(model.vocab, file)
  else checkVocabulary(model.vocab, file)
  if (model.type === 'BPE' || model.merges !== undefined) checkMerges(model.merges, file)
  if (!Array.isArray(addedTokens)) throw corruptFile(file, 'expected a list "added_tokens"')
  for (const token of addedTokens) {
    if (!isObject(token) || typeof token.content !== 'string' || token.content === '' || !isTokenId(token.id)) {
      throw corruptFile(file, 'expected every added token to have a text and an id')
    }
  }
  const checked: JsonObject = { ...json, added_tokens: addedTokens }
  for (const part of ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder']) {
    checked[part] ??= null
    if (checked[part] !== null && !isObject(checked[part])) throw corruptFile(file, `expected "${part}" to be an object or null`)
  }
  return checked as TokenizerJson
}

function checkVocabulary(vocab: unknown, file: string): void {
  if (!isObject(vocab)) throw corruptFile(file, 'expected an object "model.vocab"')
  for (const [token, id] of Object.entries(vocab)) {
    if (isTokenId(id)) continue
    throw corruptFile(file, `expected an id from 0 to ${maxTokenId - 1} for the token ${describe(token)}, got ${describe(id)}`)
  }
}

function checkScoredVocabulary(vocab: unknown[], file: string): void {
  const sound = vocab.every((entry) => Array.isArray(entry) && typeof entry[0] === 'string' && typeof entry[1] === 'number')
  if (!sound) throw corruptFile(file, 'expected "model.vocab" to be a list of pairs of text and score')
}

function checkMerges(merges: unknown, file: string): void {
  const sound = Array.isArray(merges) && merges.every((merge) => typeof merge === 'string' || isTextPair(merge))
  if (!sound) throw corruptFile(file, 'expected "model.merges" to be a list of pairs of tokens')
}

function isTextPair(value: unknown): boolean {
  return Array.isArray(value) && value.length === 2 && typeof value[0] === 'string' && typeof value[1] === 'string'
}

export function isTokenId(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < maxTokenId
}
