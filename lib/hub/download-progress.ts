// How a download goes, told after every chunk: bytes of all files together, a rate and the time left.
import type { RemoteFile } from './blob-download'

export interface DownloadProgress {
  phase: 'download'
  /** of the files that this model needs; files that the cache had count as loaded */
  loadedBytes: number
  totalBytes: number
  /** what was fetched last */
  file: string
  /** over the last seconds; 0 before anything came */
  bytesPerSecond: number
  /** at that rate; Infinity before anything came */
  secondsLeft: number
}

/** Rates come from the last few seconds, so that a pause or a faster line shows soon. */
export class ProgressMeter {
  readonly #bytes = new Map<string, number>()
  readonly #recent: { at: number; bytes: number }[] = []
  #total = 0

  constructor(readonly onProgress: ((progress: DownloadProgress) => void) | undefined) {}

  /** `bytes` of the file are here already. */
  expect({ name, size }: RemoteFile, bytes: number): void {
    if (this.#bytes.has(name)) return
    this.#bytes.set(name, bytes)
    this.#total += size
  }

  report({ name }: RemoteFile, bytes: number): void {
    if (!this.onProgress) return
    this.#bytes.set(name, bytes)
    const loadedBytes = [...this.#bytes.values()].reduce((sum, one) => sum + one, 0)
    const at = performance.now()
    this.#recent.push({ at, bytes: loadedBytes })
    while (this.#recent.length > 2 && at - this.#recent[0]!.at > 5000) this.#recent.shift()
    const first = this.#recent[0]!
    const bytesPerSecond = at > first.at ? Math.max(0, ((loadedBytes - first.bytes) / (at - first.at)) * 1000) : 0
    const left = this.#total - loadedBytes
    const secondsLeft = left <= 0 ? 0 : left / bytesPerSecond
    this.onProgress({ phase: 'download', loadedBytes, totalBytes: this.#total, file: name, bytesPerSecond, secondsLeft })
  }
}
