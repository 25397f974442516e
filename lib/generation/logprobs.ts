// Log-probabilities of tokens, as callers see them: of the softmax of the model's own logits, before bias, penalties and temperature.
import type { SamplingSpec, StepResult } from '../program'

export interface LikelyToken {
  id: number
  /** natural logarithm of its probability */
  logprob: number
}

export interface TokenLogprob extends LikelyToken {
  /** the likeliest tokens of this place, best first, as many as were asked for */
  top: LikelyToken[]
}

/** Of each sequence of a step that asks for them. */
export function tokenLogprobs(sampling: readonly SamplingSpec[], logprobs: StepResult['logprobs']): (TokenLogprob | undefined)[] {
  let next = 0
  const take = (): LikelyToken => ({ id: logprobs!.ids[next]!, logprob: logprobs!.values[next++]! })
  return sampling.map((spec) => {
    if (!logprobs || spec.logprobs === undefined) return undefined
    const chosen = take()
    const top = Array.from({ length: spec.logprobs }, take).filter(({ id }) => id >= 0)
    return { ...chosen, top }
  })
}

/** The same for token `id` from a whole row of logits, for tokens that were not sampled but given. */
export function logprobOf(row: Float32Array, id: number, count: number): TokenLogprob {
  let largest = -Infinity
  for (const logit of row) if (logit > largest) largest = logit
  let total = 0
  for (const logit of row) if (logit === logit) total += Math.exp(logit - largest)
  const logTotal = largest + Math.log(total)
  const token = (tokenId: number): LikelyToken => ({ id: tokenId, logprob: row[tokenId]! - logTotal })
  return { ...token(id), top: largestIds(row, count).map(token) }
}

/** Highest first; of equal ones the lowest id. */
function largestIds(row: Float32Array, count: number): number[] {
  const best: number[] = []
  if (count === 0) return best
  row.forEach((logit, id) => {
    if (!(logit > -Infinity) || (best.length === count && logit <= row[best.at(-1)!]!)) return
    let place = best.length
    while (place > 0 && row[best[place - 1]!]! < logit) place--
    best.splice(place, 0, id)
    if (best.length > count) best.pop()
  })
  return best
}
