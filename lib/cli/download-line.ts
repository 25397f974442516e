// One line on a terminal that tells how a download goes, written over itself and gone when it is done.
import type { PretrainedOptions } from '../generation/load-model'
import { bytes } from './quantities'

type OnProgress = NonNullable<PretrainedOptions['onProgress']>

const clearLine = '\r\u001b[K'
const refreshMilliseconds = 100

export function downloadLine(terminal: Pick<NodeJS.WriteStream, 'write' | 'columns'>, now: () => number = () => performance.now()): OnProgress {
  let shownAt = -Infinity
  let shown = false
  return (progress) => {
    const done = progress.phase === 'load' || progress.loadedBytes >= progress.totalBytes
    if (done && shown) {
      terminal.write(clearLine)
      shown = false
    }
    if (done || now() - shownAt < refreshMilliseconds) return
    shownAt = now()
    shown = true
    const { loadedBytes, totalBytes, bytesPerSecond, secondsLeft, file } = progress
    const percent = `${Math.floor((100 * loadedBytes) / totalBytes)} %`.padStart(5)
    const figures = `${percent}  ${bytes(loadedBytes, 1)} of ${bytes(totalBytes, 1)}  ${bytes(bytesPerSecond, 1)}/s  ${duration(secondsLeft)} left  ${file}`
    terminal.write(clearLine + figures.slice(0, Math.max(20, (terminal.columns || 80) - 1)))
  }
}

function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?'
  const whole = Math.ceil(seconds)
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)]
  return hours > 0 ? `${hours} h ${minutes} min` : minutes > 0 ? `${minutes} min ${whole % 60} s` : `${whole} s`
}
