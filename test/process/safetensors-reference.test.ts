// The reader of safetensors headers beside the reference implementation: what it accepts, the reference accepts; what it refuses and the
// reference does not is one of the rules that are stricter on purpose. Runs where bench/peers/install.sh has put the reference.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { readSafetensorsHeader } from '../../lib/models/safetensors'
import { golden } from '../support/models'

const { mutateSafetensors, randomFrom } = require('../fuzz/mutate.js') as {
  randomFrom: (seed: number) => (limit: number) => number
  mutateSafetensors: (random: (limit: number) => number, bytes: Buffer) => { start: Buffer; dataBytes: number }
}
const python = path.join(process.env.HEDDLE_PEERS ?? path.join(os.homedir(), '.cache', 'heddle-peers'), 'python', 'bin', 'python')
const withReference = existsSync(python) ? test : test.skip
const mutants = Number(process.env.HEDDLE_MUTANTS ?? 5000)

/** Answers each line, base64 of a file's start and how many zeros follow, with null or why it is refused. */
const reference = `
import base64, json, safetensors, sys
for line in sys.stdin:
    start, zeros = line.split()
    try:
        safetensors.deserialize(base64.b64decode(start) + bytes(int(zeros)))
        print("null")
    except Exception as error:
        print(json.dumps(str(error)))
`

interface File {
  start: Buffer
  dataBytes: number
}

const file = (header: string, dataBytes: number): File => {
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(header)))
  return { start: Buffer.concat([length, Buffer.from(header)]), dataBytes }
}

function verdictsOfReference(files: File[]): (string | null)[] {
  const input = files.map(({ start, dataBytes }) => `${start.toString('base64') || '===='} ${dataBytes}`).join('\n')
  const { stdout, stderr } = spawnSync(python, ['-c', reference], { input, encoding: 'utf8', maxBuffer: 2 ** 28 })
  expect(stderr).toBe('')
  return stdout.trim().split('\n').map((line) => JSON.parse(line) as string | null)
}

async function ourVerdicts(files: File[]): Promise<(string | null)[]> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'heddle-safetensors-'))
  const target = path.join(folder, 'x.safetensors')
  const verdicts: (string | null)[] = []
  for (const { start, dataBytes } of files) {
    writeFileSync(target, start)
    truncateSync(target, start.length + dataBytes)
    verdicts.push(await readSafetensorsHeader(target).then(() => null, (error: { code: string; message: string }) => {
      expect(error.code).toBe('corrupt_file')
      return error.message
    }))
  }
  rmSync(folder, { recursive: true })
  return verdicts
}

/** Where a file may be refused that the reference takes: two readers could understand it differently, or nobody writes such. */
const stricter = /is a duplicate|without control characters|at most 8 dimensions|2\^53|surrogates|too large|nesting/

async function compare(files: File[]): Promise<{ accepted: number; refused: number; stricter: number }> {
  const [ours, theirs] = [await ourVerdicts(files), verdictsOfReference(files)]
  expect(theirs).toHaveLength(files.length)
  const shown = (index: number) => ({ ours: ours[index], theirs: theirs[index], start: files[index]!.start.subarray(0, 400).toString('latin1') })
  const indices = files.map((_, index) => index)
  expect(indices.filter((i) => ours[i] === null && theirs[i] !== null).map(shown)).toEqual([])
  const onlyOurs = indices.filter((i) => ours[i] !== null && theirs[i] === null)
  expect(onlyOurs.filter((i) => !stricter.test(ours[i]!)).map(shown)).toEqual([])
  const accepted = ours.filter((verdict) => verdict === null).length
  return { accepted, refused: ours.length - accepted, stricter: onlyOurs.length }
}

withReference(`${mutants} damaged files`, async () => {
  const sources = ['qwen3', 'gpt2', 'mixtral', 'phi3-longrope'].map((name) => readFileSync(path.join(golden(name), 'model.safetensors')))
  const files = Array.from({ length: mutants }, (_, seed) => mutateSafetensors(randomFrom(seed), sources[seed % sources.length]!))
  const counts = await compare(files)
  expect(counts.accepted).toBeGreaterThan(mutants / 50)
  expect(counts.refused).toBeGreaterThan(mutants / 2)
})

