// Whatever is passed to an export, the outcome is a JavaScript error or an honest completion, and the process and the group go on.
import { call, addon, attempt, attemptNow, mailbox, open, ticket, type Outcome } from '../support/raw-addon'
import { hostileValues, pathsInside, replaced, type Path } from '../support/hostile'
import { expectedRows, programSpec, stepOf, weightSpecs } from '../support/tiny-program'

const size = 2
const rows = [[1, 2], [3, 4]]
const weightId = 1
const programId = 2
let group: unknown
let lastId = 100 // ids of tensors and programs that hostile calls may have made

beforeAll(async () => {
  group = await open(size)
  expect(await call('createTensor', group, weightId, weightSpecs(size))).toMatchObject({ how: 'completed' })
  expect(await call('createProgram', group, programId, programSpec(size, weightId))).toMatchObject({ how: 'completed' })
})

afterAll(async () => {
  expect(await call('closeGroup', group)).toMatchObject({ how: 'completed' })
})

/** The one proof that nothing broke: the same run gives the same numbers. */
async function expectHealthy(): Promise<void> {
  const outcome = await call('runProgram', group, programId, stepOf(rows))
  expect(outcome).toEqual({ how: 'completed', result: expect.anything() })
  const { outputs } = outcome.result as { outputs: Record<string, { data: Float32Array; shape: number[] }> }
  expect([...outputs['y']!.data]).toEqual(expectedRows(size, rows))
  expect(outputs['y']!.shape).toEqual([2, 3])
}

const isSafeCount = (value: unknown, least: number) => Number.isSafeInteger(value) && (value as number) >= least

interface Parameter { name: string; valid: () => unknown; accepts?: (value: unknown, label: string) => boolean }

const noFolders = { backendFolders: [], libraryFolders: [] }

const parameters = {
  mailbox: { name: 'mailbox', valid: () => mailbox },
  ticket: { name: 'ticket', valid: ticket, accepts: (value) => isSafeCount(value, 1) },
  group: { name: 'group', valid: () => group },
  newId: { name: 'id', valid: () => ++lastId, accepts: (value) => isSafeCount(value, 0) },
  programId: { name: 'id', valid: () => programId, accepts: (value) => isSafeCount(value, 0) },
  weightId: { name: 'id', valid: () => weightId, accepts: (value) => isSafeCount(value, 0) },
  specs: { name: 'specs', valid: () => weightSpecs(size) },
  spec: { name: 'spec', valid: () => programSpec(size, weightId) },
  step: { name: 'step', valid: () => stepOf(rows) },
  rank: { name: 'rank', valid: () => 0, accepts: (value) => Object.is(value, 0) },
  ids: { name: 'ids', valid: () => [], accepts: (_, label) => label === 'an empty array' },
  options: { name: 'options', valid: () => ({ size: 1, device: 'cpu', dtype: 'float32', communicator: 'auto', cuda: noFolders }) },
  search: { name: 'search', valid: () => noFolders },
  everything: { name: 'everything', valid: () => true, accepts: (value) => typeof value === 'boolean' },
  device: { name: 'device', valid: () => 0, accepts: (value) => isSafeCount(value, 0) && (value as number) < 1024 },
  onCompletion: { name: 'onCompletion', valid: () => () => {}, accepts: (value) => typeof value === 'function' },
} satisfies Record<string, Parameter>

const exported: Record<string, Parameter[]> = {
  initialize: [parameters.onCompletion],
  openGroup: [parameters.mailbox, parameters.ticket, parameters.options],
  createTensor: [parameters.ticket, parameters.group, parameters.newId, parameters.specs],
  createProgram: [parameters.ticket, parameters.group, parameters.newId, parameters.spec],
  runProgram: [parameters.ticket, parameters.group, parameters.programId, parameters.step],
  readTensor: [parameters.ticket, parameters.group, parameters.weightId, parameters.rank],
  dispose: [parameters.ticket, parameters.group, parameters.ids],
  closeGroup: [parameters.ticket, parameters.group],
  groupInfo: [parameters.group],
  groupPlacement: [parameters.group],
  cpuInfo: [],
  cudaInfo: [parameters.search, parameters.everything],
  cudaMemory: [parameters.search, parameters.device],
}

