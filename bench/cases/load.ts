// Loading: bytes of the checkpoint a second from the file to the ranks' memory, beside a plain read of the same file.
import { spawnSync } from 'node:child_process'
import { closeSync, openSync, readSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { type LoadAnswer, type Placement } from '../support/contender-protocol'
import { type Case, type Reporter } from '../support/case'
import { openHeddleProcess, placementOf } from '../support/contenders'
import { ratios, result } from '../support/statistics'

const states = ['cold', 'cached'] as const

export const load: Case = {
  name: 'load',
  about: 'GB/s from file to ranks, with the file out of and in the page cache, and memory of a rank, by group size',
  async run(options, report) {
    const folder = options.folder(options.shapeName)
    const file = join(folder, 'model.safetensors')
    const gigabytes = statSync(file).size / 1e9
    const last = new Map<number, LoadAnswer>()
    for (const state of states) {
      const plain: number[] = []
      const loaded = options.sizes.map(() => [] as number[])
      if (!enter(state, file)) {
        report.note(`load ${state}: this system does not let a file be dropped from the page cache; skipped`)
        continue
      }
      for (let round = 0; round < options.repeats; round++) {
        if (!report.hasTime(`load ${state}, repeat ${round + 1}`)) break
        enter(state, file)
        plain.push(gigabytes / plainReadSeconds(file))
        for (const [i, size] of options.sizes.entries()) {
          enter(state, file)
          const answer = await loadOnce(folder, size, placementOf(options, size))
          loaded[i].push(gigabytes / answer.seconds)
          last.set(size, answer)
        }
      }
      if (plain.length === 0) continue
      report.add(result(`plain read, one thread, ${state}`, 'GB/s', plain))
      for (const [i, size] of options.sizes.entries()) {
        report.add(result(`load tp=${size} ${state}`, 'GB/s', loaded[i]))
        report.add(result(`load tp=${size} ${state} / plain read`, 'x', ratios(loaded[i], plain)))
      }
    }
    for (const [size, answer] of last) addMemory(size, answer, 1e9 * gigabytes, report)
  },
}

// What the ranks hold, by their own count; the peak is the whole process's, since ranks are threads of it.
function addMemory(size: number, { info, peakBytes }: LoadAnswer, fileBytes: number, report: Reporter): void {
  const ranks = info.ranks.map(({ weightBytes, cacheBytes, workspaceBytes }) => ({ weightBytes, all: weightBytes + cacheBytes + workspaceBytes }))
  report.add(result(`weights of a rank, tp=${size}`, 'MB', ranks.map(({ weightBytes }) => weightBytes / 1e6)))
  report.add(result(`weights, cache and workspace of a rank, tp=${size}`, 'MB', ranks.map(({ all }) => all / 1e6)))
  if (peakBytes === undefined) return report.skip('peak memory', 'this system does not tell it')
  report.add(result(`peak memory of the process / ranks, tp=${size}`, 'MB', [peakBytes / size / 1e6]))
  const held = ranks.reduce((sum, { weightBytes }) => sum + weightBytes, 0)
  report.add(result(`peak memory / weights held, tp=${size}`, 'x', [peakBytes / held]))
  report.note(`tp=${size}: the ranks hold ${(held / fileBytes).toFixed(2)} times the checkpoint's bytes; the peak includes Node.js and the touched part of the cache`)
}

async function loadOnce(folder: string, tpSize: number, placement: Placement): Promise<LoadAnswer> {
  const child = openHeddleProcess()
  try {
    return await child.ask<LoadAnswer>({ do: 'load', folder, tpSize, ...placement })
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
