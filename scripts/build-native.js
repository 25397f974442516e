#!/usr/bin/env node
'use strict'
// Builds the native code with cmake-js (plain cmake where it is not installed) and copies the results to --dest.
// Rule: needs nothing but node, cmake and a compiler, since it also runs at a consumer of the npm package.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.resolve(__dirname, '..')
const out = path.join(root, 'build-cmake')

/** Under node-gyp: make's job server must not reach the make that cmake runs. */
function buildEnvironment() {
  const env = { ...process.env }
  for (const key of ['MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'MAKEOVERRIDES']) delete env[key]
  return env
}

function run(command, ...args) {
  return spawnSync(command, args, { cwd: root, env: buildEnvironment(), stdio: ['ignore', 'inherit', 'inherit'] }).status ?? 1
}

/** One compiler per core, as far as memory goes. */
function jobCount() {
  return String(Math.max(1, Math.min(os.availableParallelism(), Math.floor(os.totalmem() / 2 ** 31))))
}

/** CMakeCache.txt holds absolute paths: it is dropped if the folder was copied from elsewhere. */
function dropForeignCache() {
  let cache = ''
  try { cache = fs.readFileSync(path.join(out, 'CMakeCache.txt'), 'utf8') } catch {}
  if (!cache.includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${root}\n`)) fs.rmSync(out, { recursive: true, force: true })
}

function findCmakeJs() {
  try { return path.join(path.dirname(require.resolve('cmake-js/package.json')), 'bin', 'cmake-js') } catch { return undefined }
}

function compile(config) {
  // never empty: CMakeCache.txt would keep the value of an earlier run
  const options = { HEDDLE_WERROR: process.env.HEDDLE_WERROR === '1' ? 'ON' : 'OFF' }
  const defines = (flag) => Object.entries(options).map(([key, value]) => `${flag}${key}=${value}`)
  const cmakeJs = findCmakeJs()
  if (cmakeJs) {
    const common = ['--directory', root, '--out', out, '--config', config, '--parallel', jobCount(),
      '--log-level', 'error', ...defines('--CD')]
    // `cmake-js build` alone does not configure again
    return run(process.execPath, cmakeJs, 'configure', ...common) || run(process.execPath, cmakeJs, 'build', ...common)
  }
  return run('cmake', '-S', root, '-B', out, `-DCMAKE_BUILD_TYPE=${config}`, `-DNODE_EXE=${process.execPath}`,
    `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${path.join(out, config)}`, ...defines('-D')) ||
    run('cmake', '--build', out, '--parallel', jobCount())
}

function copyLibraries(from, dest) {
  const libraries = (folder) => fs.readdirSync(folder).filter((file) => /\.(node|so)$/.test(file))
  fs.mkdirSync(dest, { recursive: true })
  for (const file of libraries(dest)) fs.rmSync(path.join(dest, file))   // never write into a file that a process has mapped
  for (const file of libraries(from)) {
    const target = path.join(dest, file)
    fs.copyFileSync(path.join(from, file), target)
    console.log(`heddle: ${path.relative(root, target)} (${(fs.statSync(target).size / 1024).toFixed(0)} KiB)`)
  }
}

/** Returns the exit status. Options: --debug; --dest FOLDER, default build/Release. */
function buildNative(args = []) {
  const config = args.includes('--debug') ? 'Debug' : 'Release'
  const dest = path.resolve(root, args.includes('--dest') ? args[args.indexOf('--dest') + 1] : path.join('build', config))
  if (spawnSync('cmake', ['--version']).error) {
    console.error('heddle: CMake was not found. To build from source install CMake 3.20+, a C++20 compiler and the Highway headers\n' +
      'heddle: (Debian, Ubuntu: apt-get install cmake g++ make libhwy-dev), then run: npm rebuild heddle')
    return 1
  }
  dropForeignCache()
  const status = compile(config)
  if (status === 0) copyLibraries(path.join(out, config), dest)
  return status
}

module.exports = { buildNative, jobCount }
if (require.main === module) process.exit(buildNative(process.argv.slice(2)))
