// Values that no honest caller passes, and the places inside an argument where they can be put.

export interface Hostile {
  name: string
  value: unknown
}

function detached(): Float32Array {
  const array = new Float32Array(64)
  structuredClone(array.buffer, { transfer: [array.buffer] })
  return array
}

function revoked(): unknown {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  return proxy
}

function refuseAll(): never {
  throw new TypeError('this property cannot be read')
}

const traps = { get: refuseAll, has: refuseAll, ownKeys: refuseAll, getPrototypeOf: refuseAll }

/** Made anew for every call: some of them would be spent by their first use. */
export function hostileValues(): Hostile[] {
  const named = (name: string, value: unknown): Hostile => ({ name, value })
  return [
    named('undefined', undefined),
    named('null', null),
    named('true', true),
    named('false', false),
    named('-1', -1),
    named('0', 0),
    named('0.5', 0.5),
    named('-2^53', -(2 ** 53)),
    named('2^31', 2 ** 31),
    named('2^32', 2 ** 32),
    named('2^53 - 1', Number.MAX_SAFE_INTEGER),
    named('2^53', 2 ** 53),
    named('2^63', 2 ** 63),
    named('1e300', 1e300),
    named('NaN', NaN),
    named('Infinity', Infinity),
    named('-Infinity', -Infinity),
    named('a bigint', 7n),
    named('a symbol', Symbol('x')),
    named('an empty text', ''),
    named('a text', 'x'),
    named('a number as text', '1'),
    named('a text with NUL', 'a\0b'),
    named('half a surrogate pair', '\ud800'),
    named('a megabyte of text', 'x'.repeat(1 << 20)),
    named('a function', () => 1),
    named('a class', class {}),
    named('an empty object', {}),
    named('an object without a prototype', Object.create(null)),
    named('an empty array', []),
    named('nested arrays', [[[]]]),
    named('an array of NaN', [NaN, NaN]),
    named('an array of 2^32 - 1 holes', new Array(2 ** 32 - 1)),
    named('an array whose element throws', Object.defineProperty([1, 2], 0, { get: refuseAll })),
    named('an object whose every property throws', new Proxy({}, traps)),
    named('a proxy of an array', new Proxy([1], {})),
    named('a proxy of a typed array', new Proxy(new Int32Array(4), {})),
    named('a revoked proxy', revoked()),
    named('a Uint8Array', new Uint8Array(16)),
    named('a Float64Array', new Float64Array(4)),
    named('a BigInt64Array', new BigInt64Array(4)),
    named('a Float32Array', new Float32Array(3)),
    named('an Int32Array', new Int32Array(3)),
    named('a Uint16Array', new Uint16Array(3)),
    named('an Int32Array of -2^31', Int32Array.of(-(2 ** 31), 2 ** 31 - 1)),
    named('an empty Int32Array', new Int32Array(0)),
    named('a detached Float32Array', detached()),
    named('a shared Int32Array', new Int32Array(new SharedArrayBuffer(16))),
    named('an ArrayBuffer', new ArrayBuffer(16)),
    named('a DataView', new DataView(new ArrayBuffer(16))),
    named('a Date', new Date(0)),
    named('a Map', new Map()),
    named('a promise', Promise.resolve(1)),
    named('an error', new Error('x')),
    named('a RegExp', /x/),
    named('a boxed number', Object(1)),
    named('a boxed text', Object('cpu'))
  ]
}

export type Path = (string | number)[]

/** Every place inside a value of plain objects and arrays, the value itself excluded; typed arrays are leaves. */
export function pathsInside(value: unknown, at: Path = []): Path[] {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return []
  const keys: Path = Array.isArray(value) ? value.map((_, index) => index) : Object.keys(value)
  return keys.flatMap((key) => [[...at, key], ...pathsInside((value as Record<string | number, unknown>)[key], [...at, key])])
}

/** A copy of `value` with `replacement` at `path`. */
export function replaced(value: unknown, [key, ...rest]: Path, replacement: unknown): unknown {
  if (key === undefined) return replacement
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<string | number, unknown>
  copy[key] = replaced(copy[key], rest, replacement)
  return copy
}
