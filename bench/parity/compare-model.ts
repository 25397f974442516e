// One checkpoint through transformers and through heddle at several sizes.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { AutoModelForCausalLM, AutoTokenizer, HeddleError, type CausalLM, type Message } from 'heddle'
import { compareTokenizer, type TokenizerParity } from './compare-tokenizer'
import {
  answerDifference, judgeBfloat16, judgeFloat32, logitDifference, worstOf,
  type Answer, type AnswerDifference, type Judgement, type ParityDType, type WorstDifference,
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

export interface SizeParity extends Judgement {
  size: number
  /** from transformers in float32; in bfloat16 from the same weights in float32 */
  logits: WorstDifference
  answers: AnswerDifference[]
}

export interface ModelParity {
  folder: string
  modelType: string
  prompts: number
  /** in bfloat16: how far transformers is from the same weights in float32 */
  reference?: WorstDifference
  sizes: SizeParity[]
  tokenizer?: TokenizerParity
  /** why heddle does not take it: a typed error that names a field of the configuration */
  refused?: { code: string; message: string; field: string }
  /** why nothing was compared: transformers does not run it */
  skipped?: string
  /** an error of heddle's that is no such refusal */
  failed?: string
  agrees: boolean
}

interface Expected {
  row: number[]
  /** of the model's weights in float32 */
  logits: Float32Array
  /** of transformers in the data type */
  rounded: Float32Array
  vocabSize: number
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
    const expected = await expectedOf(rows, context, opened.vocabSize, reference, options)
    const rounding = worstOf(expected.map(({ rounded, logits, vocabSize }) => logitDifference(rounded, logits, vocabSize)))
    const sizes = options.sizes.filter((size) => size <= opened.headCount)
    const compared: SizeParity[] = []
    for (const size of sizes) compared.push(await compareSize(folder, size, expected, rounding, options))
    const agrees = compared.every((one) => one.agrees) && !tokenizer?.differences.length
    const bfloat16 = options.dtype === 'bfloat16' && { reference: rounding }
    return { ...found, prompts: rows.length, ...bfloat16, sizes: compared, ...(tokenizer && { tokenizer }), agrees }
  } catch (error) {
    if (error instanceof TransformersError) return { ...found, skipped: error.message }
    const refused = refusalOf(error)
    return refused ? { ...found, refused } : { ...found, failed: (error as Error).message, agrees: false }
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

async function expectedOf(rows: number[][], context: number, vocabSize: number, reference: Reference, options: ParityOptions): Promise<Expected[]> {
  const expected: Expected[] = []
  for (const row of rows) {
    const count = Math.min(options.newTokens, context - row.length)
    const logits = await reference.logits(row, true)
    const rounded = options.dtype === 'float32' ? logits : await reference.logits(row, false)
    expected.push({ row, logits, rounded, vocabSize, answer: await reference.greedy(row, count) })
  }
  return expected
}

async function compareSize(
  folder: string, size: number, expected: Expected[], rounding: WorstDifference, options: ParityOptions,
): Promise<SizeParity> {
  const model = await open(folder, size, options)
  try {
    const differences = []
    for (const { row, logits, vocabSize } of expected) differences.push(logitDifference((await model.forward([row])).logits, logits, vocabSize))
    // together, so that steps hold several sequences
    const answers = await Promise.all(expected.map(async ({ row, answer }) => answerDifference(await greedy(model, row, answer.tokens.length), answer)))
    const logits = worstOf(differences)
    return { size, logits, answers, ...(options.dtype === 'float32' ? judgeFloat32(logits, answers) : judgeBfloat16(logits, rounding)) }
  } finally {
    await model.close()
  }
}

/** Nothing that generation_config.json suggests counts. */
const plain = {
  doSample: false, ignoreEos: true, minNewTokens: 0, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, stop: [] as string[], logprobs: 0,
}

async function greedy(model: CausalLM, row: number[], maxNewTokens: number): Promise<Answer> {
  if (maxNewTokens === 0) return { tokens: [], logprobs: [] }
  const { tokenIds, logprobs } = await model.generate(row, { ...plain, maxNewTokens })
  return { tokens: tokenIds, logprobs: logprobs!.map(({ logprob }) => logprob) }
}
