#!/usr/bin/env node
'use strict'
// `npm run demo`: sets the checkout up where needed, then lets the demo model chat over tensor-parallel CPU ranks.
const { runNode } = require('./run.js')
const { setup } = require('./setup.js')

process.exit(setup() ? runNode(['examples/demo.mjs', ...process.argv.slice(2)], { stdio: 'inherit' }) : 1)
