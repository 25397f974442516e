'use strict'
// Runs fuzz cases: node test/fuzz/run.js TARGET COUNT [SEED] [CASE]. Case n of a seed is always the same; with CASE only that one runs, and
// its error is shown. The last line is JSON: what was refused with which codes, what was taken, what was found.
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { randomFrom } = require('./mutate.js')
const { makeTargets } = require('./targets.js')
const { HeddleError } = require('../../dist/errors.js')

const slowMilliseconds = 1000 // of this process's time, not of the clock

async function main([name, count, seed = '1', only]) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'heddle-fuzz-'))
  process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))
  const target = makeTargets(folder)[name]
  const report = { target: name, sanitized: false, cases: 0, taken: 0, refused: {}, found: [] }
  const [from, to] = only === undefined ? [0, Number(count)] : [Number(only), Number(only) + 1]
  for (let number = from; number < to; number++) {
    const before = process.cpuUsage()
    let finding
    try {
      await target(randomFrom(Number(seed) * 1_000_003 + number))
      report.taken += 1
    } catch (error) {
      if (only !== undefined) console.error(error)
      if (error instanceof HeddleError) report.refused[error.code] = (report.refused[error.code] ?? 0) + 1
      else finding = String(error?.stack ?? error)
    }
    const { user, system } = process.cpuUsage(before)
    if (user + system > slowMilliseconds * 1000) finding ??= `took ${Math.round((user + system) / 1000)} ms`
    if (finding) report.found.push({ case: number, finding })
    report.cases += 1
    if (report.found.length >= 20) break
  }
  const maps = fs.existsSync('/proc/self/maps') ? fs.readFileSync('/proc/self/maps', 'utf8') : ''
  report.sanitized = maps.includes('libasan') && (name !== 'model' || maps.includes(process.env.HEDDLE_PREBUILD))
  console.log(JSON.stringify(report))
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error)
  process.exitCode = 1
})
