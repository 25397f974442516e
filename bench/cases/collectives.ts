// The collectives among ranks: `local` on the CPU, gloo where torch is installed, and on GPUs `local` and NCCL, eager and in a CUDA graph.
import { type Case } from '../support/case'
import { sweepCollective, type Sweep } from '../support/collective-sweep'

const smallBytes = 4 * 1024
const peerBytes = 64 * 1024

const allReduceSweep: Sweep = {
  collective: 'all_reduce',
  inPlace: true,
  goal: (bytes, ranks, cores) => (bytes === smallBytes && ranks === 2 && cores >= 2 ? { most: 2 } : undefined),
  peerGoal: (bytes) => (bytes === peerBytes ? { least: 5 } : undefined),
}
const others = { inPlace: false, goal: () => undefined, peerGoal: () => undefined }

export const allReduce = collectiveCase('allreduce', allReduceSweep)
export const allGather = collectiveCase('allgather', { collective: 'all_gather', ...others })
export const reduceScatter = collectiveCase('reducescatter', { collective: 'reduce_scatter', ...others })
export const sendReceive = collectiveCase('sendrecv', { collective: 'send_recv', ...others })

function collectiveCase(name: string, sweep: Sweep): Case {
  const about = `${sweep.collective} by message and group size, as nccl-tests print it; every element is checked`
  return { name, about, run: (options, report) => sweepCollective(sweep, options, report) }
}
