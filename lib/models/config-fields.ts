// Typed, bounded reading of the fields of a configuration file. The file is untrusted: no number gets out of here that was not checked.
import { HeddleError } from '../errors'
import type { JsonObject, JsonValue } from './strict-json'

export class ConfigFields {
  constructor(
    private readonly fields: JsonObject,
    readonly where: string
  ) {}

  /** Absent and null are the same: configurations write both. */
  value(name: string): Exclude<JsonValue, null> | undefined {
    return this.fields.get(name) ?? undefined
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

  /** One token id, or a list of them, or none. */
  tokenIds(name: string): number[] {
    const value = this.value(name)
    if (value === undefined) return []
    const ids = Array.isArray(value) ? value : [value]
    const isId = (id: JsonValue): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < 2 ** 31
    if (ids.length <= 1024 && ids.every(isId)) return ids
    throw this.wrong(name, 'a token id or a list of them', value)
  }

  section(name: string): ConfigFields | undefined {
    const value = this.value(name)
    if (value === undefined) return undefined
    if (value instanceof Map) return new ConfigFields(value, `${this.where}: ${name}`)
    throw this.wrong(name, 'an object', value)
  }

  /** Refuses a field that would change the result and that nothing here understands. */
  unsupported(name: string, hint = ''): HeddleError {
    return new HeddleError('unsupported_model', `${this.where}: ${name} ${show(this.value(name))} is not supported${hint}`, {
      details: { field: name }
    })
  }

  wrong(name: string, expected: string, got: JsonValue | undefined): HeddleError {
    const text = `${this.where}: ${name}: expected ${expected}, got ${got === undefined ? 'nothing' : show(got)}`
    return new HeddleError('corrupt_file', text, { details: { field: name } })
  }
}

function show(value: JsonValue | undefined): string {
  if (value instanceof Map) return '{…}'
  if (Array.isArray(value)) return `a list of ${value.length}`
  return JSON.stringify(value ?? null).slice(0, 80)
}
