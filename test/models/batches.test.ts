// Several prompts, or several answers to one, in one call: each as if it were alone, and what they begin with is computed once.
import { AutoModelForCausalLM } from '../../lib/causal-lm'
import type { CausalLM, Prompt } from '../../lib/causal-lm'
import type { Generation } from '../../lib/generation/generation'
import { seedOf } from '../../lib/generation/sampling'
import { tinyChats, tinyModel, withModel } from '../support/models'

const said = ({ text, tokenIds, finishReason }: Generation) => ({ text, tokenIds, finishReason })
const sampled = { temperature: 1.2, seed: 7, maxNewTokens: 16, ignoreEos: true }

let model: CausalLM
beforeAll(async () => {
  model = await AutoModelForCausalLM.fromPretrained(tinyModel, { tpSize: 2, dtype: 'float32' })
})
afterEach(() => expect(model.info().cacheTokensUsed).toBe(0))
afterAll(() => model.close())

describe('a batch', () => {
  test('of texts, chats and ids gives each what it gives alone, in order', async () => {
    const { messages, input_ids: ids } = (await tinyChats())[0]!
    const batch: Prompt[] = ['Once upon a time', messages, ids, [1, 2, 3]]
    for (const options of [{ maxNewTokens: 12 }, sampled]) {
      const answers = await model.generate(batch, options)
      expect(answers).toHaveLength(4)
      for (const [index, prompt] of batch.entries()) expect(said(answers[index]!)).toEqual(said(await model.generate(prompt, options)))
    }
  })

  test('of one is a list of one; one chat and one list of ids are no batch', async () => {
    expect(await model.generate([[1, 2, 3]], { maxNewTokens: 1 })).toHaveLength(1)
    expect(await model.generate([1, 2, 3], { maxNewTokens: 1 })).toHaveProperty('tokenIds')
    expect(await model.generate([{ role: 'user', content: 'Hi' }], { maxNewTokens: 1 })).toHaveProperty('tokenIds')
  })

  test('may hold ids as what Program.run gives', async () => {
    const ids = [1, 2, 3, 4]
    const asked = { maxNewTokens: 8, echo: true }
    const expected = said(await model.generate(ids, asked))
    expect(said(await model.generate(Int32Array.from(ids), asked))).toEqual(expected)
    expect((await model.generate([Int32Array.from(ids), 'Once'], asked)).map(said)[0]).toEqual(expected)
    expect(await model.forward([Int32Array.from(ids)])).toEqual(await model.forward([ids]))
    const { tokenizer } = model
    expect(tokenizer!.decode(Int32Array.from(ids))).toBe(tokenizer!.decode(ids))
    expect(tokenizer!.createStreamDecoder().push(Int32Array.from(expected.tokenIds))).toBe(tokenizer!.createStreamDecoder().push(expected.tokenIds))
    await expect(model.generate(Int32Array.of(-1))).rejects.toMatchObject({ code: 'invalid_argument' })
    await expect(model.generate(new Float32Array(2) as never)).rejects.toMatchObject({ code: 'invalid_argument' })
  })

  test('streams pieces that name their answer', async () => {
    const batch = ['Once upon a time', 'The fox', 'Numbers:']
    const texts = ['', '', '']
    const pieces = model.stream(batch, { maxNewTokens: 12 })
    let next = await pieces.next()
    for (; !next.done; next = await pieces.next()) texts[next.value.index] += next.value.text
    const answers = await model.generate(batch, { maxNewTokens: 12 })
    expect(texts).toEqual(answers.map(({ text }) => text))
    expect(next.value.map(said)).toEqual(answers.map(said))
  })

  test('a prompt that makes no sense refuses all of it, before anything starts', async () => {
    await expect(model.generate([[1, 2], []])).rejects.toMatchObject({ code: 'invalid_argument' })
    await expect(model.generate(['a', ''])).rejects.toMatchObject({ code: 'invalid_argument' })
    await expect(model.generate([[1], [1e9]])).rejects.toMatchObject({ code: 'invalid_argument' })
    await expect(model.generate([[1], 2] as never)).rejects.toMatchObject({ code: 'invalid_argument' })
  })

  test('leaving the loop ends all of it; an abort gives what was made', async () => {
    for await (const piece of model.stream(['Once', 'The fox'], { ignoreEos: true })) if (piece.index === 1) break
    expect(model.info().cacheTokensUsed).toBe(0)
    const answers = await model.generate(['Once', 'The fox'], { signal: AbortSignal.abort() })
    expect(answers.map(({ finishReason }) => finishReason)).toEqual(['aborted', 'aborted'])
  })

  test('closing the model fails all of it', async () => {
    const other = await AutoModelForCausalLM.fromPretrained(tinyModel, { device: 'cpu' })
    const answers = other.generate(['Once', 'The fox'], { ignoreEos: true })
    const streamed = (async () => {
      for await (const piece of other.stream(['Once', 'The fox'], { ignoreEos: true })) if (piece.tokenIds.length > 0) void other.close()
    })()
    await expect(answers).rejects.toMatchObject({ code: 'closed' })
    await expect(streamed).rejects.toMatchObject({ code: 'closed' })
  })
})

