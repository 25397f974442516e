#!/usr/bin/env node
'use strict'
// `npm run bench [-- name ...]`
require('./compiled-bench.js').runBench('run.js')
