#!/usr/bin/env node
'use strict'
// `npm run compare-with-transformers -- FOLDER…`: compares checkpoints with what transformers computes.
require('./compiled-bench.js').runBench('parity/main.js')
