// The command line has every option of the API, or says why not; what a flag gives is what the API takes.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { parseFlags, readFlags, UsageError } from '../../lib/cli/flags'
import type { Flags } from '../../lib/cli/flags'
import { chatFlags, generateFlags, loadFlags, planFlags, verifyFlags } from '../../lib/cli/options'
import { pretrainedOptions } from '../../lib/generation/load-model'
import { checkGenerateOptions, generateOptions } from '../../lib/generation/options'
import { verifyOptions } from '../../lib/generation/verify'
import { planOptions } from '../../lib/planning/plan'

const apis: [string, readonly string[], Flags, string[]][] = [
  ['fromPretrained', pretrainedOptions, loadFlags, ['onProgress', 'signal']],
  ['generate', generateOptions, generateFlags, ['signal']],
  ['generate, in a chat', generateOptions, chatFlags, ['echo', 'logprobs', 'n', 'signal']],
  ['planTensorParallel', planOptions, planFlags, []],
  ['verifyTensorParallel', verifyOptions, verifyFlags, ['devices', 'onProgress', 'signal']]
]

test.each(apis)('every option of %s has a flag, but for a few with a reason', (_, options, flags, exceptions) => {
  expect(Object.keys(flags).sort()).toEqual([...options].sort())
  const without = Object.entries(flags).filter(([, entry]) => !('read' in entry))
  expect(without.map(([option]) => option).sort()).toEqual(exceptions)
  for (const [, entry] of without) expect('why' in entry && entry.why.length).toBeGreaterThan(10)
})

test.each(apis)('the flags of %s are called as the options are', (_, __, flags) => {
  const kebab = (option: string): string => option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
  const others: Record<string, string> = { tpSize: 'tp', sizes: 'tp' }
  for (const [option, { flag }] of Object.entries(flags)) expect(flag).toBe(others[option] ?? kebab(option))
})

test('what flags of generate give is what the API takes', () => {
  const args = ['--max-new-tokens=9', '--min-new-tokens=2', '--no-do-sample', '--temperature=0.5', '--top-k', '4', '--top-p=0.9', '--min-p=.1',
    '--repetition-penalty=1.1', '--presence-penalty=-1', '--frequency-penalty=1', '--no-repeat-ngram-size=3', '--logit-bias=5:-2,17:1.5,3:-Infinity', '--stop', 'a', '--stop', 'b',
    '--stop-token-ids', '1,2', '--ignore-eos', '--seed=7', '--n=3', '--logprobs=2', '--echo']
  const options = readFlags(parseFlags(args, generateFlags), generateFlags)
  expect(options).toEqual({
    maxNewTokens: 9, minNewTokens: 2, doSample: false, temperature: 0.5, topK: 4, topP: 0.9, minP: 0.1, repetitionPenalty: 1.1, presencePenalty: -1,
    frequencyPenalty: 1, noRepeatNgramSize: 3, logitBias: new Map([[5, -2], [17, 1.5], [3, -Infinity]]), stop: ['a', 'b'], stopTokenIds: [1, 2], ignoreEos: true, seed: 7,
    n: 3, logprobs: 2, echo: true
  })
  expect(Object.keys(options).length).toBe(generateOptions.length - 1)
  checkGenerateOptions(options)
})

describe('--tp-plan', () => {
  let folder = ''
  beforeAll(async () => { folder = await mkdtemp(path.join(os.tmpdir(), 'heddle-flags-')) })
  afterAll(() => rm(folder, { recursive: true }))
  const read = (file: string): unknown => readFlags(parseFlags(['--tp-plan', file], loadFlags), loadFlags).tpPlan

  test('is auto, or the map in a file', async () => {
    expect(read('auto')).toBe('auto')
    const file = path.join(folder, 'plan.json')
    await writeFile(file, '{"layers.*.mlp": "replicate", "lm_head": "colwise_gather_output"}')
    expect(read(file)).toEqual({ 'layers.*.mlp': 'replicate', lm_head: 'colwise_gather_output' })
  })

  test.each([
    ['no JSON', 'hello', /--tp-plan .*plan\.json: /],
    ['a list', '[]', /expected a JSON object/],
    ['a module twice', '{"a": "colwise", "a": "rowwise"}', /"a"/]
  ])('with %s is an invalid_argument that names it', async (_, text, message) => {
    const file = path.join(folder, 'plan.json')
    await writeFile(file, text)
    expect(() => read(file)).toThrow(expect.objectContaining({ code: 'invalid_argument', message: expect.stringMatching(message) }))
  })

  test('without its file names it', () => {
    expect(() => read('/none/plan.json')).toThrow(expect.objectContaining({ code: 'invalid_argument', message: expect.stringContaining('/none/plan.json') }))
  })
})

test.each([
  [['--echo', '--no-echo'], /one of --echo and --no-echo/],
  [['--signal', 'x'], /--signal is no option here: Ctrl-C/],
  [['--seed', ''], /--seed expects a number, got ""/],
  [['--stop-token-ids', '1,,2'], /--stop-token-ids expects numbers/],
  [['--frob'], /Unknown option '--frob'/]
])('%j is wrong usage', (args, message) => {
  expect(() => readFlags(parseFlags(args, generateFlags), generateFlags)).toThrow(message)
  expect(() => readFlags(parseFlags(args, generateFlags), generateFlags)).toThrow(UsageError)
})
