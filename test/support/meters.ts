// What scripts of runScript use to tell a leak from noise. Rule: a leak grows with every round, noise does not. Resident memory also holds
// what allocators keep for later, which depends on when garbage is collected and how threads are scheduled; so only growth that comes again
// and again counts, and it is compared with what went through.
import { runScript } from './child'
import type { Ended } from './child'

const meters = `
  const { readdirSync } = require('node:fs')
  async function settle() { for (let i = 0; i < 5; i++) { gc(); await pause(10) } }
  async function settleUntil(holds) { for (const end = performance.now() + 120_000; !holds() && performance.now() < end;) await settle() }
  const threads = () => readdirSync('/proc/self/task').length

  /** Bytes of resident memory that each quarter of the rounds left behind, at least. The first one warms up. */
  async function growthPerQuarter(rounds, once) {
    const resident = []
    for (let quarter = 0; quarter < 4; quarter++) {
      for (let i = 0; i < rounds / 4; i++) await once(i)
      await settle()
      resident.push(process.memoryUsage.rss())
    }
    return Math.min(...[1, 2, 3].map((quarter) => resident[quarter] - resident[quarter - 1]))
  }
`

/**
 * A script with these meters. glibc keeps freed blocks of up to 32 MB in the arenas of its threads, 64 MB and more at a time, once it has
 * seen one freed; with its threshold fixed they go back to the system at once.
 */
export function runMetered(script: string): Promise<Ended> {
  return runScript(meters + script, { nodeArgs: ['--expose-gc'], env: { MALLOC_MMAP_THRESHOLD_: '131072' } })
}
