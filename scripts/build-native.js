#!/usr/bin/env node
'use strict'
// Builds the native code with cmake-js (plain cmake where it is not installed) and copies the results to --dest: the addon, and the CUDA
// backend where nvcc is. HEDDLE_CUDA: AUTO (goes on without CUDA if that fails), ON (or fail), OFF; HEDDLE_CUDA_ARCHS: GPU architectures.
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

/** Architectures of the GPUs in this machine, or one that CI compiles: a checkout is built for the machine it is on. */
function localArchitectures() {
  const { stdout } = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], { encoding: 'utf8', timeout: 20_000 })
  const found = [...new Set((stdout ?? '').match(/^\d+\.\d$/gm) ?? [])].map((version) => `${version.replace('.', '')}-real`)
  return found.length > 0 ? found.join(';') : '90-real'
}

/** What CMake is told. Never empty: CMakeCache.txt would keep the value of an earlier run. */
function buildOptions(architectures) {
  return {
    HEDDLE_WERROR: process.env.HEDDLE_WERROR === '1' ? 'ON' : 'OFF',
    HEDDLE_CUDA: (process.env.HEDDLE_CUDA || 'AUTO').toUpperCase(),
    HEDDLE_CUDA_ARCHS: process.env.HEDDLE_CUDA_ARCHS || architectures,
    HEDDLE_CUDA_OFF_BECAUSE: 'switched off'
  }
}

function compile(config, options) {
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

function compileWithFallback(config, options) {
  const status = compile(config, options)
  if (status === 0 || options.HEDDLE_CUDA !== 'AUTO') return status
  console.error('heddle: the build failed; trying once more without the CUDA backend')
  return compile(config, { ...options, HEDDLE_CUDA: 'OFF', HEDDLE_CUDA_OFF_BECAUSE: 'its build failed' })
}

/** What is shipped: test programs leave libraries of their own in the build folder. */
const products = ['heddle.node', 'libheddle_cuda.so']

function copyLibraries(from, dest) {
  const libraries = (folder) => fs.readdirSync(folder).filter((file) => products.includes(file))
  fs.mkdirSync(dest, { recursive: true })
  for (const file of libraries(dest)) fs.rmSync(path.join(dest, file))   // never write into a file that a process has mapped
  for (const file of libraries(from)) {
    const target = path.join(dest, file)
    fs.copyFileSync(path.join(from, file), target)
    console.log(`heddle: ${path.relative(root, target)} (${(fs.statSync(target).size / 1024).toFixed(0)} KiB)`)
  }
}

/**
 * Returns the exit status. Options: --debug; --dest FOLDER, default build/Release; --local: for the GPUs of this machine, unless
 * HEDDLE_CUDA_ARCHS says otherwise, instead of all that a release supports.
 */
function buildNative(args = []) {
  const config = args.includes('--debug') ? 'Debug' : 'Release'
  const dest = path.resolve(root, args.includes('--dest') ? args[args.indexOf('--dest') + 1] : path.join('build', config))
  if (spawnSync('cmake', ['--version']).error) {
    console.error('heddle: CMake was not found. To build from source install CMake 3.20+, a C++20 compiler and the Highway headers\n' +
      'heddle: (Debian, Ubuntu: apt-get install cmake g++ make libhwy-dev), then run: npm rebuild heddle')
    return 1
  }
  dropForeignCache()
  const status = compileWithFallback(config, buildOptions(args.includes('--local') ? localArchitectures() : 'release'))
  if (status === 0) copyLibraries(path.join(out, config), dest)
  return status
}

module.exports = { buildNative, jobCount }
/** What is asked on the command line; a build takes minutes, so nothing that is mistyped starts one. */
function main(args) {
  const known = ['--debug', '--dest', '--local']
  const wrong = args.find((arg, index) => !known.includes(arg) && args[index - 1] !== '--dest')
  if (wrong === undefined) return buildNative(args)
  console.log('Usage: heddle-build [--local] [--debug] [--dest FOLDER]\nBuilds the native code of heddle from source; --local: for the GPUs of this machine.')
  return wrong === '--help' || wrong === '-h' ? 0 : 2
}

if (require.main === module) process.exit(main(process.argv.slice(2)))
