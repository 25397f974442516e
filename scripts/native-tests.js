#!/usr/bin/env node
'use strict'
// Builds and runs the Node-free native tests: plain, or with sanitizers (`address,undefined` or `thread`) in a build folder of their own.
// Rule: the binary's last line, "N passed, N failed", is what counts; without it the run failed.
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

/** A plain run shares the objects of the addon's build; a sanitized one has its own and needs no Node headers. */
function configure(folder, sanitizers) {
  if (!sanitizers) return fs.existsSync(path.join(folder, 'CMakeCache.txt')) || buildNative(['--local']) === 0
  const warnings = process.env.HEDDLE_WERROR === '1' ? 'ON' : 'OFF'
  const options = ['-DHEDDLE_ADDON=OFF', `-DHEDDLE_SANITIZE=${sanitizers}`, `-DHEDDLE_WERROR=${warnings}`]
  return run('cmake', ['-S', root, '-B', folder, ...options], quiet) === 0
}

/** Returns whether the binary was built. */
function build(folder, sanitizers) {
  return configure(folder, sanitizers) &&
    run('cmake', ['--build', folder, '--target', 'heddle_tests', '--parallel', jobCount()], quiet) === 0
}

/** The thread sanitizer of older compilers cannot start where the kernel randomizes addresses widely: that is switched off if it can be. */
function fixedAddresses() {
  return spawnSync('setarch', ['-R', 'true']).status === 0 ? ['setarch', '-R'] : []
}

function execute(folder, filters) {
  const env = {
    ASAN_OPTIONS: 'detect_leaks=1:detect_stack_use_after_return=1',
    UBSAN_OPTIONS: 'print_stacktrace=1',
    TSAN_OPTIONS: 'second_deadlock_stack=1',
    ...process.env,
  }
  const [command, ...args] = [...fixedAddresses(), path.join(folder, 'heddle_tests'), ...filters]
  const options = { cwd: root, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], timeout: 15 * minutes, maxBuffer: 1 << 26 }
  const result = spawnSync(command, args, options)
  const counts = /(\d+) passed, (\d+) failed\s*$/.exec(result.stdout)
  process.stdout.write(counts ? result.stdout.slice(0, counts.index) : result.stdout)
  const end = result.signal ?? result.error?.message ?? `status ${result.status}`
  if (!counts) console.error(`heddle: the native tests ended early (${end})`)
  const [passed, failed] = counts ? [Number(counts[1]), Number(counts[2])] : [0, 1]
  return { passed, failed: result.status === 0 ? failed : Math.max(failed, 1) }
}

/** Returns the recorded counts. `sanitizers` is '' for a plain run. */
function nativeTests(sanitizers, filters = []) {
  const step = sanitizers ? `native tests (${sanitizers})` : 'native tests'
  console.log(`heddle: ${step}`)
  const folder = path.join(root, folders[sanitizers])
  const { passed, failed } = build(folder, sanitizers) ? execute(folder, filters) : { passed: 0, failed: 1 }
  return summary.record(step, passed, failed)
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
