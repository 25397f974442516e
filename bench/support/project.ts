// Where the project is, from the compiled bench: the nearest folder above that holds its package.json.
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'

function findRoot(from: string): string {
  if (existsSync(join(from, 'package.json')) && existsSync(join(from, 'CMakeLists.txt'))) return from
  const parent = dirname(from)
  if (parent === from) throw new Error('bench: expected to run inside a heddle checkout')
  return findRoot(parent)
}

export const projectRoot = findRoot(__dirname)
