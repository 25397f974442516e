// The safetensors header reader takes what the format allows and refuses the rest by name: file, tensor, rule.
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { HeddleError } from '../../lib/errors'
import { maxHeaderBytes, parseSafetensorsHeader, readSafetensorsHeader } from '../../lib/models/safetensors'

const encode = (text: string): Uint8Array => new TextEncoder().encode(text)

/** Reads a header whose data part has `dataBytes` bytes. */
function read(header: string | Uint8Array, dataBytes: number) {
  const bytes = typeof header === 'string' ? encode(header) : header
  return parseSafetensorsHeader(bytes, 'x.safetensors', 8 + bytes.length + dataBytes)
}

function expectCorrupt(action: () => unknown, pattern: RegExp): void {
  let thrown: unknown
  try {
    action()
  } catch (error) {
    thrown = error
  }
  expect(thrown).toBeInstanceOf(HeddleError)
  expect((thrown as HeddleError).code).toBe('corrupt_file')
  expect((thrown as HeddleError).message).toMatch(/x\.safetensors/)
  expect((thrown as HeddleError).message).toMatch(pattern)
}

const tensor = (dtype: string, shape: number[], begin: number, end: number): string =>
  `{"dtype":"${dtype}","shape":[${shape.join(',')}],"data_offsets":[${begin},${end}]}`

describe('accepted', () => {
  test('tensors with their offsets in the file, in any order, with metadata and whitespace around', () => {
    const header = ` {"b":${tensor('BF16', [3], 8, 14)}, "a":${tensor('F32', [2, 1], 0, 8)},"__metadata__":{"format":"pt"}}  \n`
    const { tensors, metadata } = read(header, 14)
    expect(tensors.get('a')).toEqual({ name: 'a', dtype: 'F32', shape: [2, 1], offset: 8 + header.length, byteCount: 8 })
    expect(tensors.get('b')).toEqual({ name: 'b', dtype: 'BF16', shape: [3], offset: 16 + header.length, byteCount: 6 })
    expect([...metadata]).toEqual([['format', 'pt']])
  })

  test.each([
    ['no tensors', '{}', 0],
    ['a scalar', `{"a":${tensor('F32', [], 0, 4)}}`, 4],
    [
      'a zero-size tensor between others',
      `{"a":${tensor('F32', [1], 0, 4)},"z":${tensor('F32', [0, 5], 4, 4)},"b":${tensor('U8', [1], 4, 5)}}`,
      5
    ],
    [
      'a zero-size tensor listed after the one that starts where it does',
      `{"b":${tensor('U8', [1], 0, 1)},"z":${tensor('U8', [0], 0, 0)}}`,
      1
    ],
    ['4-bit elements in whole bytes', `{"a":${tensor('F4', [3, 2], 0, 3)}}`, 3],
    ['an escaped name', `{"a\\u00e9\\ud83d\\ude00":${tensor('U8', [1], 0, 1)}}`, 1],
    ['eight dimensions', `{"a":${tensor('U8', [1, 1, 1, 1, 1, 1, 1, 1], 0, 1)}}`, 1],
    ['null metadata', '{"__metadata__":null}', 0],
    ['a tensor called __proto__', `{"__proto__":${tensor('U8', [1], 0, 1)}}`, 1]
  ])('%s', (_, header, dataBytes) => {
    expect(read(header, dataBytes).tensors.size).toBe((header.match(/dtype/g) ?? []).length)
  })
})

describe('refused', () => {
  const one = tensor('U8', [1], 0, 1)
  test.each<[string, string | Uint8Array, number, RegExp]>([
    ['bytes that are not UTF-8', Uint8Array.of(0x7b, 0xff, 0x7d), 0, /UTF-8/],
    ['a byte order mark', `\ufeff{}`, 0, /JSON/],
    ['no JSON', 'hello', 0, /JSON/],
    ['a list', '[]', 0, /object/],
    ['an open object', '{"a":', 0, /JSON/],
    ['text after the header', '{} x', 0, /nothing after/],
    ['a trailing comma', `{"a":${one},}`, 1, /a key/],
    ['a duplicate name', `{"a":${one},"a":${one}}`, 1, /"a" is a duplicate/],
    ['a duplicate name, escaped', `{"a":${one},"\\u0061":${one}}`, 1, /"a" is a duplicate/],
    ['a duplicate field', '{"a":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,1]}}', 1, /duplicate/],
    ['a lone surrogate', `{"\\ud800":${one}}`, 1, /surrogates/],
    ['an empty name', `{"":${one}}`, 1, /control characters/],
    ['a control character in a name', `{"a\\u0001":${one}}`, 1, /control characters/],
    ['a raw control character', `{"a\u0001":${one}}`, 1, /control character/],
    ['a tensor that is no object', '{"a":1}', 0, /tensor "a"/],
    ['an unknown dtype', `{"a":${tensor('F128', [1], 0, 16)}}`, 16, /tensor "a": unknown dtype "F128"/],
    ['no dtype', '{"a":{"shape":[1],"data_offsets":[0,1]}}', 1, /unknown dtype/],
    ['no shape', '{"a":{"dtype":"U8","data_offsets":[0,1]}}', 1, /shape/],
    ['a negative dimension', `{"a":${tensor('U8', [-1], 0, 1)}}`, 1, /shape/],
    ['a fraction', '{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}', 1, /integer/],
    ['an integer spelled as a float', '{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', 1, /integer/],
    ['minus zero', '{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}', 0, /shape/],
    ['an integer above 2^53 - 1', '{"a":{"dtype":"U8","shape":[18446744073709551614],"data_offsets":[0,1]}}', 1, /2\^53/],
    ['a product beyond 2^53', `{"a":${tensor('U8', [2 ** 40, 2 ** 40], 0, 1)}}`, 1, /too large/],
    ['nine dimensions', `{"a":${tensor('U8', [1, 1, 1, 1, 1, 1, 1, 1, 1], 0, 1)}}`, 1, /at most 8 dimensions/],
    ['half a byte', `{"a":${tensor('F4', [1], 0, 1)}}`, 1, /whole byte/],
    ['one offset', '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}', 1, /two data_offsets/],
    ['three offsets', '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}', 1, /two data_offsets/],
    ['an end before the begin', `{"a":${tensor('U8', [1], 1, 0)}}`, 1, /end before they begin/],
    ['a length that does not fit shape and dtype', `{"a":${tensor('F32', [2], 0, 4)}}`, 4, /takes 8 bytes, data_offsets hold 4/],
    ['a hole at the start', `{"a":${tensor('U8', [1], 1, 2)}}`, 2, /a hole/],
    ['a hole between tensors', `{"a":${one},"b":${tensor('U8', [1], 2, 3)}}`, 3, /tensor "b": a hole/],
    ['overlapping tensors', `{"a":${tensor('U8', [2], 0, 2)},"b":${tensor('U8', [2], 1, 3)}}`, 3, /tensor "b": its data overlaps/],
    ['two tensors in one place', `{"a":${one},"b":${one}}`, 1, /overlaps/],
    ['data out of the file', `{"a":${tensor('F32', [4], 0, 16)}}`, 8, /tensor "a": its data ends at byte \d+, the file at \d+/],
    ['bytes after the data', `{"a":${one}}`, 2, /the data ends/],
    ['metadata that is no text', '{"__metadata__":{"a":1}}', 0, /__metadata__/],
    ['deep nesting', `{"a":${'['.repeat(100)}${']'.repeat(100)}}`, 0, /nesting/]
  ])('%s', (_, header, dataBytes, pattern) => expectCorrupt(() => read(header, dataBytes), pattern))
})

