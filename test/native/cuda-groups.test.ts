// Groups on GPUs, on machines of every kind: what is found, which GPUs and which communicator are taken, and what is said where that
// cannot be. The GPUs are emulated.
import { emulatedLibraries, runOnEmulator } from '../support/emulated-cuda'
import type { EmulatedMachine } from '../support/emulated-cuda'

const none = '/no/such/folder/library.so'

/** What a script's `main` returns. */
async function answer<T>(body: string, machine: EmulatedMachine = {}, timeout = 120_000): Promise<T> {
  const script = `
    const { cudaInfo } = require(root + '/dist/group.js')
    const failure = ({ code, message, details }) => ({ code, message, details })
    const describe = async (options) => {
      const group = await openGroup(options).catch(failure)
      if (group.code) return group
      const { ranks, gpus, cuda, device, reason, communicator } = group.info()
      await group.close()
      return { device, reason, communicator, devices: group.devices, ranks: ranks.map((rank) => rank.device), gpus, cuda }
    }
    async function main() { ${body} }
    main().then((result) => console.log(JSON.stringify(result)))`
  const ended = await runOnEmulator(script, machine, timeout)
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '' })
  return JSON.parse(ended.stdout) as T
}

interface Opened {
  device: string
  reason: string
  communicator: string
  devices: number[]
  ranks: string[]
  gpus?: { device: number; name: string }[]
  cuda?: { libraries: { name: string; version?: string; path?: string; problem?: string }[] }
}

const open = (options: object, machine?: EmulatedMachine) => answer<Opened>(`return describe(${JSON.stringify(options)})`, machine)
const twoGpus = { devices: 2 }

describe('what is found', () => {
  test('GPUs, versions, libraries and their files', async () => {
    const info = await answer('return cudaInfo()', { devices: 2, memory: 3 * 2 ** 30 })
    expect(info).toMatchObject({
      usable: true, reason: '', backend: emulatedLibraries.backend, driver: '13.0', runtime: '13.0',
      devices: [0, 1].map((device) => ({ device, name: expect.any(String), computeCapability: '9.0', memoryBytes: 3 * 2 ** 30 })),
      libraries: [
        { name: 'cuBLASLt', version: expect.stringMatching(/^\d+\.\d+\.\d+$/), path: emulatedLibraries.cublaslt },
        { name: 'NCCL', version: expect.stringMatching(/^2\.\d+\.\d+$/), path: emulatedLibraries.nccl },
        { name: 'cuDNN', problem: expect.stringContaining('this build has no code for it') }
      ]
    })
  })

  test.each<[string, EmulatedMachine, RegExp]>([
    ['no driver', { driver: 0 }, /^no NVIDIA driver \(libcuda\.so\.1\) on this machine$/],
    ['a driver of an older major version', { driver: 12040 }, /^the NVIDIA driver is too old: expected one for CUDA 13, got one for CUDA 12\.4$/],
    ['no GPU', { devices: 0 }, /^no usable GPU: no CUDA-capable device is detected$/],
    ['no cuBLASLt', { cublaslt: none }, /^cuBLASLt was not found: HEDDLE_CUBLASLT_LIB: \/no\/such\/folder\/library\.so: cannot open/]
  ])('%s: CUDA is unavailable, and the CPU takes over', async (_, machine, reason) => {
    const asked = await answer<{ info: { usable: boolean; reason: string }; cuda: object; auto: Opened }>(
      "return { info: cudaInfo(), cuda: await describe({ size: 1, device: 'cuda' }), auto: await describe({ size: 1 }) }", machine)
    expect(asked.info).toMatchObject({ usable: false, reason: expect.stringMatching(reason) })
    expect(asked.cuda).toMatchObject({ code: 'unavailable', message: `openGroup: device cuda is not available: ${asked.info.reason}` })
    expect(asked.auto).toMatchObject({ device: 'cpu', reason: asked.info.reason })
  })

  test('a library that is no cuBLASLt', async () => {
    const { reason } = await answer<{ reason: string }>('return cudaInfo()', { cublaslt: emulatedLibraries.nccl })
    expect(reason).toBe(`cuBLASLt was not found: symbol cublasLtGetVersion is missing in ${emulatedLibraries.nccl}`)
  })
})

