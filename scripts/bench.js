#!/usr/bin/env node
'use strict'
// `npm run bench [-- name ...]`: compiles bench/ to build/bench and runs it against the built package.
const { nodeModule, runNode } = require('./run.js')
const { setup } = require('./setup.js')

const steps = [
  () => (setup() ? 0 : 1),
  () => runNode([nodeModule('typescript/bin/tsc'), '-p', 'tsconfig.bench.json']),
  () => runNode(['build/bench/run.js', ...process.argv.slice(2)], { stdio: 'inherit' }),
]
process.exit(steps.reduce((status, step) => status || step(), 0))