/** Calls `name` with valid arguments but one, and waits for the completion where there will be one. */
async function callWith(name: string, index: number, value: unknown): Promise<Outcome> {
  const own = exported[name]!
  const given = own.map((parameter, at) => (at === index ? value : parameter.valid()))
  const ticketAt = own.indexOf(parameters.ticket)
  if (ticketAt < 0 || ticketAt === index) return attemptNow(() => addon[name]!(...given))
  return attempt(given[ticketAt] as number, () => addon[name]!(...given))
}

test('the manifest is what this file covers', () => {
  expect(Object.keys(addon).sort()).toEqual([...Object.keys(exported), 'version'].sort())
  expect(addon.version).toMatch(/^\d+\.\d+\.\d+/)
  expect(attemptNow(() => addon['cpuInfo']!(undefined, NaN)).result).toEqual({ isa: expect.any(String), coreCount: expect.any(Number) })
})

const places = Object.entries(exported).flatMap(([name, own]) => own.map((parameter, index) => ({ name, index, parameter, label: parameter.name })))

describe.each(places)('$name($label)', ({ name, index, parameter }) => {
  test('refuses every hostile value in its place', async () => {
    const values = hostileValues()
    expect(values.length).toBeGreaterThanOrEqual(25)
    let refused = 0
    for (const { name: label, value } of values) {
      if (parameter.accepts?.(value, label)) continue
      const outcome = await callWith(name, index, value)
      // A throwing property gives its own error; everything else a text that names the argument.
      const code = outcome.message === 'this property cannot be read' || /revoked/.test(outcome.message ?? '') ? undefined : 'invalid_argument'
      expect({ label, how: outcome.how, code: outcome.code }).toEqual({ label, how: 'threw', code })
      refused++
    }
    expect(refused).toBeGreaterThanOrEqual(25)
    await expectHealthy()
  })
})

test.each(Object.keys(exported).filter((name) => exported[name]!.length > 0))('%s without arguments', (name) => {
  expect(attemptNow(() => addon[name]!())).toMatchObject({ how: 'threw', code: 'invalid_argument' })
})

describe('values inside the arguments', () => {
  /** What a place takes besides values of its own type. */
  const optionalSampling = ['repetitionPenalty', 'presencePenalty', 'frequencyPenalty', 'answerStart', 'logprobs']
  const optional = (path: Path) =>
    (path.length === 1 && ['sampling', 'edits', 'inputs', 'devices', 'communicator', 'cuda'].includes(path[0] as string)) ||
    (path[0] === 'sampling' && optionalSampling.includes(path[2] as string))
  const isAttribute = (path: Path) => path.includes('attributes')

  const nested = places.filter(({ label }) => ['specs', 'spec', 'step', 'options', 'search'].includes(label))
  const cases = nested.flatMap((place) => pathsInside(place.parameter.valid()).map((path) => ({ ...place, path, where: path.join('.') })))

  test('there are many places', () => { expect(cases.length).toBeGreaterThan(80) })

  test.each(cases)('$name: $where', async ({ name, index, parameter, path }) => {
    let refused = 0
    for (const { name: label, value } of hostileValues()) {
      const original = path.reduce<unknown>((inside, key) => (inside as Record<string | number, unknown>)[key], parameter.valid())
      const outcome = await callWith(name, index, replaced(parameter.valid(), path, value))
      if (outcome.how === 'completed' || outcome.how === 'returned') {
        const allowed = sameKind(original, value) || (value === undefined && optional(path)) || isAttribute(path) || isEmptyRecord(original, value)
        expect({ label, allowed }).toEqual({ label, allowed: true })
      } else {
        expect(typeof outcome.message).toBe('string')
        refused++
      }
    }
    expect(refused).toBeGreaterThanOrEqual(25)
    await expectHealthy()
  })

  function sameKind(original: unknown, value: unknown): boolean {
    return typeof original === typeof value && Array.isArray(original) === Array.isArray(value) && ArrayBuffer.isView(original) === ArrayBuffer.isView(value)
  }

  function isEmptyRecord(original: unknown, value: unknown): boolean {
    return typeof original === 'object' && typeof value === 'object' && value !== null && Object.keys(value).length === 0
  }
})

