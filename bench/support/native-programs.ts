// Builds and starts the Node-free programs of native/tests that the bench measures with.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { LineProcess } from './line-process'
import { projectRoot } from './project'

export type NativeProgram = 'heddle_read_bandwidth' | 'heddle_collective_bench' | 'heddle_cuda_collective_bench' |
  'heddle_cuda_emulated_collective_bench' | 'heddle_link_rate' | 'heddle_linear_bench' | 'heddle_cuda_linear_asked'

// The addon's own build folder where there is one, so that nothing is compiled twice.
export function buildNativeProgram(target: NativeProgram): string {
  const shared = join(projectRoot, 'build-cmake')
  const folder = existsSync(join(shared, 'CMakeCache.txt')) ? shared : join(projectRoot, 'build-bench')
  if (folder !== shared) cmake(['-S', projectRoot, '-B', folder, '-DHEDDLE_ADDON=OFF'])
  cmake(['--build', folder, '--target', target, '--parallel', '2'])
  return join(folder, target)
}

function cmake(args: string[]): void {
  const done = spawnSync('cmake', args, { encoding: 'utf8' })
  if (done.status === 0) return
  const output = `${done.stdout ?? ''}${done.stderr ?? ''}`.trim().split('\n').slice(-20).join('\n')
  throw new Error(`cmake ${args.join(' ')}: ${done.error?.message ?? `status ${done.status}`}\n${output}`)
}

export interface ReadBandwidth {
  measure(threads: number): Promise<number> // GB/s
  close(): Promise<void>
}

const measureMilliseconds = 300

// A process beside the contenders that measures the read ceiling on demand. More threads than cores read no faster.
export async function openReadBandwidth(mostThreads: number): Promise<ReadBandwidth> {
  const child = new LineProcess('read bandwidth', buildNativeProgram('heddle_read_bandwidth'), [String(mostThreads)])
  const measure = async (threads: number) => {
    const asked = `${Math.min(threads, mostThreads)} ${measureMilliseconds}`
    return (await child.ask<{ gigabytesPerSecond: number }>(asked)).gigabytesPerSecond
  }
  for (let threads = 1; threads <= mostThreads; threads++) await measure(threads) // the first time it looks for its best pattern
  return { measure, close: () => child.close() }
}
