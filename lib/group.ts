// The ranks that share one model: size, device, data type. Everything that holds memory or runs belongs to one group and ends with it.
import { checkFlags, checkOptions } from './checks'
import { HeddleError, invalidArgument } from './errors'
import { cpuInfo, cudaInfo, NativeGroup } from './native'
import type { CommunicatorChoice, CudaDevice, CudaInfo, DType, HostTensor, RankInfo, Ranks, TensorSpec } from './native'
import { evaluate } from './program'
import type { Recorder } from './program'
import { Tensor } from './tensor'
import type { Sharding } from './tensor'
import type { Value } from './value'

export { cudaInfo, cudaMemory } from './native'
export type { CommunicatorChoice, CudaDevice, CudaInfo, CudaLibrary, DeviceMemory, DType, NodeSpec, ProgramSpec, Ranks, TensorSpec } from './native'

export type Device = 'auto' | 'cpu' | 'cuda'

export interface OpenGroupOptions {
  /** ranks, 1 to 64; more than cores is slow but works */
  size: number
  /** `auto` takes GPUs where there is one for every rank, else the CPU, and `info()` says why */
  device?: Device
  /** numbers of the GPUs, one per rank; a number may repeat: those ranks share a GPU. Default: the first ones */
  devices?: readonly number[]
  /** what ranks on GPUs talk over: peers' memory, NCCL, or whatever is best here. NCCL needs a GPU for every rank */
  communicator?: CommunicatorChoice
  /**
   * milliseconds that a rank waits for the others in one collective before the group fails with a `timeout` that names the missing ones;
   * default 120 000. To be longer than a rank may be held up, by a slow disk or a GPU that others use
   */
  collectiveTimeoutMs?: number
  /** of weights and compute: `float32` keeps a 16-bit checkpoint's own weights, exactly */
  dtype?: DType
  /**
   * results do not depend on the number of ranks, bit for bit: sums are taken in the same pieces and the same order at sizes 1, 2, 4 and 8,
   * the only ones then. Slower. Default false
   */
  reproducible?: boolean
  /** where the ranks live: threads of this process, or a process each */
  host?: 'thread' | 'process'
}

export interface GroupInfo {
  size: number
  device: 'cpu' | 'cuda'
  dtype: DType
  /** whether results are the same at every size */
  reproducible: boolean
  /** why this device was chosen */
  reason: string
  /** what the ranks talk over */
  communicator: string
  /** instruction set of the CPU kernels */
  isa: string
  /** the GPU of each rank, and what was found for them; absent on the CPU */
  gpus?: CudaDevice[]
  cuda?: CudaInfo
  ranks: RankInfo[]
}

export const maxGroupSize = 64
/** sizes of a group with `reproducible` */
export const reproducibleSizes: readonly number[] = [1, 2, 4, 8]
const longestTimeout = 2 ** 31 - 1
const deviceNames = ['auto', 'cpu', 'cuda'] as const
export const dtypes = ['float32', 'bfloat16', 'float16'] as const
const hosts = ['thread', 'process'] as const
const communicators = ['auto', 'local', 'nccl'] as const

/** Starts the ranks. Throws `invalid_argument` for options that make no sense, `unavailable` for what this build or machine lacks. */
export async function openGroup(options: OpenGroupOptions): Promise<Group> {
  const { device, ...checked } = checkedOptions(options)
  const open = async (device: 'cpu' | 'cuda', reason: string): Promise<Group> => {
    return new Group(await NativeGroup.open({ ...checked, device }), device, checked.dtype, reason, checked.reproducible)
  }
  if (device !== 'auto') return open(device, 'asked for')
  const reason = whyNoGpus(checked.size, cudaInfo(false))
  if (reason) return open('cpu', reason)
  return open('cuda', 'there is a GPU for every rank').catch((error: HeddleError) => {
    if (error.code !== 'unavailable') throw error
    return open('cpu', error.message)
  })
}

/** Why ranks that could be on either device are not on GPUs. */
function whyNoGpus(size: number, { usable, reason, devices }: CudaInfo): string {
  if (!usable) return reason
  return size <= devices.length ? '' : `${size} ranks, ${devices.length} GPUs; several ranks on one GPU: devices: [0, 0, …]`
}

interface CheckedOptions extends Pick<OpenGroupOptions, 'size' | 'devices' | 'communicator' | 'collectiveTimeoutMs'> {
  device: Device
  dtype: DType
  reproducible: boolean
}

