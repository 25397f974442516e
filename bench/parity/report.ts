// The outcome of a comparison as lines of text.
import { type ModelParity, type SizeParity } from './compare-model'
import { type AnswerDifference, type WorstDifference } from './differences'
import { type TokenizerParity } from './compare-tokenizer'

export function modelText(name: string, model: ModelParity): string {
  const { modelType, prompts, refused, skipped, failed, reference, sizes, tokenizer } = model
  if (skipped) return `${name}: not compared, transformers does not run it: ${skipped}`
  if (refused) return `${name} (${modelType}): refused by heddle, ${refused.code}: ${refused.message}`
  if (failed) return `${name} (${modelType}): FAILED: ${failed}`
  return [
    `${name} (${modelType}), ${prompts} prompts, ${sizes[0]?.logits.positions ?? 0} positions, greatest logit ${rounded(sizes[0]?.logits.greatest ?? 0)}`,
    ...(reference ? [`  transformers in bfloat16: logits ${apart(reference)} from those of float32`] : []),
    ...sizes.map((size) => sizeText(size, reference !== undefined)),
    ...(tokenizer ? tokenizerLines(tokenizer) : []),
  ].join('\n')
}

function sizeText({ size, logits, allowed, nearTie, answers, agrees }: SizeParity, bfloat16: boolean): string {
  const { most, greatest, prompt, position, sameArgmax, positions } = logits
  const place = `prompt ${prompt}, position ${position}`
  return [
    `  tp ${size}: ${agrees ? 'agrees' : 'DIFFERS'}`,
    bfloat16
      ? `logits ${apart(logits)} from those of float32 (allowed ${rounded(allowed)} typically; ${place})`
      : `logits ${rounded(most)} apart (${rounded(most / greatest)} of the greatest; allowed ${rounded(allowed)}; ${place})`,
    `argmax ${sameArgmax}/${positions}`,
    `greedy ${answers.map((answer) => answerText(answer, nearTie)).join(' ')}`,
    `log-probabilities ${rounded(Math.max(0, ...answers.map(({ logprob }) => logprob)))} apart`,
  ].join(', ')
}

const apart = ({ most, typical }: WorstDifference): string => `typically ${rounded(typical)}, at most ${rounded(most)}`

function answerText({ tokens, agreed, margin }: AnswerDifference, nearTie: number): string {
  const text = `${agreed}/${tokens}`
  if (margin === undefined) return text
  return `${text} (margin ${rounded(margin)}${margin <= nearTie ? ', a near tie' : ''})`
}

function tokenizerLines({ texts, chats, differences }: TokenizerParity): string[] {
  const what = `  tokenizer: ${texts} texts, ${chats} chats`
  if (differences.length === 0) return [`${what}: the same`]
  return [`${what}: ${differences.length} DIFFERENCES`, ...differences.map((difference) => `    ${difference}`)]
}

export function summaryText(models: ModelParity[]): string {
  const compared = models.filter(({ sizes }) => sizes.length > 0)
  const count = (of: (model: ModelParity) => unknown): number => models.filter(of).length
  return [
    `${compared.length} checkpoints compared at ${compared.reduce((sum, { sizes }) => sum + sizes.length, 0)} sizes`,
    `${count(({ agrees }) => !agrees)} differ or fail`,
    `${count(({ refused }) => refused)} refused by name of a field`,
    `${count(({ skipped }) => skipped)} not run by transformers`,
  ].join('; ')
}

const rounded = (value: number): string => (value === 0 ? '0' : value.toPrecision(2))
