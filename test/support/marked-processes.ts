// Processes told apart by a mark in their environment, which children inherit: whether something that a test started is still there.
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { promptly } from './child'

export const markName = 'HEDDLE_TEST_MARK'

/** Other systems than Linux do not tell the environment of a process. */
export const testWithMarks = existsSync('/proc/self/environ') ? test : test.skip

/** Processes that carry the mark in their environment, which children inherit. */
function marked(mark: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false
    try {
      return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(`${markName}=${mark}`)
    } catch {
      return false // it ended meanwhile, or belongs to somebody else
    }
  })
}

/** Waits until none of them is left. */
export async function untilNoneIs(mark: string): Promise<void> {
  const end = performance.now() + promptly
  while (marked(mark).length > 0) {
    if (performance.now() > end) throw new Error(`expected no process of ${mark} to be left, got ${marked(mark).join(', ')}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}
