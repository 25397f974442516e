// Stop strings are found wherever the tokens cut them, never shown, and nothing is held back longer than needed.
import { AnswerText } from '../../lib/generation/answer-text'
import type { StreamDecoder } from '../../lib/tokenizer/stream-decoder'

/** A token is a piece of text; the last of them is held back until the end, as an unfinished character would be. */
function decoderOf(pieces: string[]): StreamDecoder {
  return { push: (id) => pieces[id as number]!, flush: () => '' }
}

function run(pieces: string[], stops: string[]): { out: string[]; stoppedAt: number } {
  const text = new AnswerText(decoderOf(pieces), stops)
  const out: string[] = []
  for (let id = 0; id < pieces.length; id++) {
    out.push(text.push(id))
    if (text.stopped) return { out, stoppedAt: id }
  }
  out.push(text.flush())
  return { out, stoppedAt: -1 }
}

test('without stop strings every piece goes out at once', () => {
  expect(run(['a', '', 'bc'], [])).toEqual({ out: ['a', '', 'bc', ''], stoppedAt: -1 })
})

test('a stop string over several tokens: held back, then cut', () => {
  expect(run(['one E', 'N', 'D two', 'x'], ['END'])).toEqual({ out: ['one ', '', ''], stoppedAt: 2 })
})

test('what only looked like a stop string is shown as soon as that is clear', () => {
  expect(run(['one E', 'N', 'd'], ['END']).out).toEqual(['one ', '', 'ENd', ''])
  expect(run(['one E', 'N'], ['END']).out).toEqual(['one ', '', 'EN'])
})

test('a repeated beginning', () => {
  expect(run(['a', 'a', 'a', 'b'], ['aab'])).toEqual({ out: ['', '', 'a', ''], stoppedAt: 3 })
})

test('the first of several stop strings counts, and text of the same token before it is shown', () => {
  expect(run(['x STOP y END'], ['END', 'STOP'])).toEqual({ out: ['x '], stoppedAt: 0 })
})

test('after the stop nothing comes any more', () => {
  const text = new AnswerText(decoderOf(['ab', 'cd']), ['b'])
  expect([text.push(0), text.push(1), text.flush()]).toEqual(['a', '', ''])
})
