#!/usr/bin/env node
'use strict'
// Stands in for node-gyp under prebuildify: a Node-API addon needs no per-version Node headers.
const { buildNative } = require('./build-native.js')

process.exit(buildNative(process.argv.includes('--debug') ? ['--debug'] : []))
