// Finds and loads the addon, and is the one place that knows its types. Nothing above this file calls native code otherwise.
import path from 'node:path'
import { cudaLibraryFolders, surroundings } from './cuda-libs'
import { HeddleError, isHeddleErrorCode, messageOf } from './errors'
import { ofThisRealm } from './realm'

export type DType = 'float32' | 'bfloat16' | 'float16'

/** Where the elements of a piece come from: a region of a file, or an array that is copied before the call returns. */
export type PieceSource = { path: string } | { data: Float32Array | Uint16Array }

/** A rectangle of elements that fills part of a tensor. Offsets and strides of the source are in bytes, those of the target in elements. */
export interface PieceSpec {
  source: PieceSource
  dtype: DType
  offset: number
  rows: number
  rowElements: number
  rowStride: number
  targetOffset: number
  targetStride: number
  /** the source holds the columns of the rectangle one after the other; `rowStride` is then between the starts of two columns */
  transposed?: boolean
  /** is added to every element; the tensor must be float32 */
  increment?: number
}

/** One rank's tensor. Elements that no piece covers are zero. */
export interface TensorSpec {
  dtype: DType
  shape: number[]
  role: 'weight' | 'cache'
  pieces: PieceSpec[]
}

export type Op =
  | 'input' | 'embed' | 'linear' | 'addBias' | 'add' | 'allReduce' | 'allGather' | 'slice' | 'rmsNorm' | 'layerNorm' | 'gated'
  | 'activation' | 'route' | 'experts' | 'attention' | 'lastRows' | 'sample' | 'output'

export type Attribute = number | boolean | string | number[]

/** One operation of a program on one rank. `inputs` are indices of earlier nodes, `tensors` are tensor ids, -1 where absent. */
export interface NodeSpec {
  op: Op
  inputs: number[]
  tensors: number[]
  /** columns of the result on this rank */
  width: number
  attributes: Record<string, Attribute>
}

export interface ProgramSpec {
  /** one list per rank, all of the same length and operations */
  nodes: NodeSpec[][]
  maxTokens: number
  maxSequences: number
}

export interface HostTensor { data: Float32Array; shape: number[] }

/** Sampling of one sequence: greedy at temperature 0; topK 0, topP 1 and minP 0 are off. The seed is a non-negative safe integer. */
export interface SamplingSpec {
  temperature: number
  topK: number
  topP: number
  minP: number
  seed: number
  /** of tokens as StepEdits counts them; 1, 0 and 0 are off */
  repetitionPenalty?: number
  presencePenalty?: number
  frequencyPenalty?: number
  /** position of the first token after the prompt; default: none is counted but by the list */
  answerStart?: number
  /** log-probabilities to tell of the chosen token and this many likeliest ones, 0 to 20; -1, the default: none */
  logprobs?: number
}

/**
 * What changes logits before a token is chosen, the ids of sequence i from starts[i] to starts[i + 1], distinct: first its bias is added;
 * where the count is 0 or more the repetition penalty applies, where it is more also the presence and the frequency penalty. A step's last
 * token is not in the counts where it stands at answerStart or later: ranks add it.
 */
export interface StepEdits { starts: Int32Array; ids: Int32Array; counts: Int32Array; biases: Float32Array }

/** One step over the ragged batch. A token of `-1 - slot` means the token that was last sampled in that slot. */
export interface StepSpec {
  /** of all sequences, one behind the other */
  tokens: Int32Array
  /** of each token in its sequence */
  positions: Int32Array
  /** where each sequence begins among the tokens, and the number of tokens: one more than there are sequences */
  sequenceStarts: Int32Array
  /** of each sequence: where its sampled token is remembered, from 0 to maxSequences - 1 */
  slots: Int32Array
  /** [sequences, blocks of each]: the blocks of the caches that hold a sequence's positions, in order; shorter rows end in -1 */
  blockTable: Int32Array
  /** one per sequence; none: greedy */
  sampling?: SamplingSpec[]
  edits?: StepEdits
  inputs?: Record<string, HostTensor>
}

export interface StepResult {
  /** of each sequence the sampled token, where the program samples */
  tokens: Int32Array
  /** by the names that the program gave them */
  outputs: Record<string, HostTensor>
  /** of each sequence that asks: the chosen token, then the likeliest, best first; an id of -1 where the vocabulary has no more */
  logprobs?: { ids: Int32Array; values: Float32Array }
}

export interface RankInfo {
  rank: number
  device: string
  weightBytes: number
  cacheBytes: number
  workspaceBytes: number
  /** bytes read from files, and the part of them that went into tensors */
  fileBytesRead: number
  fileBytesUsed: number
}

export type CommunicatorChoice = 'auto' | 'local' | 'nccl'

export interface GroupOptions {
  size: number
  device: 'cpu' | 'cuda'
  devices?: readonly number[]
  dtype: DType
  communicator?: CommunicatorChoice
  collectiveTimeoutMs?: number
  reproducible?: boolean
}

