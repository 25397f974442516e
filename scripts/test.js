#!/usr/bin/env node
'use strict'
// `npm test`: sets the checkout up where needed, then checks the types and runs the native tests, jest, and jest's stress suite.
// `npm test -- <jest arguments>` runs jest alone; `--suite stress|packaging` runs jest on one of the suites that run apart.
const fs = require('node:fs')
const path = require('node:path')
const { root, nodeModule, runNode } = require('./run.js')
const { nativeTests } = require('./native-tests.js')
const { ensureBrowser } = require('./prerequisites.js')
const { setup } = require('./setup.js')
const summary = require('./summary.js')

function typecheck() {
  console.log('heddle: types')
  const status = runNode([nodeModule('typescript/bin/tsc'), '-p', 'tsconfig.test.json'])
  return summary.record('types', status === 0 ? 1 : 0, status === 0 ? 0 : 1)
}

function jest(suite, args) {
  const report = path.join(root, 'build', `jest-${suite}.json`)
  fs.rmSync(report, { force: true })
  const env = { ...process.env, HEDDLE_SUITE: suite }
  const status = runNode([nodeModule('jest/bin/jest.js'), '--json', '--outputFile', report, ...args], { env, stdio: 'inherit' })
  const step = suite === 'default' || suite === 'all' ? 'jest' : `jest ${suite}`
  if (!fs.existsSync(report)) return summary.record(step, 0, status === 0 ? 0 : 1)   // --help, --listTests
  const { numPassedTests, numFailedTests, numRuntimeErrorTestSuites } = JSON.parse(fs.readFileSync(report, 'utf8'))
  const failed = numFailedTests + numRuntimeErrorTestSuites
  return summary.record(step, numPassedTests, status === 0 ? failed : Math.max(failed, 1))
}

function main(args) {
  if (!setup()) return summary.close([summary.record('set-up', 0, 1)])
  if (args[0] === '--suite') return summary.close([jest(args[1], args.slice(2))])
  if (args.length > 0) return summary.close([jest('all', args)])
  ensureBrowser()
  return summary.close([typecheck(), nativeTests(''), jest('default', []), jest('stress', [])])   // stress alone: it measures memory
}

process.exit(main(process.argv.slice(2)))
