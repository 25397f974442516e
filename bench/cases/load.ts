// Loading: bytes of the checkpoint a second from the file to the ranks' memory, beside a plain read of the same file.
import { spawnSync } from 'node:child_process'
import { closeSync, openSync, readSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { type Case } from '../support/case'
import { openHeddleProcess } from '../support/contenders'
import { ratios, result } from '../support/statistics'

const states = ['cold', 'cached'] as const

export const load: Case = {
  name: 'load',
  about: 'GB/s from file to ranks, with the file out of and in the page cache, by group size',
  async run(options, report) {
    const folder = options.folder(options.shapeName)
    const file = join(folder, 'model.safetensors')
    const gigabytes = statSync(file).size / 1e9
    for (const state of states) {
      const plain: number[] = []
      const loaded = options.sizes.map(() => [] as number[])
      if (!enter(state, file)) {
        report.note(`load ${state}: this system does not let a file be dropped from the page cache; skipped`)
        continue
      }
      for (let round = 0; round < options.repeats; round++) {
        enter(state, file)
        plain.push(gigabytes / plainReadSeconds(file))
        for (const [i, size] of options.sizes.entries()) {
          enter(state, file)
          loaded[i].push(gigabytes / (await loadSeconds(folder, size)))
        }
      }
      report.add(result(`plain read, one thread, ${state}`, 'GB/s', plain))
      for (const [i, size] of options.sizes.entries()) {
        report.add(result(`load tp=${size} ${state}`, 'GB/s', loaded[i]))
        report.add(result(`load tp=${size} ${state} / plain read`, 'x', ratios(loaded[i], plain)))
      }
    }
  },
}

async function loadSeconds(folder: string, tpSize: number): Promise<number> {
  const child = openHeddleProcess()
  try {
    return (await child.ask<{ seconds: number }>({ do: 'load', folder, tpSize })).seconds
  } finally {
    await child.close()
  }
}

// Brings the file into the state; false where the system cannot.
function enter(state: (typeof states)[number], file: string): boolean {
  if (state === 'cached') return plainReadSeconds(file) > 0
  // GNU dd: a count of 0 with nocache asks the kernel to drop the whole file.
  return spawnSync('dd', [`if=${file}`, 'iflag=nocache', 'count=0'], { stdio: 'ignore' }).status === 0
}

function plainReadSeconds(path: string): number {
  const buffer = new Uint8Array(8 << 20)
  const start = performance.now()
  const file = openSync(path, 'r')
  while (readSync(file, buffer) > 0);
  closeSync(file)
  return (performance.now() - start) / 1000
}
