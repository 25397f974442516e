#!/usr/bin/env node
'use strict'
// Builds and runs the Node-free native tests, of the core and of the CUDA backend on its emulator: plain, or with sanitizers
// (`address,undefined` or `thread`) in a build folder of their own. A plain run also builds what jest loads, the
// emulated backend, and the programs of the bench.
// Rule: a program's last line, "N passed, N failed", is what counts; without it the run failed.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { buildNative, jobCount } = require('./build-native.js')
const { ensurePrerequisites } = require('./prerequisites.js')
const { root, run } = require('./run.js')
const summary = require('./summary.js')

const minutes = 60_000
const quiet = { stdio: ['ignore', 'ignore', 'inherit'] }
const folders = { '': 'build-cmake', 'address,undefined': 'build-asan', thread: 'build-tsan' }
const programs = ['heddle_tests', 'heddle_cuda_emulated_tests']
// Under a sanitizer the emulated backend takes minutes to compile and several times as long to run, so it is left to `--emulated`, which
// `npm run check` gives: what checks kernels and the host's part under the address sanitizer, what meets between threads under the other,
// but for two tests that move a great deal between ranks and do not end within minutes there.
const emulatedTests = {
  'address,undefined': ['all_reduce_', 'collectives_', 'communicator_', 'cuda_', 'emulator_', 'entry_', 'fill_', 'gather_', 'graphs_', 'placement_', 'reduce_scatter_', 'schedule_', 'send_receive_'],
  thread: ['collectives_in_any', 'collectives_of_parts', 'collectives_over_nccl', 'communicator_', 'entry_', 'fill_', 'gather_', 'placement_']
}
const libraries = { HEDDLE_CUBLASLT_LIB: 'libheddle_fake_cublaslt.so', HEDDLE_NCCL_LIB: 'libheddle_fake_nccl.so' }

/** A plain run shares the objects of the addon's build; a sanitized one has its own and needs no Node headers. */
function configure(folder, sanitizers) {
  if (!sanitizers) return fs.existsSync(path.join(folder, 'CMakeCache.txt')) || buildNative(['--local']) === 0
  const warnings = process.env.HEDDLE_WERROR === '1' ? 'ON' : 'OFF'
  const options = ['-DHEDDLE_ADDON=OFF', '-DHEDDLE_CUDA=OFF', `-DHEDDLE_SANITIZE=${sanitizers}`, `-DHEDDLE_WERROR=${warnings}`]
  return run('cmake', ['-S', root, '-B', folder, ...options], quiet) === 0
}

/** What runs: each program and the filters of its tests. */
function runsOf(sanitizers, filters) {
  const [core, emulated] = programs
  if (filters.includes('--emulated')) return [{ program: emulated, filters: emulatedTests[sanitizers] ?? [] }]
  if (filters.length > 0 || !sanitizers) return programs.map((program) => ({ program, filters }))
  return [{ program: core, filters: [] }]
}

/** Returns whether the programs were built. */
function build(folder, sanitizers, wanted) {
  const targets = sanitizers ? wanted : [...wanted, 'heddle_cuda_emulated', 'heddle_benches']
  return configure(folder, sanitizers) &&
    run('cmake', ['--build', folder, '--target', ...targets, '--parallel', jobCount()], quiet) === 0
}

/** Where CMake left a library: cmake-js has a folder for them. */
function built(folder, name) {
  const inRelease = path.join(folder, 'Release', name)
  return fs.existsSync(inRelease) ? inRelease : path.join(folder, name)
}

/** The thread sanitizer of older compilers cannot start where the kernel randomizes addresses widely: that is switched off if it can be. */
function fixedAddresses() {
  return spawnSync('setarch', ['-R', 'true']).status === 0 ? ['setarch', '-R'] : []
}

/** The stacks of the emulator's fibers are its own: copies of them, which find a use after return, would be made at each switch. */
function environment(folder, program) {
  const emulated = program.includes('emulated')
  const standIns = Object.entries(libraries).map(([variable, name]) => [variable, built(folder, name)])
  return {
    ASAN_OPTIONS: `detect_leaks=1:detect_stack_use_after_return=${emulated ? 0 : 1}`,
    UBSAN_OPTIONS: 'print_stacktrace=1',
    TSAN_OPTIONS: 'second_deadlock_stack=1',
    ...(emulated ? { ...Object.fromEntries(standIns), HEDDLE_CACHE: '' } : {}),   // '': no choices are kept from run to run
    ...process.env,
  }
}

/** Runs one program. That the filters select none of its tests is no failure: the other program may have some. */
function execute(folder, program, filters) {
  const [command, ...args] = [...fixedAddresses(), path.join(folder, program), ...filters]
  const env = environment(folder, program)
  const options = { cwd: root, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], timeout: 15 * minutes, maxBuffer: 1 << 26 }
  const result = spawnSync(command, args, options)
  const counts = /(\d+) passed, (\d+) failed\s*$/.exec(result.stdout)
  process.stdout.write(counts ? result.stdout.slice(0, counts.index) : result.stdout)
  const end = result.signal ?? result.error?.message ?? `status ${result.status}`
  if (!counts) console.error(`heddle: ${program} ended early (${end})`)
  const [passed, failed] = counts ? [Number(counts[1]), Number(counts[2])] : [0, 1]
  const none = filters.length > 0 && counts && passed + failed === 0
  return { passed, failed: result.status === 0 || none ? failed : Math.max(failed, 1) }
}

/** Returns the recorded counts. `sanitizers` is '' for a plain run. */
function nativeTests(sanitizers, filters = []) {
  const step = sanitizers ? `native tests (${sanitizers})` : 'native tests'
  console.log(`heddle: ${step}`)
  const folder = path.join(root, folders[sanitizers])
  const runs = runsOf(sanitizers, filters)
  if (!build(folder, sanitizers, runs.map(({ program }) => program))) return summary.record(step, 0, 1)
  const results = runs.map((one) => execute(folder, one.program, one.filters))
  const sum = (key) => results.reduce((total, result) => total + result[key], 0)
  return summary.record(step, sum('passed'), Math.max(sum('failed'), sum('passed') === 0 ? 1 : 0))
}

module.exports = { nativeTests }
if (require.main === module) {
  const [sanitizers = '', ...filters] = process.argv.slice(2)
  if (!(sanitizers in folders)) {
    console.error(`native-tests: expected one of ${Object.keys(folders).filter(Boolean).join(' | ')}, got ${sanitizers}`)
    process.exit(2)
  }
  process.exit(ensurePrerequisites() ? summary.close([nativeTests(sanitizers, filters)]) : 1)
}
