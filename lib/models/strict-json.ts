// A JSON reader for files that nobody vouches for. Unlike JSON.parse it refuses what two readers could understand differently: equal keys
// in one object, integers that a double cannot hold, lone surrogates, deep nesting. Objects become Maps, so that no key can touch a
// prototype.
import { checkNoPointer } from '../checks'
import { HeddleError } from '../errors'

export type JsonValue = null | boolean | number | string | JsonValue[] | JsonObject
export type JsonObject = Map<string, JsonValue>

export interface JsonOptions {
  /** refuse numbers that are not spelled as integers */
  integersOnly?: boolean
}

const maxDepth = 64
const numberPattern = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y
const escapes: Record<string, string> = { '"': '"', '\\': '\\', '/': '/', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' }
const literals: [string, null | boolean][] = [
  ['true', true],
  ['false', false],
  ['null', null]
]
const code = {
  quote: 34,
  comma: 44,
  minus: 45,
  zero: 48,
  nine: 57,
  colon: 58,
  backslash: 92,
  openList: 91,
  closeList: 93,
  open: 123,
  close: 125
}

/** Decodes and reads `bytes`; every failure is `corrupt_file` with `where` in front and the position in characters. */
export function parseStrictJson(bytes: Uint8Array, where: string, options: JsonOptions = {}): JsonValue {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (cause) {
    throw new HeddleError('corrupt_file', `${where}: expected UTF-8, got bytes that are none`, { cause })
  }
  checkNoPointer(where, text)
  return new StrictJsonReader(text, where, options).read()
}

/** As parseStrictJson, for a file whose top level is an object. */
export function parseStrictJsonObject(bytes: Uint8Array, where: string, options: JsonOptions = {}): JsonObject {
  const value = parseStrictJson(bytes, where, options)
  if (!(value instanceof Map)) throw new HeddleError('corrupt_file', `${where}: expected a JSON object`)
  return value
}

class StrictJsonReader {
  private at = 0

  constructor(
    private readonly text: string,
    private readonly where: string,
    private readonly options: JsonOptions
  ) {}

  read(): JsonValue {
    const value = this.value(0)
    this.skipSpace()
    if (this.at < this.text.length) throw this.error('nothing after the value')
    return value
  }

  private value(depth: number): JsonValue {
    if (depth > maxDepth) throw this.error(`at most ${maxDepth} levels of nesting`)
    this.skipSpace()
    const first = this.text.charCodeAt(this.at)
    if (first === code.open) return this.object(depth)
    if (first === code.openList) return this.list(depth)
    if (first === code.quote) return this.string()
    if (first === code.minus || (first >= code.zero && first <= code.nine)) return this.number()
    for (const [word, value] of literals) {
      if (!this.text.startsWith(word, this.at)) continue
      this.at += word.length
      return value
    }
    throw this.error('a value')
  }

  private object(depth: number): JsonObject {
    const result: JsonObject = new Map()
    this.at++
    if (this.takes(code.close)) return result
    do {
      this.skipSpace()
      if (this.text.charCodeAt(this.at) !== code.quote) throw this.error('a key')
      const key = this.string()
      if (result.has(key)) throw this.error(`each key once, the key ${JSON.stringify(key.slice(0, 200))} is a duplicate`)
      if (!this.takes(code.colon)) throw this.error('":" after a key')
      result.set(key, this.value(depth + 1))
    } while (this.takes(code.comma))
    if (!this.takes(code.close)) throw this.error('"," or "}"')
    return result
  }

  private list(depth: number): JsonValue[] {
    const result: JsonValue[] = []
    this.at++
    if (this.takes(code.closeList)) return result
    do result.push(this.value(depth + 1))
    while (this.takes(code.comma))
    if (!this.takes(code.closeList)) throw this.error('"," or "]"')
    return result
  }

  private string(): string {
    let start = ++this.at
    let result = ''
    for (;;) {
      const unit = this.text.charCodeAt(this.at)
      if (unit === code.quote) break
      if (unit === code.backslash) {
        result += this.text.slice(start, this.at) + this.escape()
        start = this.at
      } else if (unit >= 32) {
        this.at++
      } else {
        throw this.error(Number.isNaN(unit) ? 'the end of a text' : 'no control character in a text')
      }
    }
    return result + this.text.slice(start, this.at++)
  }

  private escape(): string {
    const kind = this.text[this.at + 1] ?? ''
    if (kind === 'u') return this.unicodeEscape()
    const character = escapes[kind]
    if (character === undefined) throw this.error('a known escape')
    this.at += 2
    return character
  }

  private unicodeEscape(): string {
    const first = this.hexUnit()
    if (first < 0xd800 || first > 0xdfff) return String.fromCharCode(first)
    const second = first < 0xdc00 && this.text.startsWith('\\u', this.at) ? this.hexUnit() : 0
    if (second < 0xdc00 || second > 0xdfff) throw this.error('surrogates in pairs')
    return String.fromCharCode(first, second)
  }

  private hexUnit(): number {
    const digits = this.text.slice(this.at + 2, this.at + 6)
    if (!/^[0-9a-fA-F]{4}$/.test(digits)) throw this.error('four hexadecimal digits')
    this.at += 6
    return Number.parseInt(digits, 16)
  }

  private number(): number {
    numberPattern.lastIndex = this.at
    const match = numberPattern.exec(this.text)
    if (!match) throw this.error('a number')
    const isInteger = match[1] === undefined && match[2] === undefined
    const value = Number(match[0])
    if (isInteger && !Number.isSafeInteger(value)) throw this.error(`integers of at most 2^53 - 1, got ${match[0].slice(0, 40)}`)
    if (!isInteger && this.options.integersOnly) throw this.error(`an integer, got ${match[0].slice(0, 40)}`)
    if (!Number.isFinite(value)) throw this.error(`a finite number, got ${match[0].slice(0, 40)}`)
    this.at += match[0].length
    return value
  }

  private takes(unit: number): boolean {
    this.skipSpace()
    if (this.text.charCodeAt(this.at) !== unit) return false
    this.at++
    return true
  }

  private skipSpace(): void {
    for (;;) {
      const unit = this.text.charCodeAt(this.at)
      if (unit !== 32 && unit !== 10 && unit !== 13 && unit !== 9) return
      this.at++
    }
  }

  private error(expected: string): HeddleError {
    return new HeddleError('corrupt_file', `${this.where}: not valid JSON at character ${this.at}: expected ${expected}`)
  }
}
