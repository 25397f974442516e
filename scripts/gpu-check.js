#!/usr/bin/env node
'use strict'
// `npm run gpu-check`: everything that only a GPU can show, in one call, with a short verdict. Without a GPU it says what it skipped.
//   --no-setup        the checkout is built already (dist/, build/Release); nothing is installed
//   --build FOLDER    of the Node-free programs; built there where they are missing and nvcc is
//   --quick           sizes 1 and 2, 20 load/close cycles, no compute-sanitizer
//   --native          the Node-free part alone
// The Node-free part is programs of their own, which run without any of this: heddle_cuda_tests, heddle_cuda_nccl_check.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { root, exists } = require('./run.js')

const minutes = 60_000
const programs = ['heddle_cuda_tests', 'heddle_cuda_nccl_check']
const verdicts = []

function verdict(outcome, what, detail = '') {
  verdicts.push({ outcome, what, detail })
  console.log(`${outcome} ${what}${detail ? `: ${detail}` : ''}`)
}

/** Runs a program with its output passed through; gives its exit status and its last lines. */
function run(command, args, { timeout = 10 * minutes, env = {} } = {}) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', timeout, env: { ...process.env, ...env }, maxBuffer: 1 << 26 })
  const output = `${result.stdout ?? ''}${result.stderr ?? ''}`
  const end = result.error ? `${result.error.message}` : result.signal ? `ended by ${result.signal}` : `status ${result.status}`
  return { ok: result.status === 0, output, end, last: output.trim().split('\n').slice(-1)[0] ?? '' }
}

/** Why there is no GPU to check, as the library itself says; undefined where there is one. Asked in a process of its own. */
function whyNoGpu() {
  const code = `require('./dist/index.js').openGroup({ size: 1, device: 'cuda' }).then((group) => group.close()).catch((e) => { console.log(e.message); process.exit(3) })`
  const { ok, output, end } = run(process.execPath, ['-e', code], { timeout: 2 * minutes })
  return ok ? undefined : output.trim() || end
}

/** NVIDIA's libraries where heddle found them: the Node-free programs search the system's folders alone. */
function libraryEnvironment() {
  const { output } = run(process.execPath, ['-e', "console.log(JSON.stringify(require('./dist/group.js').cudaInfo().libraries))"])
  const variables = { cuBLASLt: 'HEDDLE_CUBLASLT_LIB', NCCL: 'HEDDLE_NCCL_LIB', cuDNN: 'HEDDLE_CUDNN_LIB' }
  const found = JSON.parse(output.trim().split('\n').at(-1)).filter(({ path: file }) => file)
  for (const { name, version, path: file, problem } of found) console.log(`     ${name} ${version} ${file}${problem ? `; ${problem}` : ''}`)
  return Object.fromEntries(found.map(({ name, path: file }) => [variables[name], process.env[variables[name]] || file]))
}

function buildPrograms(folder) {
  if (programs.every((name) => fs.existsSync(path.join(folder, name)))) return true
  if (!exists('cmake') || !exists('nvcc')) return false
  const configure = ['-S', root, '-B', folder, '-DHEDDLE_ADDON=OFF', '-DHEDDLE_CUDA=ON', `-DHEDDLE_CUDA_ARCHS=${process.env.HEDDLE_CUDA_ARCHS ?? 'native'}`]
  const build = ['--build', folder, '--parallel', '--target', ...programs]
  return run('cmake', configure).ok && run('cmake', build, { timeout: 30 * minutes }).ok
}

function show(failed, output) {
  if (failed) console.log(output.split('\n').slice(-30).map((line) => `    ${line}`).join('\n'))
}

function checkProgram(what, command, args, options) {
  const result = run(command, args, options)
  const skipped = result.ok && /^SKIP/m.test(result.last)
  verdict(skipped ? 'SKIP' : result.ok ? 'PASS' : 'FAIL', what, result.ok ? result.last : `${result.end}; ${result.last}`)
  show(!result.ok, result.output)
}

function checkNative(folder, quick) {
  if (!buildPrograms(folder)) return verdict('SKIP', 'operations', 'expected heddle_cuda_tests, or nvcc and cmake to build it')
  const tests = path.join(folder, 'heddle_cuda_tests')
  checkProgram('operations against references', tests, [])
  checkCudnn(tests)
  checkProgram('NCCL, two processes on one GPU', path.join(folder, 'heddle_cuda_nccl_check'), [])
  if (quick) return verdict('SKIP', 'compute-sanitizer', 'asked to be quick')
  if (!exists('compute-sanitizer')) return verdict('SKIP', 'compute-sanitizer', 'not on the PATH')
  for (const tool of ['memcheck', 'racecheck']) {
    checkProgram(`compute-sanitizer ${tool}`, 'compute-sanitizer', ['--tool', tool, '--error-exitcode', '9', tests], { timeout: 15 * minutes })
  }
}

/** Its test is among the others, but where cuDNN is not to be had it has nothing to do. */
function checkCudnn(tests) {
  if (!process.env.HEDDLE_CUDNN_LIB) return verdict('SKIP', 'attention by cuDNN', 'expected cuDNN 9, and a build with it; heddle info says what there is')
  checkProgram('attention by cuDNN', tests, ['cuda_attention_by_cudnn'])
}

function checkModels(quick) {
  const sizes = quick ? '1,2' : '1,2,3,4,8'
  const script = path.join('scripts', 'gpu-check-models.js')
  for (const [title, env] of [['graphs on', {}], ['graphs off', { HEDDLE_CUDA_GRAPHS: '0' }], ['op by op', { HEDDLE_CUDA_FUSION: '0' }]]) {
    const { ok, output, end } = run(process.execPath, [script, '--only', 'golden,reproducible,chats', '--sizes', sizes], { timeout: 20 * minutes, env })
    const lines = output.split('\n').filter((line) => /^(ok|WRONG)/.test(line))
    const wrong = lines.filter((line) => line.startsWith('WRONG'))
    verdict(ok ? 'PASS' : 'FAIL', `models, ${title}`, `${lines.length - wrong.length} right, ${wrong.length} wrong${ok ? '' : ` (${end})`}`)
    show(!ok, output)
  }
  checkProgram('load and close', process.execPath, [script, '--only', 'cycles', '--cycles', quick ? '20' : '1000'], { timeout: 20 * minutes })
}

function close() {
  const count = (outcome) => verdicts.filter((entry) => entry.outcome === outcome).length
  console.log(`\ngpu-check: ${count('PASS')} passed, ${count('FAIL')} failed, ${count('SKIP')} skipped`)
  return count('FAIL') === 0 ? 0 : 1
}

function main(argv) {
  const quick = argv.includes('--quick')
  const folder = path.resolve(root, argv.includes('--build') ? argv[argv.indexOf('--build') + 1] : 'build-gpu')
  if (argv.includes('--native')) {
    checkNative(folder, quick)
    return close()
  }
  if (!argv.includes('--no-setup') && !require('./setup.js').setup()) return 1
  const reason = whyNoGpu()
  if (reason) {
    for (const what of ['operations against references', 'attention by cuDNN', 'NCCL, two processes', 'compute-sanitizer', 'models', 'load and close']) verdict('SKIP', what, reason)
    return close()
  }
  Object.assign(process.env, libraryEnvironment())
  checkNative(folder, quick)
  checkModels(quick)
  return close()
}

process.exit(main(process.argv.slice(2)))
