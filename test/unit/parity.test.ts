// What the comparison with transformers concludes from two sets of logits and answers.
import { parseCommandLine } from '../../bench/parity/command-line'
import { answerDifference, judgeBfloat16, judgeFloat32, logitDifference, worstOf } from '../../bench/parity/differences'

const theirs = Float32Array.of(1, 2, 3, /**/ 4, -9, 0)

test('the greatest difference, where it is, and which argmax agree', () => {
  expect(logitDifference(theirs, theirs, 3)).toEqual({ most: 0, position: 0, greatest: 9, positions: 2, byPosition: [0, 0], sameArgmax: 2 })
  const ours = Float32Array.of(1, 2.25, 3, /**/ 4, -9, 5)
  expect(logitDifference(ours, theirs, 3)).toEqual({ most: 5, position: 1, greatest: 9, positions: 2, byPosition: [0.25, 5], sameArgmax: 1 })
  expect(logitDifference(Float32Array.of(1, NaN, 3, 4, -9, 0), theirs, 3).most).toBe(Infinity)
  expect(logitDifference(Float32Array.of(-Infinity, 2, 3), Float32Array.of(-Infinity, 2, 3), 3).most).toBe(0)
  expect(() => logitDifference(ours.subarray(1), theirs, 3)).toThrow('expected 6 logits, as transformers gives, got 5')
})

test('of several prompts the worst counts, and all positions', () => {
  const one = { most: 1, position: 4, greatest: 9, positions: 5, byPosition: [0, 0.25, 0.5, 0.25, 1], sameArgmax: 5 }
  const other = { most: 2, position: 0, greatest: 7, positions: 1, byPosition: [2], sameArgmax: 0 }
  expect(worstOf([one, other])).toEqual({ most: 2, position: 0, prompt: 1, typical: 0.25, greatest: 9, positions: 6, sameArgmax: 5 })
})

test('answers: the first departure and the margin there; log-probabilities before it', () => {
  const reference = { tokens: [5, 6, 7], logprobs: [-1, -2, -3], margins: [0.5, 0.25, 0.125] }
  expect(answerDifference({ tokens: [5, 6, 7], logprobs: [-1, -2.5, -3] }, reference)).toEqual({ tokens: 3, agreed: 3, logprob: 0.5 })
  expect(answerDifference({ tokens: [5, 9, 7], logprobs: [-1.25, -7, -3] }, reference)).toEqual({ tokens: 3, agreed: 1, margin: 0.25, logprob: 0.25 })
  expect(answerDifference({ tokens: [5, 6], logprobs: [-1, -2] }, reference)).toMatchObject({ agreed: 2, margin: 0.125 })
})

const worst = { position: 0, prompt: 0, greatest: 20, positions: 4, sameArgmax: 4 }

test('float32: every logit and every answer counts, up to near ties', () => {
  const judge = (most: number, answer: object = {}) => judgeFloat32({ ...worst, most, typical: 0 }, [{ tokens: 4, agreed: 4, logprob: 0, ...answer }])
  expect(judge(9e-4)).toEqual({ allowed: expect.closeTo(1e-3, 9), nearTie: expect.closeTo(2e-3, 9), agrees: true })
  expect(judge(1.1e-3).agrees).toBe(false)
  expect(judge(Infinity).agrees).toBe(false)
  expect([judge(0, { agreed: 1, margin: 1.9e-3 }).agrees, judge(0, { agreed: 1, margin: 2.1e-3 }).agrees]).toEqual([true, false])
  expect([judge(0, { logprob: 1.9e-3 }).agrees, judge(0, { logprob: 2.1e-3 }).agrees]).toEqual([true, false])
  expect(judgeFloat32({ ...worst, greatest: 0, most: 0, typical: 0 }, []).allowed).toBe(5e-5)
})

test('bfloat16: typically about as near to float32 as transformers is', () => {
  const theirs = { ...worst, most: 5, typical: 0.1 }
  const judge = (typical: number) => judgeBfloat16({ ...worst, most: 9, typical }, theirs)
  expect(judge(0.15)).toEqual({ allowed: expect.closeTo(0.151, 9), nearTie: 28, agrees: true })
  expect(judge(0.16).agrees).toBe(false)
})

test('the command line', () => {
  expect(parseCommandLine(['a', '--tp', '1,5', '--random', '3', '--families', 'phi3,gpt2'])).toMatchObject({
    folders: ['a'], random: { count: 3, first: 0, families: ['phi3', 'gpt2'] }, options: { sizes: [1, 5], dtype: 'float32', device: 'cpu' },
  })
  for (const args of [[], ['a', '--tp', '0'], ['a', '--dtype', 'float64'], ['--random', '1', '--families', 'mamba'], ['a', '--random', 'x'], ['a', '--tip']])
    expect(() => parseCommandLine(args)).toThrow()
})
