// Whether something is there, asked by everything that reads a model's folder.
import { stat } from 'node:fs/promises'
import type { Stats } from 'node:fs'

export const isFile = (file: string): Promise<boolean> => holds(file, (stats) => stats.isFile())
export const isFolder = (folder: string): Promise<boolean> => holds(folder, (stats) => stats.isDirectory())

/** What cannot be looked at is not there. */
async function holds(target: string, test: (stats: Stats) => boolean): Promise<boolean> {
  return stat(target).then(test, () => false)
}
