// A thousand aborted generations leave nothing behind: no block in use, no listener, no memory that grows with their number.
import { runMetered } from '../support/meters'

const mebibyte = 2 ** 20

test('1,000 aborted generations', async () => {
  const ended = await runMetered(`
    const { getEventListeners } = require('node:events')
    const { AutoModelForCausalLM } = require(root + '/dist/index.js')
    ;(async () => {
      const model = await AutoModelForCausalLM.fromPretrained(root + '/models/heddle-tiny', { tpSize: 2 })
      const shared = new AbortController()
      const reasons = {}
      let left = 0
      const growth = await growthPerQuarter(1000, async (i) => {
        const controller = new AbortController()
        const signal = AbortSignal.any([controller.signal, shared.signal])
        const answers = [0, 1].map((other) =>
          model.generate([1, 2, 3, 4, 5 + (i % 50)], { signal, ignoreEos: true, temperature: other, seed: i }))
        setTimeout(() => controller.abort(), i % 7)
        for (const { finishReason } of await Promise.all(answers)) reasons[finishReason] = (reasons[finishReason] ?? 0) + 1
        left += model.info().cacheTokensUsed + getEventListeners(signal, 'abort').length
      })
      const { text } = await model.generate([{ role: 'user', content: 'What is 387 + 456?' }])
      console.log(JSON.stringify({ growth, reasons, left, text }))
      await model.close()
    })()`)
  expect(ended).toMatchObject({ code: 0, stderr: '' })
  const { growth, ...rest } = JSON.parse(ended.stdout) as { growth: number }
  expect(rest).toEqual({ reasons: { aborted: 2000 }, left: 0, text: '387 + 456 = 843' })
  expect(growth).toBeLessThan(16 * mebibyte) // of 500 generations, in each quarter
})
