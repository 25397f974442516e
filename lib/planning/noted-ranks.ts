// Ranks that take notes and do nothing: a group of them is told exactly what real ranks would be told, so whatever is read from the notes
// holds for any model without a rule of its own. Nothing native is loaded.
import { HeddleError } from '../errors'
import { Group } from '../group'
import type { DType, ProgramSpec, Ranks, TensorSpec } from '../group'

export class NotedRanks implements Ranks {
  readonly tensors = new Map<number, TensorSpec[]>()
  readonly programs: ProgramSpec[] = []
  readonly closed = false

  constructor(readonly size: number) {}

  placement(): { devices: number[]; communicator: string } {
    return { devices: [], communicator: 'none' }
  }

  async createTensor(id: number, specs: TensorSpec[]): Promise<void> {
    this.tensors.set(id, specs)
  }

  async createProgram(_id: number, spec: ProgramSpec): Promise<void> {
    this.programs.push(spec)
  }

  runProgram(): Promise<never> {
    return Promise.reject(notHere())
  }

  readTensor(): Promise<never> {
    return Promise.reject(notHere())
  }

  dispose(): void {}

  async close(): Promise<void> {}

  info(): never[] {
    return []
  }
}

export function notedGroup(size: number, dtype: DType, reproducible = false): { group: Group; notes: NotedRanks } {
  const notes = new NotedRanks(size)
  return { notes, group: new Group(notes, 'cpu', dtype, 'planned', reproducible) }
}

const notHere = (): HeddleError => new HeddleError('unavailable', 'plan: expected ranks that compute, got ranks that only take notes')
