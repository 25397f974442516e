// A user's own jest, without this project's environment: there Node's arrays and objects are of another realm than the test's, and
// `instanceof` must still mean what it says.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { repository, tinyModel } from '../support/models'

const source = `
  const { AutoModelForCausalLM, ColumnParallelLinear, HeddleError, KVCaches, oneSequence, openGroup, Program } = require(${JSON.stringify(path.join(repository, 'dist'))})

  test('layers', async () => {
    const group = await openGroup({ size: 2, device: 'cpu' })
    const layer = new ColumnParallelLinear(group, 2, 2, { bias: false })
    await layer.load({ weight: new Float32Array(4).fill(1) })
    const { data, shape } = await layer.run({ data: Float32Array.of(1, 2), shape: [1, 2] })
    expect(data).toBeInstanceOf(Float32Array)
    expect({ data, shape }).toStrictEqual({ data: Float32Array.of(3, 3), shape: [1, 2] })
    expect(group.info().ranks).toStrictEqual([0, 1].map((rank) => expect.objectContaining({ rank })))
    await group.close()
  })

  test('a model', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(${JSON.stringify(tinyModel)}, { tpSize: 2, device: 'cpu' })
    expect((await model.forward([[1, 2]])).logits).toBeInstanceOf(Float32Array)
    const { text, tokenIds, logprobs } = await model.generate([{ role: 'user', content: 'What is 387 + 456?' }], { logprobs: 1, signal: AbortSignal.timeout(60_000) })
    expect(text).toBe('387 + 456 = 843')
    expect(logprobs.map(({ id }) => id)).toStrictEqual(tokenIds)
    await expect(model.generate('')).rejects.toBeInstanceOf(HeddleError)
    await expect(AutoModelForCausalLM.fromPretrained('/none')).rejects.toThrow(HeddleError)
    await model.close()
  })
`

test('results are of the realm that asks', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'heddle-realm-'))
  try {
    writeFileSync(path.join(folder, 'realm.test.js'), source)
    writeFileSync(path.join(folder, 'jest.config.js'), 'module.exports = { testEnvironment: "node" }')
    const jest = path.join(repository, 'node_modules/jest/bin/jest.js')
    const { status, stderr } = spawnSync(process.execPath, [jest, '--rootDir', folder, '--config', path.join(folder, 'jest.config.js')], { encoding: 'utf8', cwd: folder })
    expect({ status, stderr }).toEqual({ status: 0, stderr: expect.stringMatching(/Tests: +2 passed/) })
  } finally {
    rmSync(folder, { recursive: true })
  }
})