describe('which GPUs', () => {
  test('the first ones, one for every rank', async () => {
    const group = await open({ size: 2, dtype: 'bfloat16' }, { devices: 3 })
    expect(group).toMatchObject({ device: 'cuda', reason: 'there is a GPU for every rank', devices: [0, 1], gpus: [{ device: 0 }, { device: 1 }] })
    expect(group.ranks.map((text) => text.slice(0, 6))).toEqual(['cuda:0', 'cuda:1'])
  })

  test('those that were named, and several ranks on one', async () => {
    expect(await open({ size: 2, devices: [1, 0] }, twoGpus)).toMatchObject({ device: 'cuda', reason: 'asked for', devices: [1, 0] })
    expect(await open({ size: 4, devices: [0, 0, 0, 0] })).toMatchObject({ devices: [0, 0, 0, 0], communicator: 'local' })
  })

  test('too few: the CPU where the choice is free, else an error that says what to do', async () => {
    expect(await open({ size: 2 })).toMatchObject({ device: 'cpu', reason: '2 ranks, 1 GPUs; several ranks on one GPU: devices: [0, 0, …]' })
    const message = 'openGroup: expected 2 GPUs, found 1; several ranks on one GPU: devices: [0, 0, …]'
    expect(await open({ size: 2, device: 'cuda' })).toMatchObject({ code: 'unavailable', message })
  })

  test('a number that no GPU has', async () => {
    const message = 'openGroup: devices: expected numbers of GPUs below 1, got 1'
    expect(await open({ size: 2, devices: [0, 1] })).toMatchObject({ code: 'invalid_argument', message })
  })
})

describe('which communicator', () => {
  const apart = { devices: 2, peerAccess: false }

  test('peers’ memory, with NCCL for large messages', async () => {
    const { communicator, cuda } = await open({ size: 2 }, twoGpus)
    expect(communicator).toBe('local, nccl for large messages')
    expect(cuda!.libraries.map(({ name, path }) => ({ name, path }))).toEqual([
      { name: 'cuBLASLt', path: emulatedLibraries.cublaslt },
      { name: 'NCCL', path: emulatedLibraries.nccl },
      { name: 'cuDNN' }
    ])
  })

  test('the one that was asked for', async () => {
    expect(await open({ size: 2, communicator: 'local' }, twoGpus)).toMatchObject({ communicator: 'local' })
    expect(await open({ size: 2, communicator: 'nccl' }, twoGpus)).toMatchObject({ communicator: 'nccl' })
    expect(await open({ size: 1, communicator: 'nccl' })).toMatchObject({ device: 'cuda', communicator: 'nccl' })
  })

  test('without NCCL: peers’ memory alone', async () => {
    expect(await open({ size: 2 }, { devices: 2, nccl: none })).toMatchObject({ device: 'cuda', communicator: 'local' })
    expect(await open({ size: 1 }, { nccl: none })).toMatchObject({ device: 'cuda', communicator: 'local' })
    const refused = await open({ size: 2, communicator: 'nccl' }, { devices: 2, nccl: none })
    expect(refused).toMatchObject({ code: 'unavailable', message: expect.stringMatching(/^openGroup: communicator nccl: .*HEDDLE_NCCL_LIB.*cannot open/) })
  })

  test('GPUs that cannot reach each other: NCCL alone, else nothing', async () => {
    expect(await open({ size: 2 }, apart)).toMatchObject({ device: 'cuda', communicator: 'nccl' })
    const message = expect.stringMatching(/GPU 0 cannot reach the memory of GPU 1/)
    expect(await open({ size: 2, device: 'cuda', communicator: 'local' }, apart)).toMatchObject({ code: 'unavailable', message })
    expect(await open({ size: 2, communicator: 'local' }, apart)).toMatchObject({ device: 'cpu', reason: message })
    expect(await open({ size: 2, device: 'cuda' }, { ...apart, nccl: none })).toMatchObject({ code: 'unavailable', message })
    expect(await open({ size: 2 }, { ...apart, nccl: none })).toMatchObject({ device: 'cpu', reason: message })
    expect(await open({ size: 2, devices: [0, 0] }, apart)).toMatchObject({ communicator: 'local' })
  })

  test('NCCL for ranks that share a GPU is refused, with the reason and the way out', async () => {
    const message = expect.stringMatching(/NCCL refuses several ranks on one GPU.*use communicator 'local'/)
    expect(await open({ size: 2, devices: [0, 0], communicator: 'nccl' })).toMatchObject({ code: 'invalid_argument', message })
  })
})

