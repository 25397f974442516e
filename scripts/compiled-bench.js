'use strict'
// Sets the checkout up where needed, compiles bench/ to build/bench and runs one of its programs against the built package.
const path = require('node:path')
const { nodeModule, root, runNode } = require('./run.js')
const { setup } = require('./setup.js')

const steps = [
  () => (setup() ? 0 : 1),
  () => runNode([nodeModule('typescript/bin/tsc'), '-p', 'tsconfig.bench.json']),
]

/** `program`: its path within bench/. It runs in this process, which gets the signals that end a run. */
exports.runBench = (program) => {
  const status = steps.reduce((worst, step) => worst || step(), 0)
  if (status === 0) require(path.join(root, 'build', 'bench', program))
  else process.exitCode = status
}
