#!/usr/bin/env node
'use strict'
// Brings a checkout, fresh or not, to the state where heddle runs: system packages, node_modules, dist/ and build/Release/.
// Rule: it does only what is missing or out of date, says what it does, and says nothing when there is nothing to do.
const fs = require('node:fs')
const path = require('node:path')
const { root, nodeModule, run, runNode, newestChange } = require('./run.js')

const at = (...parts) => path.join(root, ...parts)
const modified = (file) => fs.statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0
const readJson = (file) => JSON.parse(fs.readFileSync(file, 'utf8'))

/** npm's own record of what it installed, compared with the lock file. Optional packages of other platforms may be absent. */
function modulesAreCurrent() {
  if (!fs.existsSync(nodeModule('.package-lock.json'))) return false
  const wanted = readJson(at('package-lock.json')).packages
  const installed = readJson(nodeModule('.package-lock.json')).packages
  const same = ([name, entry]) => (installed[name] ? installed[name].version === entry.version : name === '' || entry.optional === true)
  return Object.entries(wanted).every(same) && Object.keys(installed).every((name) => name in wanted)
}

function installModules() {
  if (modulesAreCurrent()) return true
  console.log('heddle: installing the npm packages (npm ci)')
  // a link leads to the modules of another checkout, which npm ci would empty
  if (fs.lstatSync(nodeModule(''), { throwIfNoEntry: false })?.isSymbolicLink()) fs.unlinkSync(nodeModule(''))
  const args = ['ci', '--ignore-scripts', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error']
  const npm = process.env.npm_execpath ?? ''
  return (npm.endsWith('npm-cli.js') ? runNode([npm, ...args]) : run('npm', args)) === 0
}

function buildTypeScript() {
  const entry = at('dist', 'index.js')
  if (modified(entry) <= newestChange([at('lib'), at('tsconfig.json')])) {
    console.log('heddle: compiling TypeScript (tsc)')
    fs.rmSync(at('dist'), { recursive: true, force: true })   // a file whose source is gone must not be published
    if (runNode([nodeModule('typescript/bin/tsc'), '-p', '.']) !== 0) {
      fs.rmSync(entry, { force: true })   // tsc writes its output in spite of errors; the next run must try again
      return false
    }
  }
  linkCommand()
  return true
}

/** Makes `npx heddle` in the checkout run the checkout, as it does where the package is installed. */
function linkCommand() {
  const target = at('dist', 'cli', 'main.js')
  const link = nodeModule('.bin/heddle')
  if (!fs.existsSync(target)) return
  fs.chmodSync(target, 0o755)
  if (fs.existsSync(link)) return
  fs.rmSync(link, { force: true })   // a dangling link
  fs.symlinkSync(path.join('..', '..', 'dist', 'cli', 'main.js'), link)
}

function buildAddon() {
  const sources = fs.readdirSync(at('native')).filter((name) => name !== 'tests').map((name) => at('native', name))
  const inputs = [...sources, at('CMakeLists.txt'), at('cmake'), at('package.json'), at('scripts', 'build-native.js')]
  const required = ['heddle.node', ...(process.env.HEDDLE_CUDA?.toUpperCase() === 'ON' ? ['libheddle_cuda.so'] : [])]
  if (required.every((file) => modified(at('build', 'Release', file)) > newestChange(inputs))) return true
  console.log('heddle: building the native code (minutes, a few more where nvcc is)')
  return require('./build-native.js').buildNative(['--local']) === 0
}

/** Returns whether the checkout is ready. */
function setup() {
  const { ensurePrerequisites } = require('./prerequisites.js')
  return [ensurePrerequisites, installModules, buildTypeScript, buildAddon].every((step) => step())
}

module.exports = { setup, installModules, buildTypeScript }
if (require.main === module) {
  const ready = process.argv.includes('--typescript') ? installModules() && buildTypeScript() : setup()
  process.exit(ready ? 0 : 1)
}