test('any single byte of a header changed, or the header cut anywhere, is read or refused with corrupt_file, never anything else', () => {
  const header = encode(`{"a":${tensor('F32', [2, 1], 0, 8)},"b":${tensor('BF16', [3], 8, 14)}}`)
  let refused = 0
  const attempt = (bytes: Uint8Array): void => {
    try {
      read(bytes, 14)
    } catch (error) {
      refused++
      expect((error as HeddleError).code).toBe('corrupt_file')
    }
  }
  for (let at = 0; at < header.length; at++) {
    attempt(header.slice(0, at))
    for (const value of [0, 0x20, 0x22, 0x2d, 0x30, 0x39, 0x5c, 0x7b, 0x7d, 0xff]) attempt(header.with(at, value))
  }
  expect(refused).toBeGreaterThan(header.length * 8)
})

test('the time of many tensors grows as their number does', () => {
  /** Least computing time of a few readings, in microseconds. */
  function timeOf(count: number, readings: number): number {
    const header = `{${Array.from({ length: count }, (_, i) => `"model.layers.${i}.weight":${tensor('U8', [1], i, i + 1)}`).join(',')}}`
    const times = Array.from({ length: readings }, () => {
      const before = process.cpuUsage()
      expect(read(header, count).tensors.size).toBe(count)
      const { user, system } = process.cpuUsage(before)
      return user + system
    })
    return Math.min(...times)
  }
  // Comparing each tensor with each other one would take 1024 times as long.
  expect(timeOf(128_000, 2)).toBeLessThan(256 * Math.max(timeOf(4_000, 10), 1000))
})

describe('files', () => {
  let folder = ''
  beforeAll(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), 'heddle-safetensors-'))
  })
  afterAll(() => rm(folder, { recursive: true }))

  const write = async (length: bigint, rest: Uint8Array): Promise<string> => {
    const file = path.join(folder, 'x.safetensors')
    const head = Buffer.alloc(8)
    head.writeBigUInt64LE(length)
    await writeFile(file, Buffer.concat([head, rest]))
    return file
  }

  test('a header length above the limit is refused before anything is read of it', async () => {
    const file = await write(BigInt(maxHeaderBytes) + 1n, encode('{}'))
    await truncate(file, 200_000_000) // sparse: long enough
    await expect(readSafetensorsHeader(file)).rejects.toMatchObject({
      code: 'corrupt_file',
      message: expect.stringMatching(/header too large.*100000001/)
    })
    await expect(readSafetensorsHeader(await write(2n ** 64n - 1n, encode('{}')))).rejects.toMatchObject({ code: 'corrupt_file' })
  })

  test('a header that ends after the file, and a file without the length, are truncated', async () => {
    await expect(readSafetensorsHeader(await write(1000n, encode('{}')))).rejects.toMatchObject({
      code: 'corrupt_file',
      message: expect.stringMatching(/truncated/)
    })
    const short = path.join(folder, 'short')
    await writeFile(short, 'abc')
    await expect(readSafetensorsHeader(short)).rejects.toMatchObject({ code: 'corrupt_file', message: expect.stringMatching(/truncated/) })
  })

  test('a folder and a missing file are named', async () => {
    await expect(readSafetensorsHeader(folder)).rejects.toMatchObject({ code: 'corrupt_file' })
    await expect(readSafetensorsHeader(path.join(folder, 'none'))).rejects.toMatchObject({
      code: 'corrupt_file',
      message: expect.stringMatching(/none/)
    })
  })
})
