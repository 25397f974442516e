#!/usr/bin/env node
'use strict'
// `npm run compare-with-transformers -- FOLDER…`: compiles bench/ to build/bench and compares checkpoints with what transformers computes.
const { nodeModule, runNode } = require('./run.js')
const { setup } = require('./setup.js')

const steps = [
  () => (setup() ? 0 : 1),
  () => runNode([nodeModule('typescript/bin/tsc'), '-p', 'tsconfig.bench.json']),
]
const status = steps.reduce((worst, step) => worst || step(), 0)
if (status === 0) require('../build/bench/parity/main.js')
else process.exitCode = status
