// Typed, bounded reading of the fields of a configuration file. The file is untrusted: no number gets out of here that was not checked.
import { HeddleError } from '../errors'
import type { JsonObject, JsonValue } from './strict-json'

/** How a family writes what others write otherwise: its names of fields, and what `transformers` takes for a field that is not there. */
export interface FieldCustoms {
  names?: Readonly<Record<string, string>>
  defaults?: Readonly<Record<string, JsonValue>>
}

export class ConfigFields {
  readonly #read = new Set<string>()

  constructor(
    private readonly fields: JsonObject,
    readonly where: string,
    private readonly customs: FieldCustoms = {}
  ) {}

  /** The same fields, read by the customs of a family. */
  with(customs: FieldCustoms): ConfigFields {
    return new ConfigFields(this.fields, this.where, customs)
  }

  /** Absent and null are the same, since configurations write both; but null takes no default. */
  value(name: string): Exclude<JsonValue, null> | undefined {
    const theirs = this.#nameOf(name)
    this.#read.add(theirs)
    const value = this.fields.has(theirs) ? this.fields.get(theirs) : this.#defaultOf(name)
    return value ?? undefined
  }

  #nameOf(name: string): string {
    const { names = {} } = this.customs
    return Object.hasOwn(names, name) ? names[name]! : name
  }

  #defaultOf(name: string): JsonValue | undefined {
    const { defaults = {} } = this.customs
    return Object.hasOwn(defaults, name) ? defaults[name] : undefined
  }

  /** Refuses by name a field that nobody read, unless it `isHarmless` or says nothing: null, false, 0, or empty. */
  refuseUnread(isHarmless: (name: string) => boolean): void {
    const [first] = this.unread(isHarmless)
    if (first !== undefined) throw this.unsupported(first)
  }

  /** Their names. */
  unread(isHarmless: (name: string, value: JsonValue) => boolean): string[] {
    const saysNothing = (value: JsonValue): boolean =>
      !value || (Array.isArray(value) && value.length === 0) || (value instanceof Map && value.size === 0)
    const fields = [...this.fields].filter(([name, value]) => !saysNothing(value) && !this.#read.has(name) && !isHarmless(name, value))
    return fields.map(([name]) => name)
  }

  has(name: string): boolean {
    return this.value(name) !== undefined
  }

  integer(name: string, bounds: { min?: number; max: number; default?: number }): number {
    const { min = 1, max } = bounds
    const value = this.value(name) ?? bounds.default
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value
    throw this.wrong(name, `an integer from ${min} to ${max}`, value)
  }

  number(name: string, bounds: { min: number; max: number; default?: number }): number {
    const { min, max } = bounds
    const value = this.value(name) ?? bounds.default
    if (typeof value === 'number' && value >= min && value <= max) return value
    throw this.wrong(name, `a number from ${min} to ${max}`, value)
  }

  flag(name: string, defaultValue: boolean): boolean {
    const value = this.value(name) ?? defaultValue
    if (typeof value === 'boolean') return value
    throw this.wrong(name, 'true or false', value)
  }

  text(name: string): string | undefined {
    const value = this.value(name)
    if (value === undefined || typeof value === 'string') return value
    throw this.wrong(name, 'a text', value)
  }

  /** Exactly `count` numbers within the bounds. */
  numbers(name: string, count: number, { min, max }: { min: number; max: number }): number[] {
    const value = this.value(name)
    const isNumber = (item: JsonValue): item is number => typeof item === 'number' && item >= min && item <= max
    if (Array.isArray(value) && value.length === count && value.every(isNumber)) return value
    throw this.wrong(name, `a list of ${count} numbers from ${min} to ${max}`, value)
  }

  /** A list of at most `max` texts, or nothing. */
  texts(name: string, max: number): string[] | undefined {
    const value = this.value(name)
    if (value === undefined) return undefined
    const isText = (item: JsonValue): item is string => typeof item === 'string'
    if (Array.isArray(value) && value.length <= max && value.every(isText)) return value
    throw this.wrong(name, `a list of at most ${max} texts`, value)
  }

  /** One token id, or a list of them, or none. */
  tokenIds(name: string): number[] {
    const value = this.value(name)
    if (value === undefined) return []
    const ids = Array.isArray(value) ? value : [value]
    const isId = (id: JsonValue): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < 2 ** 31
    if (ids.length <= 1024 && ids.every(isId)) return ids
    throw this.wrong(name, 'a token id or a list of them', value)
  }

  get isEmpty(): boolean {
    return this.fields.size === 0
  }

  section(name: string): ConfigFields | undefined {
    const value = this.value(name)
    if (value === undefined) return undefined
    if (value instanceof Map) return new ConfigFields(value, `${this.where}: ${name}`)
    throw this.wrong(name, 'an object', value)
  }

  /** Refuses a field that would change the result and that nothing here understands. */
  unsupported(name: string, hint = ''): HeddleError {
    const text = `${this.where}: ${this.#nameOf(name)} ${show(this.value(name))} is not supported${hint}`
    return new HeddleError('unsupported_model', text, { details: { field: this.#nameOf(name) } })
  }

  wrong(name: string, expected: string, got: JsonValue | undefined): HeddleError {
    const field = this.#nameOf(name)
    const text = `${this.where}: ${field}: expected ${expected}, got ${got === undefined ? 'nothing' : show(got)}`
    return new HeddleError('corrupt_file', text, { details: { field } })
  }
}

function show(value: JsonValue | undefined): string {
  if (value instanceof Map) return '{…}'
  if (Array.isArray(value)) return `a list of ${value.length}`
  return JSON.stringify(value ?? null).slice(0, 80)
}
