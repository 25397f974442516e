'use strict'
// What every script here needs to start other programs. Rule: no dependencies, since these scripts run before `npm ci`.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const root = path.resolve(__dirname, '..')
const nodeModule = (file) => path.join(root, 'node_modules', file)

/** Runs a program in the repository root with the caller's terminal; returns its exit status. */
function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'], ...options })
  if (result.error) console.error(`heddle: ${command} did not run: ${result.error.message}`)
  return result.status ?? 1
}

const runNode = (args, options) => run(process.execPath, args, options)

/** Whether a program of that name answers to --version. */
const exists = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0

/** Milliseconds of the newest change below the given files and folders; a folder's own time shows what was removed from it. */
function newestChange(paths) {
  let newest = 0
  for (const file of paths) {
    const stat = fs.statSync(file, { throwIfNoEntry: false })
    if (!stat) continue
    newest = Math.max(newest, stat.mtimeMs)
    if (stat.isDirectory()) newest = Math.max(newest, newestChange(fs.readdirSync(file).map((name) => path.join(file, name))))
  }
  return newest
}

module.exports = { root, nodeModule, run, runNode, exists, newestChange }
