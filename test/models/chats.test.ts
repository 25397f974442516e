// The demo model answers over any number of ranks as `transformers` does over one.
import { tinyChats, tinyModel, withModel } from '../support/models'

describe.each([1, 2, 3, 4, 7, 8])('at size %i', (tpSize) => {
  test('all 40 chats give the expected ids in float32', async () => {
    const chats = await tinyChats()
    expect(chats).toHaveLength(40)
    await withModel(tinyModel, { tpSize, dtype: 'float32' }, async (model) => {
      for (const { messages, input_ids: inputIds, output_ids: outputIds, text } of chats) {
        const answer = await model.generate(messages)
        expect(answer).toMatchObject({
          text,
          tokenIds: outputIds,
          finishReason: 'stop',
          usage: { promptTokens: inputIds.length, completionTokens: outputIds.length }
        })
      }
    })
  })

  test('at least 36 of the 40 answers are right in bfloat16, all asked at once', async () => {
    const chats = await tinyChats()
    await withModel(tinyModel, { tpSize }, async (model) => {
      expect(model.info().dtype).toBe('bfloat16')
      const answers = await Promise.all(chats.map(({ messages }) => model.generate(messages)))
      const right = answers.filter(({ text }, index) => text.trim() === chats[index]!.answer.trim())
      expect(right.length).toBeGreaterThanOrEqual(36)
    })
  })
})
