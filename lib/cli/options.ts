// Every option of the API and its flag. Rule: the tables are checked against the interfaces, so an option that the API gains has a flag, or a
// reason here why it has none.
import type { PretrainedOptions } from '../generation/load-model'
import type { BatchOptions } from '../generation/options'
import type { VerifyOptions } from '../generation/verify'
import { gpuProfiles } from '../planning/gpus'
import type { PlanOptions } from '../planning/plan'
import { biases, choice, count, number, numbers, plan, switched, text, texts, without } from './flags'
import type { FlagTable } from './flags'

const interrupted = without('signal', 'Ctrl-C ends what runs')

export const modelFlag = { model: text('model', 'NAME', 'a model folder with safetensors weights, or a model on the Hugging Face hub') }

export const jsonFlag = { json: switched('json', 'print one JSON object') }

export const promptFlags = {
  prompt: text('prompt', 'TEXT', 'raw text'),
  messages: text('messages', 'FILE', 'a JSON list of {"role", "content"}; goes through the chat template; - is stdin')
}

export const loadFlags = {
  revision: text('revision', 'REVISION', 'its branch, tag or commit on the hub (default main)'),
  tpSize: count('tp', 'N', 'ranks that share the model (default 1)'),
  strict: switched('strict', 'refuse a number of ranks that does not divide heads and widths'),
  tpPlan: plan('tp-plan', 'FILE', 'a JSON object of modules and styles, or auto (default auto)'),
  expertParallel: switched('expert-parallel', 'whole experts on each rank, in place of a part of every expert'),
  reproducible: switched('reproducible', 'the same bits at 1, 2, 4 and 8 ranks'),
  dtype: choice('dtype', ['auto', 'float32', 'bfloat16', 'float16'], "of weights and compute (default auto: the checkpoint's own)"),
  device: choice('device', ['auto', 'cpu', 'cuda'], 'default auto'),
  devices: numbers('devices', 'N,N,…', 'the GPU of each rank; 0,0 puts two ranks on one GPU'),
  communicator: choice('communicator', ['auto', 'local', 'nccl'], 'what ranks on GPUs talk over (default auto)'),
  host: choice('host', ['thread', 'process'], 'where ranks live (default thread)'),
  collectiveTimeoutMs: number('collective-timeout-ms', 'MS', 'how long a rank waits for the others (default 120000)'),
  maxTokens: number('max-tokens', 'N', 'room of the cache, in tokens of all sequences (default: what memory allows)'),
  gpuMemoryUtilization: number('gpu-memory-utilization', 'PART', "of a GPU's memory that may be in use (default 0.9)"),
  prefixReuse: switched('prefix-reuse', 'keep the cache of prompts for those that begin alike (default on)'),
  onProgress: without('on-progress', 'a terminal shows how a download goes'),
  signal: interrupted
} satisfies FlagTable<PretrainedOptions>

export const generateFlags = {
  maxNewTokens: number('max-new-tokens', 'N', 'tokens of the answer at most (default: what the model suggests, else the context)'),
  minNewTokens: number('min-new-tokens', 'N', 'tokens of the answer at least'),
  doSample: switched('do-sample', 'draw tokens, or take the likeliest'),
  temperature: number('temperature', 'T', '0 is greedy'),
  topK: number('top-k', 'K', 'draw from the K likeliest tokens'),
  topP: number('top-p', 'P', 'draw from the likeliest tokens that together reach probability P'),
  minP: number('min-p', 'P', 'draw from tokens at least P times as likely as the likeliest'),
  repetitionPenalty: number('repetition-penalty', 'R', 'for tokens of prompt and answer; 1 is off'),
  presencePenalty: number('presence-penalty', 'P', 'taken from logits of tokens in the answer'),
  frequencyPenalty: number('frequency-penalty', 'P', 'taken from them for each time'),
  noRepeatNgramSize: number('no-repeat-ngram-size', 'N', 'runs of N tokens come only once; 0 is off'),
  logitBias: biases('logit-bias', 'ID:B,…', 'added to the logits of token ids; -Infinity rules a token out'),
  stop: texts('stop', 'TEXT', 'a text that ends the answer; may be given several times'),
  stopTokenIds: numbers('stop-token-ids', 'ID,…', "tokens that end the answer, beside the model's end tokens"),
  ignoreEos: switched('ignore-eos', "go on after the model's end tokens"),
  seed: number('seed', 'S', 'the same text again, at any size'),
  n: number('n', 'N', 'answers to the prompt'),
  logprobs: number('logprobs', 'N', 'with --json: log-probabilities, and of the N likeliest tokens'),
  echo: switched('echo', 'begin with the prompt'),
  signal: interrupted
} satisfies FlagTable<BatchOptions>

const oneAnswer = 'a chat has one answer to each message, as text'

export const chatFlags = {
  ...generateFlags,
  n: without('n', oneAnswer),
  logprobs: without('logprobs', oneAnswer),
  echo: without('echo', oneAnswer)
} satisfies FlagTable<BatchOptions>

export const planFlags = {
  tpSize: count('tp', 'N', 'one size (default: every valid one up to 8)'),
  gpu: choice('gpu', gpuProfiles.map(({ name }) => name), 'predict speed and room on such GPUs'),
  explain: switched('explain', 'what becomes of every parameter: style, shape and bytes on a rank'),
  dtype: loadFlags.dtype,
  revision: loadFlags.revision,
  strict: loadFlags.strict,
  tpPlan: loadFlags.tpPlan,
  expertParallel: loadFlags.expertParallel,
  reproducible: loadFlags.reproducible
} satisfies FlagTable<PlanOptions>

const { maxTokens: _, gpuMemoryUtilization: _utilization, prefixReuse: _reuse, tpSize: _size, ...verifiedLoad } = loadFlags

export const verifyFlags = {
  ...verifiedLoad,
  devices: without('devices', 'it is for one size; verify takes the first GPUs'),
  sizes: numbers('tp', 'N,N,…', 'the sizes to compare with the first of them (default 1,2)'),
  prompt: text('prompt', 'TEXT', 'what they compute (default: 32 token ids drawn with a fixed seed)'),
  tolerance: number('tolerance', 'X', 'relative difference of a module that is let pass (default: by data type; 0 with --reproducible)')
} satisfies FlagTable<VerifyOptions>
