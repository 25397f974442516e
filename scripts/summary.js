'use strict'
// Counts of tests, added up over programs. Rule: a step that could not count its tests counts as one failed test.
const fs = require('node:fs')

/** Adds a step's counts to the file HEDDLE_SUMMARY, which .ci/run adds up, and returns them. */
function record(step, passed, failed) {
  if (process.env.HEDDLE_SUMMARY) fs.appendFileSync(process.env.HEDDLE_SUMMARY, `${passed} ${failed} ${step}\n`)
  return { step, passed, failed }
}

/** Prints the counts of all steps on one line; returns the exit status. */
function close(counts) {
  const sum = (key) => counts.reduce((total, entry) => total + entry[key], 0)
  console.log(`heddle: ${counts.map((entry) => entry.step).join(', ')}: ${sum('passed')} passed, ${sum('failed')} failed`)
  return sum('failed') === 0 ? 0 : 1
}

module.exports = { record, close }
