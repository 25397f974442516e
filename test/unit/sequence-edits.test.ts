// Biases that depend on the tokens before, against the definitions: every run of ids is looked for anew.
import { SequenceEdits } from '../../lib/generation/sequence-edits'

test('a bias counts where the tokens end with all but the last id, and several add up', () => {
  const edits = new SequenceEdits({ runs: [{ ids: [1, 2], bias: 3 }, { ids: [5, 1, 2], bias: 4 }, { ids: [1, 1], bias: -Infinity }], noRepeatNgramSize: 0 })
  expect([...edits.at([1])]).toEqual([[2, 3], [1, -Infinity]])
  expect([...edits.at([5, 1])]).toEqual([[2, 7], [1, -Infinity]])
  expect([...edits.at([5, 1, 2])]).toEqual([])
  expect([...edits.at([])]).toEqual([])
})

test.each([1, 2, 3, 4, 9])('runs of %i ids come once', (size) => {
  let state = 7
  const tokens = Array.from({ length: 300 }, () => (state = (state * 48271) % 2147483647) % 4)
  const edits = new SequenceEdits({ runs: [], noRepeatNgramSize: size })
  const runsOf = (list: number[]) => new Set(list.slice(size - 1).map((_, index) => list.slice(index, index + size).join()))
  for (const length of [0, 1, 2, 5, 6, 7, 40, 41, 300]) {
    const known = tokens.slice(0, length)
    const seen = runsOf(known)
    const expected = [0, 1, 2, 3].filter((id) => seen.has([...known, id].slice(-size).join()) && length >= size - 1)
    expect([...edits.at(known)].sort()).toEqual(expected.map((id) => [id, -Infinity]))
  }
})
