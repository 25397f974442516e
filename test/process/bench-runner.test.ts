// A case of the bench in a process of its own: whatever it does, its results so far are kept, the reason is told, and nothing of it stays.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { CaseProcess } from '../../bench/support/case-process'
import { emptyRecord, type CaseEvent } from '../../bench/support/case-record'
import { markName, testWithMarks, untilNoneIs } from '../support/marked-processes'

let folder: string
beforeAll(() => { folder = mkdtempSync(path.join(tmpdir(), 'heddle-runner-')) })
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Runs a script as the process of a case; it may use `tell(event)` and `child()`, which starts a process that outlives it. */
async function runScript(name: string, body: string, { limit = Infinity, stopOn = '' } = {}) {
  const script = path.join(folder, `${name}.js`)
  writeFileSync(script, `
    const tell = (event) => process.send(event)
    const child = () => require('node:child_process')
      .spawn(process.execPath, ['-e', 'process.on("SIGTERM", () => {}); setInterval(() => {}, 1000)'], { stdio: 'ignore' })
    const result = { name: 'r', unit: 'x', median: 1, low: 1, high: 1, samples: [1] }
    ${body}`)
  const mark = (process.env[markName] = `${name}-${process.pid}`)
  const record = emptyRecord(name, 'a test')
  const events: CaseEvent[] = []
  try {
    const one = new CaseProcess(script, [], limit)
    await one.run(record, (event) => {
      events.push(event)
      if (event.kind === 'note' && event.text === stopOn) one.stop('stopped by the test')
    })
    await untilNoneIs(mark)
  } finally {
    delete process.env[markName]
  }
  return { record, events }
}

testWithMarks('a case that ends well: every event comes, in order, and children that it forgot are ended', async () => {
  const { record, events } = await runScript('well', `
    child()
    for (let i = 0; i < 500; i++) tell({ kind: 'result', result: { ...result, name: 'r' + i } })
    tell({ kind: 'table', table: { title: 't', columns: [], rows: [] } })
    tell({ kind: 'skipped', what: 'a', why: 'b' })
    tell({ kind: 'trimmed', what: 'c' })
    process.send({ kind: 'note', text: 'last' }, undefined, undefined, () => process.exit(0))`)
  expect(record).toMatchObject({ tables: [{ title: 't' }], notes: ['last'], skipped: [{ what: 'a', why: 'b' }], trimmed: ['c'] })
  expect(record.results.map(({ name }) => name)).toEqual(Array.from({ length: 500 }, (_, i) => `r${i}`))
  expect(record.error).toBeUndefined()
  expect(record.seconds).toBeGreaterThan(0)
  expect(events).toHaveLength(504)
})

testWithMarks('a case that crashes keeps what it found and says how it ended', async () => {
  const killed = await runScript('killed', `process.send({ kind: 'result', result }, undefined, undefined, () => process.kill(process.pid, 'SIGSEGV'))`)
  expect(killed.record).toMatchObject({ results: [{ name: 'r' }], error: expect.stringContaining('ended with SIGSEGV') })
  const thrown = await runScript('thrown', `throw new Error('the cause')`)
  expect(thrown.record.error).toBe('ended with code 1 | Error: the cause')
  const told = await runScript('told', `process.send({ kind: 'failed', message: 'its own words' }, undefined, undefined, () => process.exit(0))`)
  expect(told.record.error).toBe('its own words')
})

testWithMarks('a case that hangs is ended after its limit, with children that ignore being asked', async () => {
  const { record } = await runScript('hangs', `child(); process.on('SIGTERM', () => {}); setInterval(() => {}, 1000)`, { limit: 1 })
  expect(record.error).toBe('ended after 1 s')
})

testWithMarks('a case that is stopped leaves nothing', async () => {
  const { record } = await runScript('stopped', `child(); tell({ kind: 'result', result }); tell({ kind: 'note', text: 'now' }); setInterval(() => {}, 1000)`,
    { stopOn: 'now' })
  expect(record).toMatchObject({ results: [{ name: 'r' }], error: 'stopped by the test' })
})