describe('n', () => {
  const prompt = 'Once upon a time there was a fox who lived in a forest, and it liked to count from 1 to 10 every day of the year.'

  test('answers differ, each is what its own seed gives, and the prompt is computed once', async () => {
    const answers = await model.generate(prompt, { ...sampled, n: 4 })
    expect(new Set(answers.map(({ text }) => text)).size).toBe(4)
    const { promptTokens } = answers[0]!.usage
    const shared = Math.floor((promptTokens - 1) / 16) * 16
    expect(shared).toBeGreaterThan(0)
    expect(answers.map(({ usage }) => usage.cachedPromptTokens)).toEqual([0, shared, shared, shared])
    for (const [index, answer] of answers.entries())
      expect(said(answer)).toEqual(said(await model.generate(prompt, { ...sampled, seed: seedOf(sampled.seed, index) })))
    expect(said(answers[0]!)).toEqual(said(await model.generate(prompt, sampled)))
  })

  test('of a batch: answer j to prompt i at i * n + j', async () => {
    const answers = await model.generate(['Once', 'The fox'], { ...sampled, n: 2 })
    const [once, fox] = [await model.generate('Once', { ...sampled, n: 2 }), await model.generate('The fox', { ...sampled, n: 2 })]
    expect(answers.map(said)).toEqual([...once, ...fox].map(said))
  })

  test('n 1 is a list of one, and a stream names each answer', async () => {
    expect(await model.generate('Once', { ...sampled, n: 1 })).toHaveLength(1)
    const seen = new Set<number>()
    for await (const { index } of model.stream('Once', { ...sampled, n: 3 })) seen.add(index)
    expect([...seen].sort()).toEqual([0, 1, 2])
  })
})

describe('prefix reuse', () => {
  const ids = Array.from({ length: 100 }, (_, index) => (index * 37) % 2000)

  test('tokens are the same with and without; usage tells what was reused', async () => {
    await withModel(tinyModel, { tpSize: 2, dtype: 'float32', prefixReuse: false }, async (plain) => {
      await withModel(tinyModel, { tpSize: 2, dtype: 'float32' }, async (reusing) => {
        const prompts = [ids, ids, [...ids, 5, 6, 7], ids.slice(0, 96), [...ids.slice(0, 50), 1, 2, 3], [9, ...ids], ids.slice(0, 97)]
        const cached: number[] = []
        for (const prompt of prompts) {
          const [one, other] = [await plain.generate(prompt, sampled), await reusing.generate(prompt, sampled)]
          expect(said(other)).toEqual(said(one))
          expect(one.usage.cachedPromptTokens).toBe(0)
          cached.push(other.usage.cachedPromptTokens)
        }
        expect(cached).toEqual([0, 96, 96, 80, 48, 0, 96])
      })
    })
  })

  test('a conversation reuses the answer before', async () => {
    const first = await model.generate(ids, { ...sampled, maxNewTokens: 40 })
    const second = await model.generate([...ids, ...first.tokenIds, 3], { maxNewTokens: 1 })
    expect(second.usage.cachedPromptTokens).toBe(Math.floor((100 + 39) / 16) * 16)
  })

  test('forward is not touched by it, nor does it touch the cache', async () => {
    const { logits } = await model.forward([ids], { lastOnly: true })
    await model.generate(ids, { maxNewTokens: 2 })
    expect((await model.forward([ids], { lastOnly: true })).logits).toEqual(logits)
  })

  test('a small cache gives up what was unused longest', async () => {
    await withModel(tinyModel, { tpSize: 1, dtype: 'float32', maxTokens: 160 }, async (small) => {
      const texts = [ids.slice(0, 64), ids.slice(10, 74), ids.slice(20, 84)]
      for (const prompt of [...texts, ...texts.toReversed()]) {
        const answer = await small.generate(prompt, { ...sampled, maxNewTokens: 8 })
        expect(said(answer)).toEqual(said(await model.generate(prompt, { ...sampled, maxNewTokens: 8 })))
      }
      expect((await small.generate(texts[0]!, { maxNewTokens: 1 })).usage.cachedPromptTokens).toBe(48)
    })
  })
})