withReference('files made by hand', async () => {
  const entry = (dtype: string, shape: string, offsets: string) => `{"dtype":"${dtype}","shape":${shape},"data_offsets":${offsets}}`
  const one = entry('U8', '[1]', '[0,1]')
  const dtypes = ['BOOL', 'F4', 'F6_E2M3', 'F6_E3M2', 'U8', 'I8', 'F8_E5M2', 'F8_E4M3', 'F8_E8M0', 'F8_E4M3FNUZ', 'F8_E5M2FNUZ', 'I16', 'U16', 'F16', 'BF16',
    'I32', 'U32', 'F32', 'C64', 'F64', 'I64', 'U64', 'F128', 'f32', '', 'I4']
  const shapes = ['[]', '[0]', '[1,0]', '[0,18446744073709551615]', '[1.0]', '[1e0]', '[-0]', '[-1]', '[null]', '["1"]', '[true]', '[[1]]', 'null', '{}', '1',
    '[1,1,1,1,1,1,1,1]', '[1,1,1,1,1,1,1,1,1]', '[4294967296,4294967296]', '[9007199254740993]', '[18446744073709551616]', '[01]', '[+1]', '[1,]']
  const offsets = ['[0,1]', '[1,0]', '[0]', '[0,1,2]', '[]', '[0,2]', '[1,2]', '[0.0,1]', '[-1,0]', '["0","1"]', 'null', '{"0":0}', '[0,18446744073709551615]', '[1,1]']
  const headers: [string, number][] = [
    ...dtypes.flatMap((dtype): [string, number][] => [[`{"a":${entry(dtype, '[8]', '[0,8]')}}`, 8], [`{"a":${entry(dtype, '[8]', '[0,32]')}}`, 32]]),
    ...shapes.flatMap((shape): [string, number][] => [[`{"a":${entry('U8', shape, '[0,1]')}}`, 1], [`{"a":${entry('U8', shape, '[0,0]')}}`, 0]]),
    ...offsets.map((pair): [string, number] => [`{"a":${entry('U8', '[1]', pair)}}`, 1]),
    ['{}', 0], ['{}', 1], [' {} ', 0], ['\ufeff{}', 0], ['{}\0', 0], ['{} x', 0], ['[]', 0], ['null', 0], ['', 0], ['{', 0], ['{"a"}', 0], [`{"a":${one},}`, 1],
    [`{"a":${one},"a":${one}}`, 1], [`{"":${one}}`, 1], [`{"a\\u0000":${one}}`, 1], [`{"a\u0001":${one}}`, 1], [`{"\\ud800":${one}}`, 1], [`{"\\u00e9":${one}}`, 1],
    [`{"__proto__":${one}}`, 1], [`{"a":${one},"b":${entry('U8', '[0]', '[1,1]')}}`, 1], [`{"b":${entry('U8', '[1]', '[1,2]')},"a":${one}}`, 2],
    [`{"a":${one},"b":${entry('U8', '[1]', '[2,3]')}}`, 3], [`{"a":${one},"b":${one}}`, 1], [`{"a":{"dtype":"U8","shape":[1]}}`, 1],
    ['{"a":{"dtype":"U8","data_offsets":[0,1]}}', 1], ['{"a":{"shape":[1],"data_offsets":[0,1]}}', 1], ['{"a":null}', 0], ['{"a":1}', 0], ['{"a":[]}', 0],
    [`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":1}}`, 1], [`{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1],
    [`{"__metadata__":{"format":"pt"},"a":${one}}`, 1], [`{"__metadata__":{"n":1},"a":${one}}`, 1], ['{"__metadata__":null}', 0], ['{"__metadata__":[]}', 0],
    [`{"__metadata__":{"a":"x","a":"y"}}`, 0], [`{"__metadata__":{"a":"x"},"__metadata__":{}}`, 0], [`{"a":${'['.repeat(200)}${']'.repeat(200)}}`, 0],
    ["{'a':1}", 0], ['{"a":NaN}', 0], [`{"a":${one}} // x`, 1], ['{"a":"\\x"}', 0]
  ]
  expect(headers.length).toBeGreaterThan(100)
  const { accepted, stricter: strict } = await compare(headers.map(([header, dataBytes]) => file(header, dataBytes)))
  expect(accepted).toBeGreaterThan(20)
  expect(strict).toBeGreaterThan(3)
})
