#!/usr/bin/env node
'use strict'
// `npm run check`: everything that can be checked, warnings as errors. .ci/run is this without the emulated backend under sanitizers, and
// with its sum on the last line.
const { runNode } = require('./run.js')

process.env.HEDDLE_WERROR = '1'
const steps = [
  ['scripts/test.js'],
  ['scripts/native-tests.js', 'address,undefined'],
  ['scripts/fuzz.js'],
  ['scripts/native-tests.js', 'address,undefined', '--emulated'],
  ['scripts/native-tests.js', 'thread'],
  ['scripts/native-tests.js', 'thread', '--emulated'],
  ['scripts/test.js', '--suite', 'packaging'],
]
const failed = steps.filter((step) => runNode(step) !== 0)
process.exit(failed.length === 0 ? 0 : 1)
