// Checks of data that comes from outside, put together from small ones. A check throws an Error "where: expected, got".
export type Check = (value: unknown, where: string) => void

export const text = is('a text', (value) => typeof value === 'string')
export const number = is('a finite number', Number.isFinite)
export const truth = is('true or false', (value) => typeof value === 'boolean')
export const object = is('an object', (value) => typeof value === 'object' && value !== null && !Array.isArray(value))

export function is(what: string, holds: (value: unknown) => boolean): Check {
  return (value, where) => {
    if (!holds(value)) throw new Error(`${where || 'the file'}: expected ${what}, got ${shown(value)}`)
  }
}

export function oneOf(...values: string[]): Check {
  return is(values.join(' or '), (value) => values.includes(value as string))
}

export function list(element: Check, least = 0): Check {
  return (value, where) => {
    if (!Array.isArray(value)) throw new Error(`${where}: expected a list, got ${shown(value)}`)
    if (value.length < least) throw new Error(`${where}: expected at least ${least}, got ${value.length}`)
    value.forEach((one, i) => element(one, `${where}[${i}]`))
  }
}

/** An object whose fields may have any name. */
export function record(element: Check): Check {
  return (value, where) => {
    object(value, where)
    for (const [key, one] of Object.entries(value as object)) element(one, joined(where, key))
  }
}

/** An object with these fields; others are left alone. */
export function fields(needed: Record<string, Check>, optional: Record<string, Check> = {}): Check {
  return (value, where) => {
    object(value, where)
    const given = value as Record<string, unknown>
    for (const [key, check] of Object.entries(needed)) check(given[key], joined(where, key))
    for (const [key, check] of Object.entries(optional)) if (given[key] !== undefined) check(given[key], joined(where, key))
  }
}

function joined(where: string, key: string): string {
  return where ? `${where}.${key}` : key
}

export function shown(value: unknown): string {
  return value === undefined ? 'nothing' : JSON.stringify(value).slice(0, 60)
}
