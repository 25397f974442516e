// The list of ids that goes to the ranks with a step: what is counted when, and what is banned how long.
import { joinedEdits, LogitEdits } from '../../lib/generation/logit-edits'
import type { LogitEditOptions } from '../../lib/generation/logit-edits'

const options: LogitEditOptions = { promptLength: 3, bias: new Map(), bans: [], counts: false }

/** id → [count, bias] */
const listAt = (edits: LogitEdits, tokens: number[], last: number): Record<number, [number, number]> => {
  const { ids, counts, biases } = edits.at(tokens, last)
  expect(new Set(ids).size).toBe(ids.length)
  return Object.fromEntries(ids.map((id, index) => [id, [counts[index]!, biases[index]!]]))
}

test('tokens of the prompt count 0; those of the answer count, but for the last of the step', () => {
  const edits = new LogitEdits({ ...options, counts: true })
  const tokens = [7, 8, 7]
  expect(listAt(edits, tokens, 2)).toEqual({ 7: [0, 0], 8: [0, 0] })
  expect(listAt(edits, tokens, 3)).toEqual({ 7: [0, 0], 8: [0, 0] }) // token 3 is not known here
  tokens.push(9, 7)
  expect(listAt(edits, tokens, 4)).toEqual({ 7: [0, 0], 8: [0, 0], 9: [1, 0] })
  tokens.push(9)
  expect(listAt(edits, tokens, 5)).toEqual({ 7: [1, 0], 8: [0, 0], 9: [1, 0] })
  expect(listAt(edits, tokens, 6)).toEqual({ 7: [1, 0], 8: [0, 0], 9: [2, 0] })
})

test('a sequence that starts over behind the prompt counts what it had', () => {
  const edits = new LogitEdits({ ...options, counts: true })
  expect(listAt(edits, [7, 8, 7, 9, 9, 4], 5)).toEqual({ 7: [0, 0], 8: [0, 0], 9: [2, 0] })
})

test('biases stay, bans end', () => {
  const edits = new LogitEdits({ ...options, bias: new Map([[5, 2], [6, -1]]), bans: [{ ids: [6, 2], count: 2 }] })
  const banned = { 5: [-1, 2], 6: [-1, -Infinity], 2: [-1, -Infinity] }
  expect(listAt(edits, [1, 1, 1], 2)).toEqual(banned)
  expect(listAt(edits, [1, 1, 1], 3)).toEqual(banned)
  expect(listAt(edits, [1, 1, 1, 1], 4)).toEqual({ 5: [-1, 2], 6: [-1, -1] })
})

test('bans have ends of their own, and may name an id twice', () => {
  const edits = new LogitEdits({ ...options, bans: [{ ids: [6, 2], count: 2 }, { ids: [2, 9], count: 1 }] })
  const banned: [number, number] = [-1, -Infinity]
  expect(listAt(edits, [1, 1, 1], 2)).toEqual({ 6: banned, 2: banned, 9: banned })
  expect(listAt(edits, [1, 1, 1], 3)).toEqual({ 6: banned, 2: banned })
  expect(listAt(edits, [1, 1, 1, 1], 4)).toEqual({})
})

test('a token may be forced at its position alone, over a ban and a bias', () => {
  const edits = new LogitEdits({ ...options, bias: new Map([[6, -3]]), bans: [{ ids: [2], count: 9 }], forced: { position: 5, ids: [2, 6] } })
  expect(listAt(edits, [1, 1, 1, 1], 3)).toEqual({ 6: [-1, -3], 2: [-1, -Infinity] })
  expect(listAt(edits, [1, 1, 1, 1], 4)).toEqual({ 6: [-1, 1e9], 2: [-1, 1e9] })
})

test('a biased token that comes keeps its bias', () => {
  const edits = new LogitEdits({ ...options, bias: new Map([[8, 2]]), counts: true })
  expect(listAt(edits, [7, 8, 7, 8, 1], 4)).toEqual({ 8: [1, 2], 7: [0, 0] })
})

test('lists are joined with their starts; none of them is nothing', () => {
  expect(joinedEdits([undefined, { ids: [], counts: [], biases: [] }])).toBeUndefined()
  const list = { ids: [4, 5], counts: [-1, 2], biases: [0.5, 0] }
  expect(joinedEdits([undefined, list, undefined, list])).toEqual({
    starts: Int32Array.of(0, 0, 2, 2, 4),
    ids: Int32Array.of(4, 5, 4, 5),
    counts: Int32Array.of(-1, 2, -1, 2),
    biases: Float32Array.of(0.5, 0, 0.5, 0)
  })
})
