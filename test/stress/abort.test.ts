// A thousand aborted generations leave nothing behind: no block in use, no listener, no growth of resident memory beyond noise.
import { getEventListeners } from 'node:events'
import { tinyModel, withModel } from '../support/models'

const mebibyte = 2 ** 20

test('1,000 aborted generations', async () => {
  await withModel(tinyModel, { tpSize: 2 }, async (model) => {
    const shared = new AbortController()
    const round = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) {
        const controller = new AbortController()
        const signal = AbortSignal.any([controller.signal, shared.signal])
        const answers = [0, 1].map((other) =>
          model.generate([1, 2, 3, 4, 5 + (i % 50)], { signal, ignoreEos: true, temperature: other, seed: i })
        )
        setTimeout(() => controller.abort(), i % 7)
        for (const { finishReason } of await Promise.all(answers)) expect(finishReason).toBe('aborted')
        expect(model.info().cacheTokensUsed).toBe(0)
        expect(getEventListeners(signal, 'abort')).toHaveLength(0)
      }
    }
    await round(150) // heaps and allocators settle
    const before = process.memoryUsage.rss()
    await round(350)
    const middle = process.memoryUsage.rss()
    await round(500)
    const after = process.memoryUsage.rss()
    expect(after - middle).toBeLessThan(24 * mebibyte)
    expect(after - before).toBeLessThan(40 * mebibyte)
    expect((await model.generate([{ role: 'user', content: 'What is 387 + 456?' }])).text).toBe('387 + 456 = 843')
  })
}, 240_000)
