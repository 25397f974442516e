#!/usr/bin/env node
'use strict'
// npm's install step: take the prebuilt binary if node-gyp-build finds one that loads, else build from source.
const root = require('node:path').resolve(__dirname, '..')
const { npm_config_build_from_source: flag, HEDDLE_BUILD_FROM_SOURCE: variable } = process.env

if (!['true', '1', 'heddle'].includes(flag || variable || '')) {
  try {
    require('node-gyp-build')(root)
    process.exit(0)
  } catch (error) {
    console.log(`heddle: no usable prebuilt binary (${String(error.message).split('\n')[0]}); building from source`)
  }
}
process.exit(require('./build-native.js').buildNative())
