// Whoever runs collectives for the bench, behind one interface: processes that answer the lines of native/tests/collective_question.h.
import { join } from 'node:path'
import { cudaInfo } from 'heddle'
import { peerPython } from './contenders'
import { type CollectiveName } from './facts'
import { LineProcess } from './line-process'
import { buildNativeProgram, type NativeProgram } from './native-programs'
import { projectRoot } from './project'

export type ElementType = 'float32' | 'bfloat16'

export interface CollectiveQuestion {
  collective: CollectiveName
  bytes: number
  type: ElementType
  inPlace: boolean
  graph: boolean
}

export interface CollectiveAnswer {
  bytes: number // what was measured: parts are whole vectors
  count: number
  microseconds: number
  wrong: number
}

export interface CollectiveRunner {
  communicator: string
  graphs: boolean // it also replays calls as a CUDA graph
  ordinals: number[] // of GPUs; none: on the CPU
  ask(question: CollectiveQuestion): Promise<CollectiveAnswer>
  /** GB/s that the memory of one GPU gives to a kernel that reads. */
  memoryBandwidth(): Promise<number>
  close(): Promise<void>
}

const gloo = join(projectRoot, 'bench', 'peers', 'gloo', 'run.py')
const timeoutSeconds = 180 // of one answer

export function openLocal(ranks: number): CollectiveRunner {
  return runner('local', [], new LineProcess('local', buildNativeProgram('heddle_collective_bench'), [String(ranks)], { timeoutSeconds }))
}

/** Throws MissingPeer where there is no torch. */
export function openGloo(ranks: number): CollectiveRunner {
  return runner('gloo', [], new LineProcess('gloo', peerPython('gloo (torch.distributed)'), [gloo, String(ranks)], { timeoutSeconds }))
}

export function openOnGpus(communicator: 'local' | 'nccl', ordinals: number[]): CollectiveRunner {
  const program = buildNativeProgram(gpuProgram())
  return runner(communicator, ordinals, new LineProcess(communicator, program, [communicator, ordinals.join(',')], { timeoutSeconds }))
}

// Where the emulator of the tests stands in for the CUDA backend, its own program does, so that all of this can be tried without a GPU.
function gpuProgram(): NativeProgram {
  return cudaInfo(false).backend.includes('emulated') ? 'heddle_cuda_emulated_collective_bench' : 'heddle_cuda_collective_bench'
}

function runner(communicator: string, ordinals: number[], child: LineProcess): CollectiveRunner {
  return {
    communicator,
    graphs: ordinals.length > 0,
    ordinals,
    ask: ({ collective, bytes, type, inPlace, graph }) =>
      child.ask(`${collective} ${bytes} ${type} ${inPlace ? 'in' : 'out'} ${graph ? 'graph' : 'eager'}`),
    memoryBandwidth: async () => (await child.ask<{ gigabytesPerSecond: number }>('memory')).gigabytesPerSecond,
    close: () => child.close(),
  }
}
