#!/usr/bin/env node
'use strict'
// `npm run test:fuzz`: damaged headers, configurations, indexes, tokenizers and whole models (test/fuzz) against the package, with the addon
// built under the address and undefined-behaviour sanitizers. Always the same cases, unless `--seed N`; `--scale N` runs N times as many.
const { spawn, spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { parseArgs } = require('node:util')
const { jobCount } = require('./build-native.js')
const { root, run } = require('./run.js')
const { setup } = require('./setup.js')
const summary = require('./summary.js')

const cases = { config: 100_000, header: 60_000, generation: 20_000, index: 10_000, tokenizer: 10_000, model: 5_000 }
const folder = path.join(root, 'build-asan')
const addonFolder = path.join(folder, 'addon')
const quiet = { stdio: ['ignore', 'ignore', 'inherit'] }

/** The addon where node-gyp-build looks for it when HEDDLE_PREBUILD names the folder. */
function buildAddon() {
  const options = ['-DHEDDLE_ADDON=ON', '-DHEDDLE_CUDA=OFF', '-DHEDDLE_SANITIZE=address,undefined', `-DNODE_EXE=${process.execPath}`]
  if (run('cmake', ['-S', root, '-B', folder, ...options], quiet) !== 0) return false
  if (run('cmake', ['--build', folder, '--target', 'heddle', '--parallel', jobCount()], quiet) !== 0) return false
  fs.mkdirSync(path.join(addonFolder, 'build', 'Release'), { recursive: true })
  fs.copyFileSync(path.join(folder, 'heddle.node'), path.join(addonFolder, 'build', 'Release', 'heddle.node'))
  return true
}

/** Node itself is not built with the sanitizer, so its runtime must be there first. */
function environment() {
  const library = spawnSync('c++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).stdout.trim()
  const sanitizer = { ASAN_OPTIONS: 'detect_leaks=0:allocator_may_return_null=1', UBSAN_OPTIONS: 'print_stacktrace=1' }
  return { ...process.env, ...sanitizer, LD_PRELOAD: fs.realpathSync(library), HEDDLE_PREBUILD: addonFolder }
}

function fuzz(target, count, seed, env) {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['test/fuzz/run.js', target, String(count), String(seed)], { cwd: root, env })
    let [out, problems] = ['', '']
    child.stdout.on('data', (data) => { out += data })
    child.stderr.on('data', (data) => { problems = (problems + data).slice(-20_000) })
    child.on('close', (status, signal) => resolve(verdict(target, count, seed, status, signal, out, problems)))
  })
}

/** Prints what the target did; returns how many findings there are. */
function verdict(target, count, seed, status, signal, out, problems) {
  let report
  try {
    report = JSON.parse(out.trim().split('\n').pop())
  } catch {
    console.error(`heddle: fuzz ${target}: ended early (${signal ?? `status ${status}`})\n${problems}`)
    return 1
  }
  const refused = Object.entries(report.refused).map(([code, times]) => `${times} ${code}`).join(', ')
  console.log(`  ${target.padEnd(10)} ${String(report.cases).padStart(7)} cases: ${report.taken} taken, ${refused}`)
  for (const found of report.found) console.error(`heddle: fuzz ${target} 1 ${seed} ${found.case}: ${found.finding}`)
  const sanitizer = /AddressSanitizer: |runtime error: /.test(problems)
  if (sanitizer) console.error(problems)
  // damage that is never taken, or always, would show that the target or the changes are broken
  const telling = report.sanitized && report.taken > 0 && report.taken < report.cases
  if (!telling) console.error(`heddle: fuzz ${target}: expected sanitized cases of which some are taken, got ${out}`)
  return report.found.length + (sanitizer ? 1 : 0) + (telling && status === 0 ? 0 : 1)
}

async function main(args) {
  const { values } = parseArgs({ args, options: { seed: { type: 'string', default: '1' }, scale: { type: 'string', default: '1' } } })
  const [seed, scale] = [Number(values.seed), Number(values.scale)]
  if (!setup() || !buildAddon()) return summary.close([summary.record('fuzz', 0, 1)])
  console.log('heddle: fuzz (address,undefined)')
  const env = environment()
  const queue = Object.entries(cases)
  let failed = 0
  const worker = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) failed += await fuzz(next[0], Math.ceil(next[1] * scale), seed, env)
  }
  await Promise.all(Array.from({ length: Math.min(2, os.availableParallelism()) }, worker))
  return summary.close([summary.record('fuzz', Math.max(0, Object.keys(cases).length - failed), failed)])
}

main(process.argv.slice(2)).then((status) => process.exit(status))
