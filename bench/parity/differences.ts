// How far apart two sets of logits are, and where two greedy answers part. Pure functions.

export interface LogitDifference {
  /** the greatest absolute difference; Infinity where one is no number and the other is */
  most: number
  /** where it is, counted from the first token of the prompt */
  position: number
  /** the greatest absolute value among the reference's logits */
  greatest: number
  positions: number
  /** the greatest difference of each position */
  byPosition: number[]
  /** positions whose largest logit is the same token's */
  sameArgmax: number
}

/** Of [positions, vocabSize] in row-major order. */
export function logitDifference(ours: Float32Array, theirs: Float32Array, vocabSize: number): LogitDifference {
  if (ours.length !== theirs.length) throw new Error(`expected ${theirs.length} logits, as transformers gives, got ${ours.length}`)
  const found: LogitDifference = { most: 0, position: 0, greatest: 0, positions: theirs.length / vocabSize, byPosition: [], sameArgmax: 0 }
  for (let position = 0; position < found.positions; position++) {
    const row = position * vocabSize
    let [ourBest, theirBest, most] = [row, row, 0]
    for (let i = row; i < row + vocabSize; i++) {
      most = Math.max(most, distance(ours[i], theirs[i]))
      found.greatest = Math.max(found.greatest, Math.abs(theirs[i]))
      if (ours[i] > ours[ourBest]) ourBest = i
      if (theirs[i] > theirs[theirBest]) theirBest = i
    }
    if (most > found.most) Object.assign(found, { most, position })
    found.byPosition.push(most)
    if (ourBest === theirBest) found.sameArgmax++
  }
  return found
}

function distance(a: number, b: number): number {
  if (Object.is(a, b) || a === b) return 0
  const difference = Math.abs(a - b)
  return Number.isNaN(difference) ? Infinity : difference
}

export type WorstDifference = Omit<LogitDifference, 'byPosition'> & {
  prompt: number
  /** a quarter of the positions are no further apart: rounding that changes the choice of one expert moves all positions behind it */
  typical: number
}

/** The worst of several prompts, and which it is; positions are added up. */
export function worstOf(all: LogitDifference[]): WorstDifference {
  const prompt = all.reduce((worst, { most }, index) => (most > all[worst].most ? index : worst), 0)
  const sum = (of: (one: LogitDifference) => number): number => all.reduce((total, one) => total + of(one), 0)
  const sorted = all.flatMap(({ byPosition }) => byPosition).sort((a, b) => a - b)
  return {
    most: all[prompt].most,
    position: all[prompt].position,
    prompt,
    typical: sorted[sorted.length >> 2],
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

export type ParityDType = 'float32' | 'bfloat16'

/** What float32 explains: a part of the greatest logit, and the least that is allowed, for models whose logits are small. */
const float32Tolerance = { relative: 5e-5, absolute: 5e-5 }

export interface Judgement {
  /** the greatest difference that passes; in bfloat16 the typical one */
  allowed: number
  /** logits that may be off by so much may swap the two best where these are closer than twice that */
  nearTie: number
  agrees: boolean
}

/** In float32 every logit and every answer counts. A log-probability is a difference of two that each may be off. */
export function judgeFloat32({ most, greatest }: WorstDifference, answers: AnswerDifference[]): Judgement {
  const allowed = Math.max(float32Tolerance.absolute, float32Tolerance.relative * greatest)
  const answersAgree = answers.every(({ margin = 0, logprob }) => Math.max(margin, logprob) <= 2 * allowed)
  return { allowed, nearTie: 2 * allowed, agrees: most <= allowed && answersAgree }
}

/**
 * Both round, in places of their own, and where rounding changes the choice of an expert a logit may be anything. So what counts is whether
 * heddle is typically about as near to the exact logits, those of the same weights in float32, as transformers in bfloat16 is.
 */
export function judgeBfloat16(ours: WorstDifference, theirs: WorstDifference): Judgement {
  const allowed = 1.5 * theirs.typical + float32Tolerance.relative * ours.greatest
  return { allowed, nearTie: 2 * (ours.most + theirs.most), agrees: ours.typical <= allowed }
}
