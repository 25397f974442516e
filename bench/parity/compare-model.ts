// One checkpoint through transformers and through heddle at several sizes.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { AutoModelForCausalLM, AutoTokenizer, HeddleError, type CausalLM, type Message } from 'heddle'
import { compareTokenizer, type TokenizerParity } from './compare-tokenizer'
import {
  allowedDifference, answerDifference, isNearTie, logitDifference, worstOf, type Answer, type AnswerDifference, type LogitDifference, type ParityDType,
} from './differences'
import { chats, randomPrompts, texts } from './prompts'
import { TransformersError, type OpenModel, type Reference } from './reference'

export interface ParityOptions {
  sizes: number[]
  dtype: ParityDType
  device: 'cpu' | 'cuda'
  expertParallel: boolean
  newTokens: number
  /** texts, in place of the built-in ones */
  prompts: string[]
  /** chats, in place of the built-in ones */
  chats: Message[][]
  /** of random token ids, where there is no tokenizer */
  seed: number
}

export interface SizeParity {
  size: number
  logits: LogitDifference & { prompt: number }
  /** greatest difference that the data type explains */
  allowed: number
  answers: AnswerDifference[]
  agrees: boolean
}

export interface ModelParity {
  folder: string
  modelType: string
  prompts: number
  sizes: SizeParity[]
  tokenizer?: TokenizerParity
  /** why heddle does not take it: a typed error that names a field of the configuration */
  refused?: { code: string; message: string; field: string }
  /** why nothing was compared: transformers does not run it */
  skipped?: string
  agrees: boolean
}

interface Expected {
  row: number[]
  logits: Float32Array
  answer: Answer & { margins: number[] }
}

export async function compareModel(folder: string, reference: Reference, options: ParityOptions): Promise<ModelParity> {
  const found: ModelParity = { folder, modelType: '', prompts: 0, sizes: [], agrees: true }
  try {
    const opened = await reference.open(folder, options.dtype)
    found.modelType = opened.modelType
    const tokenizer = await tokenizerParity(folder, reference, options)
    const context = await heddleContext(folder, options)
    const rows = await promptRows(folder, tokenizer !== undefined, { ...opened, context: Math.min(context, opened.context) }, options)
    const expected = await expectedOf(rows, context, reference, options)
    const sizes = options.sizes.filter((size) => size <= opened.headCount)
    const compared: SizeParity[] = []
    for (const size of sizes) compared.push(await compareSize(folder, size, expected, options))
    const agrees = compared.every((one) => one.agrees) && !tokenizer?.differences.length
    return { ...found, prompts: rows.length, sizes: compared, ...(tokenizer && { tokenizer }), agrees }
  } catch (error) {
    if (error instanceof TransformersError) return { ...found, skipped: error.message }
    const refused = refusalOf(error)
    if (refused) return { ...found, refused }
    throw error
  }
}

/** A refusal counts as one where it is typed and says which field it is about. */
function refusalOf(error: unknown): ModelParity['refused'] {
  if (!(error instanceof HeddleError) || !['unsupported_model', 'corrupt_file'].includes(error.code)) return undefined
  const field = (error.details as { field?: unknown } | undefined)?.field
  return typeof field === 'string' ? { code: error.code, message: error.message, field } : undefined
}

async function tokenizerParity(folder: string, reference: Reference, options: ParityOptions): Promise<TokenizerParity | undefined> {
  if (!existsSync(join(folder, 'tokenizer.json'))) return undefined
  return compareTokenizer(folder, reference, [...texts, ...options.prompts], options.chats.length ? options.chats : chats)
}

const open = (folder: string, tpSize: number, { dtype, device, expertParallel }: ParityOptions): Promise<CausalLM> =>
  AutoModelForCausalLM.fromPretrained(folder, { tpSize, dtype, device, expertParallel, ...(device === 'cuda' && { devices: Array<number>(tpSize).fill(0) }) })

async function heddleContext(folder: string, options: ParityOptions): Promise<number> {
  const model = await open(folder, 1, options)
  try {
    return model.info().contextLength
  } finally {
    await model.close()
  }
}

/** Texts and chats as ids where there is a tokenizer, else random ids. */
async function promptRows(folder: string, hasTokenizer: boolean, { vocabSize, context }: OpenModel, options: ParityOptions): Promise<number[][]> {
  const room = context - options.newTokens
  if (!hasTokenizer) return randomPrompts(vocabSize, room, options.seed)
  const tokenizer = await AutoTokenizer.fromPretrained(folder)
  const given = options.prompts.length + options.chats.length > 0
  const rows = (given ? options.prompts : texts.slice(0, 1)).map((text) => tokenizer.encode(text))
  const asked = tokenizer.hasChatTemplate ? (given ? options.chats : chats) : []
  for (const messages of asked) rows.push(await tokenizer.encodeChat(messages))
  return rows.filter((row) => row.length > 0).map((row) => row.slice(0, Math.max(1, room)))
}

async function expectedOf(rows: number[][], context: number, reference: Reference, { newTokens }: ParityOptions): Promise<Expected[]> {
  const expected: Expected[] = []
  for (const row of rows) {
    const count = Math.min(newTokens, context - row.length)
    expected.push({ row, logits: await reference.logits(row), answer: await reference.greedy(row, count) })
  }
  return expected
}

async function compareSize(folder: string, size: number, expected: Expected[], options: ParityOptions): Promise<SizeParity> {
  const model = await open(folder, size, options)
  try {
    const differences: LogitDifference[] = []
    for (const { row, logits } of expected) {
      const ours = await model.forward([row])
      differences.push(logitDifference(ours.logits, logits, ours.shape[2]))
    }
    // together, so that steps hold several sequences
    const answers = await Promise.all(expected.map(async ({ row, answer }) => answerDifference(await greedy(model, row, answer.tokens.length), answer)))
    const worst = worstOf(differences)
    const allowed = allowedDifference(options.dtype, worst.greatest)
    return { size, logits: worst, allowed, answers, agrees: worst.most <= allowed && answers.every((answer) => answerAgrees(answer, allowed)) }
  } finally {
    await model.close()
  }
}

/** A log-probability is a difference of two that each may be off by what is allowed. */
const answerAgrees = ({ margin, logprob }: AnswerDifference, allowed: number): boolean =>
  (margin === undefined || isNearTie(margin, allowed)) && logprob <= 2 * allowed

/** Nothing that generation_config.json suggests counts. */
const plain = {
  doSample: false, ignoreEos: true, minNewTokens: 0, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, stop: [] as string[], logprobs: 0,
}

async function greedy(model: CausalLM, row: number[], maxNewTokens: number): Promise<Answer> {
  if (maxNewTokens === 0) return { tokens: [], logprobs: [] }
  const { tokenIds, logprobs } = await model.generate(row, { ...plain, maxNewTokens })
  return { tokens: tokenIds, logprobs: logprobs!.map(({ logprob }) => logprob) }
}