/** Where the ranks run, one GPU each (none on the CPU), and what they talk over. */
export interface GroupPlacement { devices: number[]; communicator: string }

/** What the CPU kernels found: the instruction set they run with and the number of hardware threads that this process may use. */
export interface CpuInfo { isa: string; coreCount: number }

export interface CudaDevice { device: number; name: string; computeCapability: string; memoryBytes: number }

/** A library of NVIDIA: with its version and file, or with the problem that keeps it from being used (both: for some of its work). */
export interface CudaLibrary { name: string; version?: string; path?: string; problem?: string }

/** What was found for ranks on GPUs, or why there can be none. */
export interface CudaInfo {
  usable: boolean
  /** why not; empty where it is usable */
  reason: string
  /** how this build was made */
  build: string
  /** file of the CUDA backend; empty where none was opened */
  backend: string
  /** CUDA versions: the newest that the driver can do, and that of the backend */
  driver: string
  runtime: string
  devices: CudaDevice[]
  libraries: CudaLibrary[]
}

export interface DeviceMemory { totalBytes: number; freeBytes: number }

/** Where files may lie that only ranks on GPUs need; read at the first question alone. */
interface CudaSearch { backendFolders: string[]; libraryFolders: string[] }

/** Made by the addon alone, tagged there with its type, opaque here. */
type Mailbox = { readonly mailbox: unique symbol }
type GroupHandle = { readonly group: unique symbol }

type OnCompletion = (ticket: number, code?: string, message?: string, rank?: number, result?: unknown) => void

/** A call with a ticket throws at once for bad arguments, else it completes that ticket once, unless the environment ends before. */
interface Addon {
  version: string
  initialize(onCompletion: OnCompletion): Mailbox
  openGroup(mailbox: Mailbox, ticket: number, options: GroupOptions & { cuda?: CudaSearch }): GroupHandle
  createTensor(ticket: number, group: GroupHandle, id: number, specs: TensorSpec[]): void
  createProgram(ticket: number, group: GroupHandle, id: number, spec: ProgramSpec): void
  runProgram(ticket: number, group: GroupHandle, id: number, step: StepSpec): void
  readTensor(ticket: number, group: GroupHandle, id: number, rank: number): void
  dispose(ticket: number, group: GroupHandle, ids: number[]): void
  closeGroup(ticket: number, group: GroupHandle): void
  groupInfo(group: GroupHandle): RankInfo[]
  groupPlacement(group: GroupHandle): GroupPlacement
  cpuInfo(): CpuInfo
  cudaInfo(search: CudaSearch, everything: boolean): CudaInfo
  cudaMemory(search: CudaSearch, device: number): DeviceMemory
}

interface Pending {
  resolve(result: never): void
  reject(error: HeddleError): void
  caller: { stack?: string }
  /** the group at work: the garbage collector must not end it before its answer */
  holder: unknown
}

/** The promises of everything that was asked of the addon and is not done yet: ticket → promise. The only place that settles one. */
class Tickets {
  #last = 0
  readonly #pending = new Map<number, Pending>()

  submit<T>(holder: unknown, call: (ticket: number) => void): Promise<T> {
    const ticket = ++this.#last
    const caller: { stack?: string } = {}
    Error.captureStackTrace(caller, this.submit) // kept unformatted until there is an error to show it in
    return new Promise<T>((resolve, reject) => {
      this.#pending.set(ticket, { resolve, reject, caller, holder })
      try {
        call(ticket)
      } catch (thrown) {
        this.#pending.delete(ticket)
        reject(rebuilt(thrown))
      }
    })
  }

  readonly settle: OnCompletion = (ticket, code, message, rank, result) => {
    const pending = this.#pending.get(ticket)
    if (!pending) return
    this.#pending.delete(ticket)
    if (code === undefined) return pending.resolve(ofThisRealm(result) as never)
    pending.reject(nativeError(code, message ?? '', rank, pending.caller))
  }
}

function nativeError(code: string, message: string, rank: number | undefined, caller: { stack?: string }): HeddleError {
  const error = new HeddleError(isHeddleErrorCode(code) ? code : 'device_failed', message, rank === undefined ? {} : { details: { rank } })
  const frames = caller.stack?.indexOf('\n') ?? -1
  if (frames >= 0) error.stack = `${error.name}: ${message}${caller.stack!.slice(frames)}`
  return error
}

/** Errors made by native code are not of our class, in jest not even of our Error: build them anew. */
function rebuilt(thrown: unknown): HeddleError {
  if (thrown instanceof HeddleError) return thrown
  const code = typeof thrown === 'object' && thrown !== null && 'code' in thrown ? thrown.code : undefined
  if (isHeddleErrorCode(code)) return new HeddleError(code, messageOf(thrown))
  const message = `native call: expected arguments that can be read, got: ${messageOf(thrown)}`
  return new HeddleError('invalid_argument', message, { cause: thrown })
}

function guarded<T>(call: () => T): T {
  try {
    return call()
  } catch (thrown) {
    throw rebuilt(thrown)
  }
}

