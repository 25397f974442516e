// The ranks that share one model: size, device, data type. Everything that holds memory or runs belongs to one group and ends with it.
import { checkOptions } from './checks'
import { HeddleError, invalidArgument } from './errors'
import { cpuInfo, NativeGroup } from './native'
import type { DType, HostTensor, RankInfo, TensorSpec } from './native'
import { evaluate } from './program'
import type { Recorder } from './program'
import { Tensor } from './tensor'
import type { Sharding } from './tensor'
import type { Value } from './value'

export type Device = 'auto' | 'cpu' | 'cuda'

export interface OpenGroupOptions {
  /** ranks, 1 to 64; more than cores is slow but works */
  size: number
  /** `auto` takes what is usable and `info()` says why */
  device?: Device
  /** numbers of the GPUs, one per rank; not for the CPU */
  devices?: number[]
  /** of weights and compute: `float32` keeps a 16-bit checkpoint's own weights, exactly */
  dtype?: DType
  /** where the ranks live: threads of this process, or a process each */
  host?: 'thread' | 'process'
}

export interface GroupInfo {
  size: number
  device: 'cpu' | 'cuda'
  dtype: DType
  /** why this device was chosen */
  reason: string
  /** instruction set of the CPU kernels */
  isa: string
  ranks: RankInfo[]
}

export const maxGroupSize = 64
const devices = ['auto', 'cpu', 'cuda'] as const
export const dtypes = ['float32', 'bfloat16', 'float16'] as const
const hosts = ['thread', 'process'] as const
const noCuda = 'no CUDA backend in this build'

/** Starts the ranks. Throws `invalid_argument` for options that make no sense, `unavailable` for what this build or machine lacks. */
export async function openGroup(options: OpenGroupOptions): Promise<Group> {
  const { size, device, dtype } = checkedOptions(options)
  const reason = device === 'auto' ? noCuda : 'asked for'
  const native = await NativeGroup.open({ size, device: 'cpu', dtype })
  return new Group(native, 'cpu', dtype, reason)
}

function checkedOptions(options: OpenGroupOptions): { size: number; device: Device; dtype: DType } {
  checkOptions('openGroup', options, ['size', 'device', 'devices', 'dtype', 'host'])
  const { size, device = 'auto', dtype = 'float32', host = 'thread' } = options
  if (!Number.isInteger(size) || size < 1 || size > maxGroupSize) {
    throw invalidArgument('openGroup: size', `an integer from 1 to ${maxGroupSize}`, size)
  }
  checkChoice('device', devices, device)
  checkChoice('dtype', dtypes, dtype)
  checkChoice('host', hosts, host)
  if (host === 'process') throw new HeddleError('unavailable', 'openGroup: host process is not in this build yet, use thread')
  if (device === 'cuda') throw new HeddleError('unavailable', `openGroup: device cuda is not available: ${noCuda}`)
  if (options.devices !== undefined) throw invalidArgument('openGroup: devices', 'none for ranks on the CPU', options.devices)
  return { size, device, dtype }
}

function checkChoice(name: string, choices: readonly string[], value: unknown): void {
  if (!choices.includes(value as string)) throw invalidArgument(`openGroup: ${name}`, `one of ${choices.join(', ')}`, value)
}

export class Group implements AsyncDisposable {
  readonly size: number
  #lastId = 0

  /** Use `openGroup`. `native` is for tensors and programs. */
  constructor(
    readonly native: NativeGroup,
    readonly device: 'cpu' | 'cuda',
    readonly dtype: DType,
    readonly reason: string
  ) {
    this.size = native.size
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
    const { size, device, dtype, reason } = this
    return { size, device, dtype, reason, isa: cpuInfo().isa, ranks: this.native.info() }
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