describe('sizes that do not fit together', () => {
  const piece = (changes: object) => weightSpecs(size).map((spec) => ({ ...spec, pieces: spec.pieces.map((original) => ({ ...original, ...changes })) }))
  const max = Number.MAX_SAFE_INTEGER
  test.each([
    ['an offset beyond the array', piece({ offset: 28 })],
    ['rows beyond the array', piece({ rows: 4, targetStride: 0 })],
    ['a huge number of rows', piece({ rows: max })],
    ['rows times stride beyond 2^53', piece({ rowStride: max, rows: 3 })],
    ['a row longer than its stride', piece({ rowStride: 4 })],
    ['a target beyond the tensor', piece({ targetOffset: 1 })],
    ['a huge target offset', piece({ targetOffset: max })],
    ['a huge target stride', piece({ targetStride: max })],
    ['overlapping target rows', piece({ targetStride: 1 })],
    ['an array of another element type', piece({ dtype: 'bfloat16' })],
    ['columns that overlap', piece({ transposed: true, rowStride: 8 })],
    ['columns beyond the array', piece({ transposed: true, rowStride: 16 })],
    ['a huge stride of columns', piece({ transposed: true, rowStride: max })],
    ['transposed that is no flag', piece({ transposed: 1 })],
    ['an increment that is no number', piece({ increment: '1' })],
    ['an increment that is not finite', piece({ increment: Infinity })],
    ['a shape beyond 2^53', weightSpecs(size).map((spec) => ({ ...spec, shape: [2 ** 30, 2 ** 30] }))],
    ['too many dimensions', weightSpecs(size).map((spec) => ({ ...spec, shape: [1, 1, 1, 1, 1, 1, 1, 1, 1] }))],
    ['a negative dimension', weightSpecs(size).map((spec) => ({ ...spec, shape: [-1, 2] }))],
    ['one rank too few', weightSpecs(size - 1)],
    ['one rank too many', weightSpecs(size + 1)],
  ])('createTensor: %s', async (_, specs) => {
    expect(await call('createTensor', group, ++lastId, specs)).toMatchObject({ how: 'threw', code: 'invalid_argument' })
    await expectHealthy()
  })

  test('a piece that is stored by columns, and one with an increment', async () => {
    const ok = async (changes: object) => {
      const id = ++lastId
      expect(await call('createTensor', group, id, piece(changes))).toMatchObject({ how: 'completed' })
      return call('readTensor', group, id, 0)
    }
    expect(await ok({ transposed: true, rowStride: 12 })).toMatchObject({ result: { data: Float32Array.of(1, 4, 2, 5, 3, 6) } })
    expect(await ok({ increment: 0.5 })).toMatchObject({ result: { data: Float32Array.of(1.5, 2.5, 3.5, 4.5, 5.5, 6.5) } })
    const rounded = piece({ increment: 1 }).map((spec) => ({ ...spec, dtype: 'bfloat16' }))
    expect(await call('createTensor', group, ++lastId, rounded)).toMatchObject({ how: 'failed', code: 'invalid_argument' })
    await expectHealthy()
  })

  test('a tensor larger than any memory completes with out_of_memory', async () => {
    const specs = weightSpecs(size).map((spec) => ({ ...spec, shape: [2 ** 20, 2 ** 26], pieces: [] }))
    expect(await call('createTensor', group, ++lastId, specs)).toMatchObject({ how: 'failed', code: 'out_of_memory' })
    await expectHealthy()
  })

  test('a file that is not there and a region outside a file', async () => {
    const from = (path: string) => piece({ source: { path } })
    expect(await call('createTensor', group, ++lastId, from('/no/such/file'))).toMatchObject({ how: 'failed' })
    expect(await call('createTensor', group, ++lastId, from(__dirname))).toMatchObject({ how: 'failed' })
    const beyond = piece({ source: { path: __filename }, offset: max - 100 })
    expect((await call('createTensor', group, ++lastId, beyond)).how).toMatch(/failed|threw/)
    await expectHealthy()
  })

  test('programs whose ranks differ', async () => {
    const { nodes, ...rest } = programSpec(size, weightId)
    const attemptWith = (second: object[]) => call('createProgram', group, ++lastId, { ...rest, nodes: [nodes[0], second] })
    expect(await attemptWith(nodes[1]!.slice(0, 3))).toMatchObject({ how: 'threw', code: 'invalid_argument' })
    expect(await attemptWith(nodes[1]!.map((node) => (node.op === 'allReduce' ? { ...node, op: 'add', inputs: [0, 0] } : node))))
      .toMatchObject({ how: 'threw', code: 'invalid_argument', message: expect.stringContaining('allReduce as on rank 0') })
    await expectHealthy()
  })

  test('programs whose ranks would exchange different amounts', async () => {
    const nodes = (widths: number[], vocabSize: number, width: number) => [
      { op: 'input', inputs: [], tensors: [], width, attributes: { name: 'x' } },
      { op: 'allGather', inputs: [0], tensors: [], width: 8, attributes: { widths } },
      { op: 'lastRows', inputs: [1], tensors: [], width: 8, attributes: {} },
      { op: 'sample', inputs: [2], tensors: [], width: 1, attributes: { firstId: 0, vocabSize } },
    ]
    const attemptWith = (...ranks: object[][]) => call('createProgram', group, ++lastId, { nodes: ranks, maxTokens: 8, maxSequences: 1 })
    expect(await attemptWith(nodes([4, 4], 8, 4), nodes([4, 4], 8, 4))).toMatchObject({ how: 'completed' })
    expect(await attemptWith(nodes([4, 4], 8, 4), nodes([6, 2], 8, 2)))
      .toMatchObject({ how: 'threw', code: 'invalid_argument', message: expect.stringContaining('allGather as on rank 0') })
    expect(await attemptWith(nodes([4, 4], 8, 4), nodes([4, 4], 7, 4)))
      .toMatchObject({ how: 'threw', code: 'invalid_argument', message: expect.stringContaining('sample as on rank 0') })
    await expectHealthy()
  })

  test('a program that fails on one rank alone fails as a whole, and so does a run of it', async () => {
    const { nodes, ...rest } = programSpec(size, weightId)
    const second = nodes[1]!.map((node) => (node.op === 'linear' ? { ...node, tensors: [4711] } : node))
    const id = ++lastId
    expect(await call('createProgram', group, id, { ...rest, nodes: [nodes[0], second] })).toMatchObject({ how: 'failed', rank: 1 })
    await expectHealthy()
  })

  const spoiled = (changes: object) => ({ ...stepOf(rows), ...changes })
  test.each([
    ['no rows', spoiled({ positions: new Int32Array(0), tokens: new Int32Array(0), sequenceStarts: Int32Array.of(0, 0) })],
    ['more rows than the program takes', stepOf(Array.from({ length: 9 }, () => [1, 2]))],
    ['an input of too few rows', spoiled({ inputs: stepOf([[1, 2]]).inputs })],
    ['an input of another width', spoiled({ inputs: { x: { data: new Float32Array(6), shape: [2, 3] } } })],
    ['an input of another name', spoiled({ inputs: { z: { data: new Float32Array(4), shape: [2, 2] } } })],
    ['no input', spoiled({ inputs: {} })],
    ['starts that run backwards', spoiled({ sequenceStarts: Int32Array.of(2, 0) })],
    ['starts beyond the tokens', spoiled({ sequenceStarts: Int32Array.of(0, 2 ** 31 - 1) })],
    ['starts missing', spoiled({ sequenceStarts: new Int32Array(0) })],
    ['a negative slot', spoiled({ slots: Int32Array.of(-1) })],
    ['a huge slot', spoiled({ slots: Int32Array.of(2 ** 31 - 1) })],
    ['two slots for one sequence', spoiled({ slots: Int32Array.of(0, 1) })],
    ['a negative position', spoiled({ positions: Int32Array.of(-1, 0) })],
    ['edits for too few sequences', spoiled({ edits: { ...stepOf(rows).edits!, starts: Int32Array.of(0) } })],
    ['edits that start backwards', spoiled({ edits: { ...stepOf(rows).edits!, starts: Int32Array.of(1, 0) } })],
    ['edits that end beyond the list', spoiled({ edits: { ...stepOf(rows).edits!, starts: Int32Array.of(0, 2) } })],
    ['edits with too few counts', spoiled({ edits: { ...stepOf(rows).edits!, counts: new Int32Array(0) } })],
    ['too many logprobs', spoiled({ sampling: [{ ...stepOf(rows).sampling![0]!, logprobs: 21 }] })],
    ['a repetition penalty of 0', spoiled({ sampling: [{ ...stepOf(rows).sampling![0]!, repetitionPenalty: 0 }] })],
    ['sampling for too many sequences', spoiled({ sampling: [...stepOf(rows).sampling!, ...stepOf(rows).sampling!] })],
  ])('runProgram: %s', async (_, step) => {
    const outcome = await call('runProgram', group, programId, step)
    expect(outcome.how).toMatch(/threw|failed/)
    expect(outcome.code).toBe('invalid_argument')
    await expectHealthy()
  })
})

