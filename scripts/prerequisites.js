'use strict'
// What a source build needs from the system: node, a C++ compiler, cmake, make and the Highway headers; and what tests need, a browser.
// Rule: on Debian and Ubuntu, as root, what is missing is installed; anywhere else the exact command is printed.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const { exists, run } = require('./run.js')

function nodeProblem() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  const fits = major === 20 ? minor >= 17 : major === 22 ? minor >= 9 : major > 22
  return fits ? undefined : `Node.js 20.17 or newer (of 22: 22.9) is needed, this is ${process.versions.node}`
}

/** Whether a compiler finds a header: asked of the compiler, which knows its own folders. */
function hasHeader(compiler, header) {
  const input = `#include <${header}>\n`
  return spawnSync(compiler, ['-E', '-x', 'c++', '-'], { input, stdio: ['pipe', 'ignore', 'ignore'] }).status === 0
}

function cmakeProblem() {
  const text = spawnSync('cmake', ['--version'], { encoding: 'utf8' }).stdout ?? ''
  const [major, minor] = (/version (\d+)\.(\d+)/.exec(text) ?? [0, 0, 0]).slice(1).map(Number)
  return major > 3 || (major === 3 && minor >= 20) ? undefined : 'CMake 3.20 or newer'
}

/** The missing parts, each with the Debian package that brings it. */
function missingParts() {
  const compiler = process.env.CXX || ['c++', 'g++', 'clang++'].find(exists)
  const missing = []
  if (!compiler || !exists(compiler)) missing.push({ part: 'a C++20 compiler', debian: 'g++' })
  if (cmakeProblem()) missing.push({ part: cmakeProblem(), debian: 'cmake' })
  if (!exists('make')) missing.push({ part: 'make', debian: 'make' })
  // without a compiler the question cannot be asked; naming the package once more than needed does no harm
  if (!compiler || !hasHeader(compiler, 'hwy/highway.h')) missing.push({ part: 'the Highway headers', debian: 'libhwy-dev' })
  return missing
}

function installWithApt(packages) {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  const quiet = { env, stdio: ['ignore', 'ignore', 'inherit'] }
  const install = (options) => run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...packages], options)
  console.log(`heddle: installing ${packages.join(' ')} with apt-get`)
  // the package lists of a fresh container are empty or old: a first failure is not worth showing
  if (install({ env, stdio: 'ignore' }) === 0) return true
  return run('apt-get', ['update', '-qq'], quiet) === 0 && install(quiet) === 0
}

/** Returns whether everything is there in the end; says on stderr what is not and how to get it. */
function ensurePrerequisites() {
  const problem = nodeProblem()
  if (problem) {
    console.error(`heddle: ${problem}`)
    return false
  }
  let missing = missingParts()
  if (missing.length === 0) return true
  const isDebian = fs.existsSync('/etc/debian_version') && exists('apt-get')
  if (isDebian && process.getuid?.() === 0 && installWithApt(missing.map((entry) => entry.debian))) missing = missingParts()
  if (missing.length === 0) return true
  console.error(`heddle: the build needs ${missing.map((entry) => entry.part).join(', ')}`)
  if (isDebian) console.error(`heddle: run: sudo apt-get install -y ${missing.map((entry) => entry.debian).join(' ')}`)
  else console.error(`heddle: on Debian or Ubuntu the packages are: ${missing.map((entry) => entry.debian).join(' ')}`)
  return false
}

/** A browser for the tests of the bench's report; where there is none they are skipped, which is said here and there. */
function ensureBrowser() {
  const hasBrowser = () => [process.env.CHROMIUM, 'chromium', 'chromium-browser', 'google-chrome'].some((name) => name && exists(name))
  if (hasBrowser()) return
  const isDebian = fs.existsSync('/etc/debian_version') && exists('apt-get')
  if (isDebian && process.getuid?.() === 0 && installWithApt(['chromium']) && hasBrowser()) return
  console.error('heddle: without chromium the report of the bench is not tested in a browser; run: sudo apt-get install -y chromium')
}

module.exports = { ensurePrerequisites, ensureBrowser }
