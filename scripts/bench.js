#!/usr/bin/env node
'use strict'
// `npm run bench [-- name ...]`: compiles bench/ to build/bench and runs it against the built package.
const { nodeModule, runNode } = require('./run.js')
const { setup } = require('./setup.js')

const steps = [
  () => (setup() ? 0 : 1),
  () => runNode([nodeModule('typescript/bin/tsc'), '-p', 'tsconfig.bench.json']),
]
const status = steps.reduce((worst, step) => worst || step(), 0)
if (status === 0) require('../build/bench/run.js')   // in this process, which gets the signals that end a run
else process.exitCode = status