describe('handles', () => {
  test('a handle of the wrong type is an error in both directions', async () => {
    expect(attemptNow(() => addon['openGroup']!(group, ticket(), parameters.options.valid()))).toMatchObject({ how: 'threw', code: 'invalid_argument' })
    expect(attemptNow(() => addon['groupInfo']!(mailbox))).toMatchObject({ how: 'threw', code: 'invalid_argument' })
    await expectHealthy()
  })

  test('ids that name nothing, or something else', async () => {
    expect(await call('runProgram', group, 4711, stepOf(rows))).toMatchObject({ how: 'failed' })
    expect(await call('runProgram', group, weightId, stepOf(rows))).toMatchObject({ how: 'failed' })
    expect(await call('readTensor', group, programId, 0)).toMatchObject({ how: 'failed' })
    expect(await call('dispose', group, [4711, 4711])).toMatchObject({ how: 'completed' })
    expect(await call('createTensor', group, weightId, weightSpecs(size))).toMatchObject({ how: 'failed', code: 'invalid_argument' })
    await expectHealthy()
  })

  test('after close every call completes with closed, close itself completes again', async () => {
    const own = await open(2)
    expect(await call('closeGroup', own)).toMatchObject({ how: 'completed' })
    expect(await call('createTensor', own, 1, weightSpecs(2))).toMatchObject({ how: 'failed', code: 'closed' })
    expect(await call('createProgram', own, 2, programSpec(2, 1))).toMatchObject({ how: 'failed', code: 'closed' })
    expect(await call('runProgram', own, 2, stepOf(rows))).toMatchObject({ how: 'failed', code: 'closed' })
    expect(await call('readTensor', own, 1, 0)).toMatchObject({ how: 'failed', code: 'closed' })
    expect(await call('dispose', own, [1])).toMatchObject({ how: 'failed', code: 'closed' })
    expect(await call('closeGroup', own)).toMatchObject({ how: 'completed' })
    expect(addon['groupInfo']!(own)).toHaveLength(2)
    await expectHealthy()
  })

  test('a getter that closes the group while its arguments are read', async () => {
    const own = await open(1)
    let closing: Promise<Outcome> | undefined
    const step = Object.defineProperty(stepOf(rows), 'slots', { get: () => { closing = call('closeGroup', own); return Int32Array.of(0) } })
    expect(await call('runProgram', own, 1, step)).toMatchObject({ how: 'failed', code: 'closed' })
    expect(await closing).toMatchObject({ how: 'completed' })
  })

  test('a getter that detaches an array that was read before, or one that is read next', async () => {
    const step = stepOf(rows)
    const detach = (array: Int32Array) => structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] })
    const hostile = { ...step, get sequenceStarts() { detach(step.tokens); detach(step.slots); return Int32Array.of(0, 2) } }
    expect(await call('runProgram', group, programId, hostile)).toMatchObject({ how: 'failed', code: 'invalid_argument' })
    await expectHealthy()
  })
})