interface Connection { addon: Addon; mailbox: Mailbox; tickets: Tickets }

let connection: Connection | undefined

/** Loads the addon at the first use: importing heddle needs no binary, so plans and tokenizers work without one. */
function connect(): Connection {
  if (connection) return connection
  const addon = loadAddon()
  const tickets = new Tickets()
  connection = { addon, tickets, mailbox: guarded(() => addon.initialize(tickets.settle)) }
  return connection
}

const root = path.resolve(__dirname, '..')

function loadAddon(): Addon {
  try {
    return (require('node-gyp-build') as (root: string) => Addon)(root)
  } catch (cause) {
    const { platform, arch, version } = process
    const message = `heddle: expected a native addon for ${platform}-${arch} (Node ${version}), got: ${messageOf(cause)}. ` +
      'If install scripts were blocked run: npm rebuild heddle, or: npx heddle-build'
    throw new HeddleError('unavailable', message, { cause, details: { platform, arch, root } })
  }
}

export function cpuInfo(): CpuInfo {
  const { addon } = connect()
  return ofThisRealm(guarded(() => addon.cpuInfo()))
}

let search: CudaSearch | undefined

/** A backend that was built from source lies beside the addon; the shipped one serves an addon that was built anew. */
function cudaSearch(): CudaSearch {
  const backendFolders = [path.join(root, 'prebuilds', `${process.platform}-${process.arch}`)]
  search ??= { backendFolders, libraryFolders: cudaLibraryFolders(surroundings()) }
  return search
}

/** `everything`: also the libraries that are else opened when ranks first need them. */
export function cudaInfo(everything = true): CudaInfo {
  const { addon } = connect()
  return ofThisRealm(guarded(() => addon.cudaInfo(cudaSearch(), everything)))
}

/** Of one GPU, at this moment. The first question about a GPU takes some of its memory. Throws `unavailable`, `invalid_argument`. */
export function cudaMemory(device: number): DeviceMemory {
  const { addon } = connect()
  return ofThisRealm(guarded(() => addon.cudaMemory(cudaSearch(), device)))
}

export function nativeVersion(): string {
  return connect().addon.version
}

/** What a group asks of its ranks. */
export type Ranks = Pick<NativeGroup, keyof NativeGroup>

/** The ranks of one group as native code holds them. Calls are handled in order, on every rank; all fail with `closed` after `close()`. */
export class NativeGroup {
  #closing: Promise<void> | undefined

  private constructor(readonly size: number, private readonly handle: GroupHandle, private readonly connection: Connection) {}

  static async open(options: GroupOptions): Promise<NativeGroup> {
    const connection = connect()
    let handle: GroupHandle | undefined
    await connection.tickets.submit<void>(undefined, (ticket) => {
      const cuda = options.device === 'cuda' ? { cuda: cudaSearch() } : {}
      handle = connection.addon.openGroup(connection.mailbox, ticket, { ...options, ...cuda })
    })
    return new NativeGroup(options.size, handle!, connection)
  }

  get closed(): boolean {
    return this.#closing !== undefined
  }

  placement(): GroupPlacement {
    return ofThisRealm(guarded(() => this.connection.addon.groupPlacement(this.handle)))
  }

  createTensor(id: number, specs: TensorSpec[]): Promise<void> {
    return this.#submit((addon, ticket) => addon.createTensor(ticket, this.handle, id, specs))
  }

  createProgram(id: number, spec: ProgramSpec): Promise<void> {
    return this.#submit((addon, ticket) => addon.createProgram(ticket, this.handle, id, spec))
  }

  runProgram(id: number, step: StepSpec): Promise<StepResult> {
    return this.#submit((addon, ticket) => addon.runProgram(ticket, this.handle, id, step))
  }

  readTensor(id: number, rank: number): Promise<HostTensor> {
    return this.#submit((addon, ticket) => addon.readTensor(ticket, this.handle, id, rank))
  }

  /** Frees tensors and programs once the work submitted before is done. Never fails: what is closed or broken holds nothing to free. */
  dispose(ids: number[]): void {
    if (this.#closing) return
    this.#submit<void>((addon, ticket) => addon.dispose(ticket, this.handle, ids)).catch(() => {})
  }

  /** Ends running work between two operations, frees all memory of the ranks and ends their threads. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.connection.tickets.submit<void>(this, (ticket) => this.connection.addon.closeGroup(ticket, this.handle))
    return this.#closing
  }

  info(): RankInfo[] {
    if (this.#closing) throw closedError()
    return ofThisRealm(guarded(() => this.connection.addon.groupInfo(this.handle)))
  }

  #submit<T>(call: (addon: Addon, ticket: number) => void): Promise<T> {
    if (this.#closing) return Promise.reject(closedError())
    return this.connection.tickets.submit<T>(this, (ticket) => call(this.connection.addon, ticket))
  }
}

function closedError(): HeddleError {
  return new HeddleError('closed', 'Group: expected an open group, got one that is closed')
}