describe('what ranks compute', () => {
  const layer = (options: object) => `
    const { RowParallelLinear } = require(root + '/dist/index.js')
    const group = await openGroup(${JSON.stringify(options)})
    const layer = new RowParallelLinear(group, 4, 3)
    await layer.load({ weight: Float32Array.from({ length: 12 }, (_, i) => i), bias: new Float32Array([100, 200, 300]) })
    const { data, shape } = await layer.run({ data: new Float32Array([1, 2, 3, 4]), shape: [1, 4] })
    const device = group.info().device
    await group.close()
    return { device, data: [...data], shape }`
  const product = { device: 'cuda', data: [120, 260, 400], shape: [1, 3] }

  test.each<[string, object, EmulatedMachine]>([
    ['one rank', { size: 1 }, {}],
    ['two ranks on two GPUs', { size: 2 }, twoGpus],
    ['two ranks on one GPU', { size: 2, devices: [0, 0] }, {}],
    ['two ranks over NCCL', { size: 2, communicator: 'nccl' }, twoGpus]
  ])('%s: a sum over the ranks, and the bias once', async (_, options, machine) => {
    expect(await answer(layer(options), machine)).toEqual(product)
  })
})

test('a whole model answers as on the CPU, and says what it holds', async () => {
  const { cpu, cuda, info } = await answer<{ cpu: number[]; cuda: number[]; info: Opened & { cacheTokens: number } }>(`
    const { AutoModelForCausalLM } = require(root + '/dist/index.js')
    const options = { temperature: 0, maxNewTokens: 4 }
    const generate = async (where) => {
      const model = await AutoModelForCausalLM.fromPretrained(root + '/models/heddle-tiny', { tpSize: 2, maxTokens: 100, ...where })
      const result = { ids: (await model.generate('What is', options)).tokenIds, info: model.info() }
      await model.close()
      return result
    }
    const cpu = await generate({ device: 'cpu' })
    const cuda = await generate({ devices: [0, 0] })
    return { cpu: cpu.ids, cuda: cuda.ids, info: cuda.info }`, { memory: 4 * 2 ** 30 }, 300_000)
  expect(cuda).toEqual(cpu)
  expect(cuda.length).toBeGreaterThan(0)
  expect(info).toMatchObject({ device: 'cuda', communicator: 'local', cacheTokens: 112, gpus: [{ device: 0 }, { device: 0 }] })
}, 320_000)

describe('memory', () => {
  test('is counted by the GPU that is asked', async () => {
    const memory = await answer(`return require(root + '/dist/group.js').cudaMemory(1)`, { devices: 2, memory: 2 ** 30 })
    expect(memory).toEqual({ totalBytes: 2 ** 30, freeBytes: expect.any(Number) })
  })

  test('a model that does not fit is refused before it is loaded: rank, GPU, need and free bytes', async () => {
    const error = await answer<{ code: string; message: string; details: Record<string, number> }>(`
      const { AutoModelForCausalLM } = require(root + '/dist/index.js')
      const options = { tpSize: 2, devices: [0, 0], gpuMemoryUtilization: 0.5 }
      return AutoModelForCausalLM.fromPretrained(root + '/models/heddle-tiny', options).then(() => 'loaded', failure)`)
    expect(error).toMatchObject({ code: 'out_of_memory', details: { ranks: [0, 1], device: 0, totalBytes: 2 ** 30 } })
    expect(error.message).toMatch(/ranks 0, 1 on GPU 0: expected \d+ MB \(weights .*, workspace .*, cache .*\), got \d+ MB free of 1074 MB/)
    expect(error.details.neededBytes).toBeGreaterThan(2 ** 29)
  })

  test('a tensor that does not fit is an error of its rank, and the group goes on', async () => {
    const result = await answer<{ error: object; sum: number[] }>(`
      const group = await openGroup({ size: 1 })
      const spec = (width) => [{ dtype: 'float32', shape: [2 ** 14, width], role: 'weight', pieces: [] }]
      const error = await group.createTensor(spec(2 ** 15)).ready.then(() => 'made', failure)
      await group.createTensor(spec(2)).ready
      const { data } = await group.evaluate((g) => { const x = g.input({ data: new Float32Array([1, 2]), shape: [1, 2] }); return x.add(x) })
      await group.close()
      return { error, sum: [...data] }`)
    expect(result).toMatchObject({ error: { code: 'out_of_memory', details: { rank: 0 } }, sum: [2, 4] })
  })
})
