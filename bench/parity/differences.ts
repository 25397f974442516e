// How far apart two sets of logits are, and where two greedy answers part. Pure functions.

export interface LogitDifference {
  /** the greatest absolute difference; Infinity where one is no number and the other is */
  most: number
  /** where it is, counted from the first token of the prompt */
  position: number
  /** the greatest absolute value among the reference's logits */
  greatest: number
  positions: number
  /** positions whose largest logit is the same token's */
  sameArgmax: number
}

/** Of [positions, vocabSize] in row-major order. */
export function logitDifference(ours: Float32Array, theirs: Float32Array, vocabSize: number): LogitDifference {
  if (ours.length !== theirs.length) throw new Error(`expected ${theirs.length} logits, as transformers gives, got ${ours.length}`)
  const found: LogitDifference = { most: 0, position: 0, greatest: 0, positions: theirs.length / vocabSize, sameArgmax: 0 }
  for (let position = 0; position < found.positions; position++) {
    const row = position * vocabSize
    let [ourBest, theirBest] = [row, row]
    for (let i = row; i < row + vocabSize; i++) {
      const difference = distance(ours[i], theirs[i])
      if (difference > found.most) Object.assign(found, { most: difference, position })
      found.greatest = Math.max(found.greatest, Math.abs(theirs[i]))
      if (ours[i] > ours[ourBest]) ourBest = i
      if (theirs[i] > theirs[theirBest]) theirBest = i
    }
    if (ourBest === theirBest) found.sameArgmax++
  }
  return found
}

function distance(a: number, b: number): number {
  if (Object.is(a, b) || a === b) return 0
  const difference = Math.abs(a - b)
  return Number.isNaN(difference) ? Infinity : difference
}

/** The worst of several prompts, and which it is; positions are added up. */
export function worstOf(all: LogitDifference[]): LogitDifference & { prompt: number } {
  const prompt = all.reduce((worst, { most }, index) => (most > all[worst].most ? index : worst), 0)
  const sum = (of: (one: LogitDifference) => number): number => all.reduce((total, one) => total + of(one), 0)
  return {
    ...all[prompt],
    prompt,
    greatest: Math.max(...all.map(({ greatest }) => greatest)),
    positions: sum(({ positions }) => positions),
    sameArgmax: sum(({ sameArgmax }) => sameArgmax),
  }
}

export interface Answer {
  tokens: number[]
  logprobs: number[]
}

export interface AnswerDifference {
  tokens: number
  /** tokens before the first that differs; all of them where none does */
  agreed: number
  /** the gap between the reference's two best logits at the first token that differs */
  margin?: number
  /** the greatest difference of the log-probabilities of the tokens that agree */
  logprob: number
}

export function answerDifference(ours: Answer, theirs: Answer & { margins: number[] }): AnswerDifference {
  const tokens = theirs.tokens.length
  const departure = theirs.tokens.findIndex((token, index) => token !== ours.tokens[index])
  const agreed = departure < 0 ? tokens : departure
  const logprob = theirs.logprobs.slice(0, agreed).reduce((most, value, index) => Math.max(most, distance(ours.logprobs[index], value)), 0)
  return { tokens, agreed, ...(departure >= 0 && { margin: theirs.margins[departure] }), logprob }
}

/** What float32 and bfloat16 explain, as a part of the greatest logit; and the least that is allowed, for models whose logits are small. */
export const tolerances = { float32: { relative: 5e-5, absolute: 5e-5 }, bfloat16: { relative: 0.05, absolute: 0.05 } } as const

export type ParityDType = keyof typeof tolerances

export function allowedDifference(dtype: ParityDType, greatest: number): number {
  const { relative, absolute } = tolerances[dtype]
  return Math.max(absolute, relative * greatest)
}

/** Logits that may be off by so much may swap the two best where they are closer than twice that. */
export const isNearTie = (margin: number, allowed: number): boolean => margin <= 2 * allowed
