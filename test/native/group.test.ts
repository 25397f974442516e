// Groups and tensors through lib/: options, errors with a code and the caller's stack, two groups side by side, memory.
import { HeddleError } from '../../lib/errors'
import { openGroup, type Group, type OpenGroupOptions } from '../../lib/group'
import { cpuInfo, NativeGroup, nativeVersion } from '../../lib/native'
import { expectedRows, programSpec, stepOf, weight, weightSpecs } from '../support/tiny-program'

const rows = [[1, 2], [3, 4]]

async function failure(promise: Promise<unknown>): Promise<HeddleError> {
  const error = await promise.then(() => undefined, (thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(HeddleError)
  return error as HeddleError
}

async function runTiny(group: Group): Promise<number[]> {
  const tensor = group.createTensor(weightSpecs(group.size))
  const id = group.nextId()
  await group.native.createProgram(id, programSpec(group.size, tensor.id))
  const { tokens, outputs } = await group.native.runProgram(id, stepOf(rows))
  expect(tokens).toEqual(new Int32Array(0))
  group.native.dispose([id])
  tensor.dispose()
  return [...outputs['y']!.data]
}

describe('openGroup', () => {
  test.each<[string, unknown, string]>([
    ['no options', undefined, 'invalid_argument'],
    ['null', null, 'invalid_argument'],
    ['no size', {}, 'invalid_argument'],
    ['size 0', { size: 0 }, 'invalid_argument'],
    ['size 65', { size: 65 }, 'invalid_argument'],
    ['size 1.5', { size: 1.5 }, 'invalid_argument'],
    ['size as text', { size: '2' }, 'invalid_argument'],
    ['an unknown device', { size: 1, device: 'tpu' }, 'invalid_argument'],
    ['a device of another type', { size: 1, device: ['cpu'] }, 'invalid_argument'],
    ['an unknown dtype', { size: 1, dtype: 'int8' }, 'invalid_argument'],
    ['an unknown host', { size: 1, host: 'cloud' }, 'invalid_argument'],
    ['devices on the CPU', { size: 1, device: 'cpu', devices: [0] }, 'invalid_argument'],
    ['too few devices', { size: 2, devices: [0] }, 'invalid_argument'],
    ['a device that is no number', { size: 1, devices: ['0'] }, 'invalid_argument'],
    ['an unknown communicator', { size: 1, communicator: 'mpi' }, 'invalid_argument'],
    ['no time for a collective', { size: 2, collectiveTimeoutMs: 0 }, 'invalid_argument'],
    ['a time that is no number', { size: 2, collectiveTimeoutMs: '1 s' }, 'invalid_argument'],
    ['a time beyond 24 days', { size: 2, collectiveTimeoutMs: 2 ** 31 }, 'invalid_argument'],
    ['NCCL on the CPU', { size: 1, device: 'cpu', communicator: 'nccl' }, 'invalid_argument'],
    ['ranks as processes', { size: 1, host: 'process' }, 'unavailable'],
  ])('refuses %s', async (_, options, code) => {
    expect(await failure(openGroup(options as OpenGroupOptions))).toMatchObject({ code, message: expect.stringContaining('openGroup') })
  })

  test('the addon is told the time for a collective', async () => {
    const open = (collectiveTimeoutMs: number): Promise<NativeGroup> =>
      NativeGroup.open({ size: 2, device: 'cpu', dtype: 'float32', collectiveTimeoutMs })
    expect(await failure(open(0))).toMatchObject({ code: 'invalid_argument', message: expect.stringContaining('openGroup: collectiveTimeoutMs') })
    await (await open(60_000)).close()
  })

  test('info says what the ranks are, and why', async () => {
    await using group = await openGroup({ size: 3, device: 'cpu' })
    expect(group).toMatchObject({ size: 3, device: 'cpu', dtype: 'float32', communicator: 'local', closed: false })
    const info = group.info()
    expect(info).toMatchObject({ size: 3, device: 'cpu', dtype: 'float32', reason: 'asked for', communicator: 'local', isa: cpuInfo().isa })
    expect(info).not.toHaveProperty('cuda')
    expect(info.ranks.map(({ rank }) => rank)).toEqual([0, 1, 2])
    for (const rank of info.ranks) {
      expect(rank).toMatchObject({ weightBytes: 0, cacheBytes: 0, workspaceBytes: 0, fileBytesRead: 0, fileBytesUsed: 0 })
      expect(rank.device).toContain(info.isa)
    }
    expect(nativeVersion()).toBe((require('../../package.json') as { version: string }).version)
  })
})

describe.each([1, 2, 4, 8])('a group of %i', (size) => {
  test('runs a program, reads tensors, counts memory and gives it back', async () => {
    await using group = await openGroup({ size, device: 'cpu' })
    expect(await runTiny(group)).toEqual(expectedRows(size, rows))
    const tensor = group.createTensor(weightSpecs(size))
    for (let rank = 0; rank < size; rank++) {
      expect(await tensor.read(rank)).toEqual({ data: weight.map((element) => element * (rank + 1)), shape: [3, 2] })
      expect(tensor.bytes(rank)).toBe(24)
    }
    expect(group.info().ranks.map(({ weightBytes }) => weightBytes)).toEqual(Array(size).fill(24))
    tensor.dispose()
    tensor.dispose()
    for (let rank = 0; rank < size; rank++) expect(await failure(tensor.read(rank))).toMatchObject({ code: 'closed' }) // every rank got there
    expect(group.info().ranks.map(({ weightBytes, workspaceBytes }) => weightBytes + workspaceBytes)).toEqual(Array(size).fill(0))
  })
})

test('16-bit tensors hold what their pieces say, and read back as float32', async () => {
  await using group = await openGroup({ size: 1, device: 'cpu', dtype: 'bfloat16' })
  const data = Float32Array.of(1, -2.5, 3.14159, 0)
  const piece = { source: { data }, dtype: 'float32', offset: 0, rows: 1, rowElements: 4, rowStride: 0, targetOffset: 0, targetStride: 0 } as const
  const tensor = group.createTensor([{ dtype: 'bfloat16', shape: [2, 3], role: 'weight', pieces: [piece] }])
  expect(await tensor.read(0)).toEqual({ data: Float32Array.of(1, -2.5, 3.140625, 0, 0, 0), shape: [2, 3] })
})

test('a large result is moved, not copied into a second array, and stays valid after the group is gone', async () => {
  const group = await openGroup({ size: 1, device: 'cpu' })
  const data = Float32Array.from({ length: 1 << 20 }, (_, index) => index)
  const piece = { source: { data }, dtype: 'float32', offset: 0, rows: 1, rowElements: data.length, rowStride: 0, targetOffset: 0, targetStride: 0 } as const
  const tensor = group.createTensor([{ dtype: 'float32', shape: [data.length], role: 'weight', pieces: [piece] }])
  const result = await tensor.read(0)
  await group.close()
  expect(result.data).toBeInstanceOf(Float32Array)
  expect(Buffer.from(result.data.buffer).equals(Buffer.from(data.buffer))).toBe(true)
})

test('two groups, also of one size, do not know of each other', async () => {
  const groups = await Promise.all([2, 2, 3].map((size) => openGroup({ size, device: 'cpu' })))
  const results = await Promise.all(groups.flatMap((group) => [runTiny(group), runTiny(group)]))
  expect(results).toEqual([2, 2, 2, 2, 3, 3].map((size) => expectedRows(size, rows)))
  await groups[0]!.close()
  expect(await runTiny(groups[1]!)).toEqual(expectedRows(2, rows))
  await Promise.all(groups.map((group) => group.close()))
})

test('two copies of lib/native in one process share the addon and not their completions', async () => {
  const copies = [0, 1].map(() => {
    let copy: typeof import('../../lib/group') | undefined
    jest.isolateModules(() => { copy = require('../../lib/group') })
    return copy!
  })
  expect(copies[0]!.openGroup).not.toBe(copies[1]!.openGroup)
  const groups = await Promise.all(copies.map((copy) => copy.openGroup({ size: 2, device: 'cpu' })))
  expect(await Promise.all(groups.map(runTiny))).toEqual([expectedRows(2, rows), expectedRows(2, rows)])
  await Promise.all(groups.map((group) => group.close()))
})

describe('errors', () => {
  let group: Group
  beforeAll(async () => { group = await openGroup({ size: 2, device: 'cpu' }) })
  afterAll(() => group.close())

  test('of a rank: code, the rank, and the stack of the call', async () => {
    async function reader() { await group.native.readTensor(4711, 1) }
    const error = await failure(reader())
    expect(error).toMatchObject({ name: 'HeddleError', code: 'closed', details: { rank: 1 } })
    expect(error.message).toContain('4711')
    expect(error.stack).toMatch(/^HeddleError: .*4711[^]*\n.*group\.test\.ts/)
  })

  test('of the addon are built anew', async () => {
    const error = await failure(group.native.readTensor(0, 2))
    expect(error).toMatchObject({ code: 'invalid_argument', message: 'rank: expected an integer from 0 to 1, got 2' })
    expect(error).toBeInstanceOf(Error)
  })

  test('of a getter keep their cause', async () => {
    const cause = new RangeError('mine')
    const step = { ...stepOf(rows), get slots(): Int32Array { throw cause } }
    expect(await failure(group.native.runProgram(1, step))).toMatchObject({ code: 'invalid_argument', cause })
  })

  test('createTensor wants a spec for each rank', () => {
    expect(() => group.createTensor(weightSpecs(3))).toThrow('createTensor: expected one spec for each of 2 ranks')
  })

  test('evaluate wants a function', async () => {
    expect(await failure(group.evaluate(undefined as never))).toMatchObject({ code: 'invalid_argument' })
  })

  test('a tensor that nobody waits for fails without an unhandled rejection', async () => {
    const tensor = group.createTensor(weightSpecs(2).map((spec) => ({ ...spec, shape: [2 ** 20, 2 ** 26], pieces: [] })))
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(await failure(tensor.ready)).toMatchObject({ code: 'out_of_memory' })
    expect(await runTiny(group)).toEqual(expectedRows(2, rows))
  })
})

describe('after close', () => {
  test('everything says closed, and closing again is fine', async () => {
    const group = await openGroup({ size: 2, device: 'cpu' })
    const tensor = group.createTensor(weightSpecs(2))
    const pending = failure(Promise.all(Array.from({ length: 20 }, () => group.native.createTensor(group.nextId(), weightSpecs(2))).concat(
      Array.from({ length: 200 }, () => tensor.read(0) as unknown as Promise<void>))).then(() => { throw new HeddleError('closed', 'all were done before') }))
    const closing = group.close()
    expect(group.close()).toBe(closing)
    expect(group.closed).toBe(true)
    expect(await failure(tensor.read(0))).toMatchObject({ code: 'closed' })
    expect(await failure(group.evaluate((g) => g.input({ data: new Float32Array(1), shape: [1, 1] })))).toMatchObject({ code: 'closed' })
    expect(() => group.info()).toThrow('expected an open group')
    expect(() => tensor.dispose()).not.toThrow()
    expect(await pending).toMatchObject({ code: 'closed' })
    await closing
    await group[Symbol.asyncDispose]()
  })
})