function checkedOptions(options: OpenGroupOptions): CheckedOptions {
  checkOptions('openGroup', options, ['size', 'device', 'devices', 'dtype', 'host', 'communicator', 'collectiveTimeoutMs', 'reproducible'])
  const { size, dtype = 'float32', host = 'thread', devices, communicator, collectiveTimeoutMs, reproducible = false } = options
  if (!Number.isInteger(size) || size < 1 || size > maxGroupSize) {
    throw invalidArgument('openGroup: size', `an integer from 1 to ${maxGroupSize}`, size)
  }
  checkReproducible('openGroup', size, reproducible)
  const asked = options.device ?? 'auto'
  checkChoice('device', deviceNames, asked)
  const device = asked === 'auto' && (devices !== undefined || communicator === 'nccl') ? 'cuda' : asked // who names GPUs means them
  checkChoice('dtype', dtypes, dtype)
  checkChoice('host', hosts, host)
  if (host === 'process') throw new HeddleError('unavailable', 'openGroup: host process is not in this build yet, use thread')
  if (communicator !== undefined) checkChoice('communicator', communicators, communicator)
  if (devices !== undefined) checkDevices(size, device, devices)
  if (collectiveTimeoutMs !== undefined) checkTimeout(collectiveTimeoutMs)
  return {
    size,
    device,
    dtype,
    reproducible,
    ...(devices && { devices }),
    ...(communicator && { communicator }),
    ...(collectiveTimeoutMs !== undefined && { collectiveTimeoutMs })
  }
}

/** Throws `invalid_argument` with the sizes that `reproducible` allows; they divide the eight pieces that sums are taken in. */
export function checkReproducible(where: string, size: number, reproducible: boolean | undefined): void {
  checkFlags(where, { reproducible })
  if (!reproducible || reproducibleSizes.includes(size)) return
  const text = `${where}: expected a size of ${reproducibleSizes.join(', ')} with reproducible, got ${size}`
  throw new HeddleError('invalid_argument', text, { details: { size, validSizes: [...reproducibleSizes] } })
}

function checkDevices(size: number, device: Device, devices: readonly number[]): void {
  if (device !== 'cuda') throw invalidArgument('openGroup: devices', "device 'cuda', whose GPUs they number", device)
  const isNumber = (value: unknown): boolean => Number.isInteger(value) && (value as number) >= 0
  if (!Array.isArray(devices) || devices.length !== size || !devices.every(isNumber)) {
    throw invalidArgument('openGroup: devices', `a number of a GPU for each of ${size} ranks`, devices)
  }
}

function checkTimeout(milliseconds: unknown): void {
  if (Number.isInteger(milliseconds) && (milliseconds as number) >= 1 && (milliseconds as number) <= longestTimeout) return
  throw invalidArgument('openGroup: collectiveTimeoutMs', `an integer from 1 to ${longestTimeout}`, milliseconds)
}

function checkChoice(name: string, choices: readonly string[], value: unknown): void {
  if (!choices.includes(value as string)) throw invalidArgument(`openGroup: ${name}`, `one of ${choices.join(', ')}`, value)
}

export class Group implements AsyncDisposable {
  readonly size: number
  readonly communicator: string
  /** number of each rank's GPU; none on the CPU */
  readonly devices: readonly number[]
  #lastId = 0

  /** Use `openGroup`. `native` is for tensors and programs. */
  constructor(
    readonly native: Ranks,
    readonly device: 'cpu' | 'cuda',
    readonly dtype: DType,
    readonly reason: string,
    /** whether results are the same at every size: see `OpenGroupOptions` */
    readonly reproducible = false
  ) {
    const { devices, communicator } = native.placement()
    this.size = native.size
    this.communicator = communicator
    this.devices = devices
  }

  /** The next id of a tensor or program; they share one sequence. */
  nextId(): number {
    return ++this.#lastId
  }

  get closed(): boolean {
    return this.native.closed
  }

  /** One part per rank; memory is taken and filled on the rank's own thread, see `Tensor.ready`. */
  createTensor(specs: TensorSpec[], sharding: Sharding = 'replicated'): Tensor {
    if (!Array.isArray(specs) || specs.length !== this.size) {
      throw invalidArgument('createTensor', `one spec for each of ${this.size} ranks`, specs)
    }
    return new Tensor(this, specs, sharding)
  }

  /** Records `fn`, runs it once on every rank and gives its whole result. For playing with layers, and for tests. */
  async evaluate(fn: (g: Recorder) => Value): Promise<HostTensor> {
    this.#expectOpen('evaluate')
    if (typeof fn !== 'function') throw invalidArgument('evaluate', 'a function that records a forward pass', fn)
    return evaluate(this, fn)
  }

  /** What the ranks are and hold at this moment. */
  info(): GroupInfo {
    const { size, device, dtype, reproducible, reason, communicator } = this
    return { size, device, dtype, reproducible, reason, communicator, isa: cpuInfo().isa, ...this.#cudaFacts(), ranks: this.native.info() }
  }

  #cudaFacts(): Pick<GroupInfo, 'gpus' | 'cuda'> {
    if (this.device === 'cpu') return {}
    const cuda = cudaInfo(this.communicator.includes('nccl'))
    return { gpus: this.devices.map((device) => cuda.devices[device]!), cuda }
  }

  /** Ends running work at the next operation, frees everything the ranks hold and ends their threads. Idempotent. */
  close(): Promise<void> {
    return this.native.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #expectOpen(where: string): void {
    if (this.closed) throw new HeddleError('closed', `${where}: expected an open group, got one that is closed`)
  }
}
