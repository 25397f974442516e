// The command line as a user meets it: a process with arguments, pipes and an exit code.
import { spawn, spawnSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { editJson, golden, repository, tinyModel, withCopy } from '../support/models'

const command = path.join(repository, 'dist/cli/main.js')

interface Result {
  code: number | null
  stdout: string
  stderr: string
}

function heddle(args: string[], input = '', signal?: { on: RegExp; name: NodeJS.Signals }): Promise<Result> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [command, ...args], { stdio: 'pipe', env: { ...process.env, HF_ENDPOINT: 'http://127.0.0.1:9', HF_HUB_CACHE: '/none' } })
    const result: Result = { code: null, stdout: '', stderr: '' }
    child.stdout.on('data', (data: Buffer) => {
      result.stdout += data.toString()
      if (signal?.on.test(result.stdout)) child.kill(signal.name)
    })
    child.stderr.on('data', (data: Buffer) => {
      result.stderr += data.toString()
    })
    child.stdin.on('error', () => {}) // the process may end without reading
    child.on('error', reject)
    child.on('close', (code) => resolve({ ...result, code }))
    if (signal)
      child.stdin.write(input) // kept open: only the signal ends it
    else child.stdin.end(input)
  })
}

const question = JSON.stringify([{ role: 'user', content: 'What is 387 + 456?' }])

describe('generate', () => {
  test('--json prints one object, messages come through a pipe', async () => {
    const { code, stdout, stderr } = await heddle(
      ['generate', '--model', tinyModel, '--tp', '2', '--messages', '/dev/stdin', '--json'],
      question
    )
    expect({ code, stderr, lines: stdout.trimEnd().split('\n').length }).toEqual({ code: 0, stderr: '', lines: 1 })
    const positive = expect.any(Number)
    expect(JSON.parse(stdout)).toEqual({
      text: '387 + 456 = 843',
      tokenIds: [18, 23, 22, 321, 220, 19, 20, 21, 305, 220, 23, 19, 18, 2047],
      promptTokens: 20,
      finishReason: 'stop',
      tp: 2,
      device: 'cpu',
      timings: { loadMs: positive, prefillTokensPerSecond: positive, decodeTokensPerSecond: positive }
    })
    for (const value of Object.values((JSON.parse(stdout) as { timings: Record<string, number> }).timings)) expect(value).toBeGreaterThan(0)
  })

  test('raw text, limits, sampling with a seed: the same text at any size', async () => {
    const run = async (tp: string) =>
      heddle([
        'generate',
        '--model',
        tinyModel,
        '--prompt',
        'Once upon',
        '--max-new-tokens',
        '12',
        '--temperature',
        '0.9',
        '--top-p',
        '0.95',
        '--seed',
        '7',
        '--dtype',
        'float32',
        '--device',
        'cpu',
        '--tp',
        tp,
        '--json'
      ])
    const [one, four] = await Promise.all([run('1'), run('4')])
    const answer = JSON.parse(one.stdout) as { text: string; tokenIds: number[] }
    expect(answer.tokenIds.length).toBeLessThanOrEqual(12)
    expect(JSON.parse(four.stdout)).toMatchObject({ text: answer.text, tokenIds: answer.tokenIds, tp: 4 })
  })

  test('penalties, bias, a least length, a stop text and log-probabilities reach the model', async () => {
    const options = ['--prompt', 'Once upon', '--dtype', 'float32', '--device', 'cpu', '--max-new-tokens', '12', '--json']
    const run = async (...args: string[]) => {
      const { stdout } = await heddle(['generate', '--model', tinyModel, ...options, ...args])
      return JSON.parse(stdout) as { text: string; tokenIds: number[]; finishReason: string; logprobs?: { top: object[] }[] }
    }
    const end = await run('--logit-bias', '2047:100', '--logprobs', '2', '--echo')
    expect(end).toMatchObject({ text: 'Once upon', finishReason: 'stop', logprobs: [{ id: 2047, top: [{}, {}] }] })
    expect((await run('--logit-bias=2047:100,5:-Infinity', '--min-new-tokens', '3', '--stop', 'zzz')).tokenIds).toHaveLength(4)
    const repeating = ['--prompt', 'a b a b a b', '--min-new-tokens', '12']
    const { tokenIds } = await run(...repeating)
    for (const penalty of ['--repetition-penalty=2', '--presence-penalty=2', '--frequency-penalty=2'])
      expect((await run(...repeating, penalty)).tokenIds).not.toEqual(tokenIds)
    expect(await heddle(['generate', '--model', tinyModel, ...options, '--logit-bias', '5'])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('--logit-bias expects token ids and numbers')
    })
  })

  test('without --json: the text alone', async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'heddle-cli-'))
    try {
      await writeFile(path.join(folder, 'messages.json'), question)
      expect(await heddle(['generate', '--model', tinyModel, '--messages', path.join(folder, 'messages.json')])).toEqual({
        code: 0,
        stdout: '387 + 456 = 843\n',
        stderr: ''
      })
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  test('--n: several answers, of which the first is that of one', async () => {
    const options = ['generate', '--model', tinyModel, '--prompt', 'Once', '--max-new-tokens', '4', '--temperature', '1', '--seed', '3']
    const [one, three, texts] = await Promise.all([heddle([...options, '--json']), heddle([...options, '--n', '3', '--json']), heddle([...options, '--n', '3'])])
    const { text, tokenIds, finishReason, promptTokens } = JSON.parse(one.stdout)
    const { answers, ...shared } = JSON.parse(three.stdout)
    expect(answers).toHaveLength(3)
    expect(answers[0]).toEqual({ text, tokenIds, finishReason })
    expect(shared).toMatchObject({ promptTokens, tp: 1 })
    expect(texts.stdout).toBe(`${answers.map((answer: { text: string }) => `${answer.text}\n`).join('\n')}`)
  })

  test('--tp-plan, --expert-parallel, --strict and --max-tokens reach the model', async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'heddle-cli-'))
    try {
      const file = path.join(folder, 'plan.json')
      await writeFile(file, JSON.stringify({ 'layers.*': 'replicate', embed_tokens: 'replicate', lm_head: 'replicate' }))
      const whole = await heddle(['info', '--model', tinyModel, '--tp', '2', '--tp-plan', file, '--max-tokens', '64', '--json'])
      const one = await heddle(['info', '--model', tinyModel, '--json'])
      expect(JSON.parse(whole.stdout)).toMatchObject({ cacheTokens: 64 })
      expect(JSON.parse(whole.stdout).ranks[1].weightBytes).toBe(JSON.parse(one.stdout).ranks[0].weightBytes)
      const explained = await heddle(['plan', '--model', tinyModel, '--tp', '2', '--tp-plan', file, '--explain'])
      await writeFile(file, JSON.stringify({ 'layers.*': 'replicate', embed_tokens: 'replicate' }))
      const warned = await heddle(['verify', '--model', tinyModel, '--tp', '1,2', '--tp-plan', file])
      expect(warned).toMatchObject({ code: 0, stderr: '' }) // the head is tied to the table
      await writeFile(file, JSON.stringify({ 'layers.*': 'replicate' }))
      const twice = await heddle(['verify', '--model', tinyModel, '--tp', '1,2', '--tp-plan', file])
      expect(twice).toMatchObject({ code: 0, stderr: 'heddle: warning: AutoModelForCausalLM.fromPretrained: tpPlan: no rule for "embed_tokens", which every rank holds whole; \'auto\' splits it\n' })
      expect(explained.stdout).toMatch(/model\.layers\.\*\.mlp\.up_proj\.weight +replicate/)
      await writeFile(file, JSON.stringify({ 'layers.*.mlp': 'replicate' }))
      expect((await heddle(['plan', '--model', tinyModel, '--tp', '2', '--tp-plan', file])).stdout).toMatch(/^warning: tpPlan: no rule for "layers\.\*\.self_attn\.q_proj"/m)
      await writeFile(file, JSON.stringify({ 'layers.*.mlp': 'sideways' }))
      expect(await heddle(['generate', '--model', tinyModel, '--prompt', 'x', '--tp-plan', file])).toMatchObject({ code: 1, stderr: expect.stringContaining('"sideways"') })
    } finally {
      await rm(folder, { recursive: true })
    }
    const strict = await heddle(['generate', '--model', tinyModel, '--tp', '3', '--strict', '--prompt', 'x'])
    expect(strict).toMatchObject({ code: 1, stderr: expect.stringMatching(/valid sizes: 1, 2, 4/) })
    const experts = (...args: string[]) => heddle(['plan', '--model', golden('qwen3-moe'), '--tp', '2', '--explain', ...args])
    expect((await experts('--expert-parallel')).stdout).toContain('grouped_gemm')
    expect((await experts('--no-expert-parallel')).stdout).not.toContain('grouped_gemm')
  })
})

test('with echo the answer begins with the prompt as the template wrote it, as text and as JSON', async () => {
  const args = ['generate', '--model', tinyModel, '--messages', '-', '--echo', '--dtype', 'float32']
  const { stdout } = await heddle(args, question)
  expect(stdout).toBe('<|im_start|>user\nWhat is 387 + 456?<|im_end|>\n<|im_start|>assistant\n387 + 456 = 843\n')
  expect(`${JSON.parse((await heddle([...args, '--json'], question)).stdout).text}\n`).toBe(stdout)
})

describe('chat', () => {
  test('options that no answer can have end it', async () => {
    const { code, stdout, stderr } = await heddle(['chat', '--model', tinyModel, '--top-p', '2'], 'What is 387 + 456?\nWhat is 1 + 1?\n')
    expect({ code, stdout, stderr }).toEqual({ code: 1, stdout: '', stderr: expect.stringMatching(/^heddle: \[invalid_argument\] .*topP: expected .*\nhint: .*\n$/) })
  })

  test('a message for which there is no room does not', async () => {
    const result = await heddle(['chat', '--model', tinyModel, '--max-tokens', '64', '--dtype', 'float32'], `${'What is 387 + 456? '.repeat(40)}\nWhat is 387 + 456?\n`)
    expect(result).toEqual({ code: 0, stdout: '387 + 456 = 843\n', stderr: expect.stringMatching(/^heddle: .*at most 64 tokens.* \(\/reset starts a new chat\)\n$/) })
  })

  test('piped lines are a conversation; /exit ends it', async () => {
    const lines =
      'The code of the blue door is 4821. The code of the red chest is 1179. What is the code of the blue door?\n\n' +
      'What is the code of the red chest?\n/exit\nWhat is 1 + 1?\n'
    expect(await heddle(['chat', '--model', tinyModel, '--tp', '2', '--dtype', 'float32'], lines)).toEqual({
      code: 0,
      stdout: 'The code of the blue door is 4821.\nThe code of the red chest is 1179.\n',
      stderr: ''
    })
  })

  test('the end of the input ends it, and /reset forgets', async () => {
    const result = await heddle(['chat', '--model', tinyModel], 'What is 387 + 456?\n/reset\nWhat is 387 + 456?')
    expect(result).toEqual({ code: 0, stdout: '387 + 456 = 843\n387 + 456 = 843\n', stderr: '' })
  })

  test('Ctrl-C between answers ends it', async () => {
    const result = await heddle(['chat', '--model', tinyModel], 'What is 387 + 456?\n', { on: /843\n/, name: 'SIGINT' })
    expect(result).toEqual({ code: 0, stdout: '387 + 456 = 843\n', stderr: '' })
  })
})

describe('info', () => {
  test('of the machine, and of a model on its ranks', async () => {
    const machine = await heddle(['info', '--device', 'cpu', '--json'])
    expect(JSON.parse(machine.stdout)).toMatchObject({
      device: 'cpu',
      size: 1,
      cores: expect.any(Number),
      isa: expect.any(String),
      reason: 'asked for',
      communicator: 'local',
      cuda: { usable: expect.any(Boolean), build: expect.any(String), devices: expect.any(Array) }
    })
    const model = await heddle(['info', '--model', tinyModel, '--tp', '2', '--json'])
    expect(JSON.parse(model.stdout)).toMatchObject({
      modelType: 'qwen3',
      contextLength: 1024,
      ranks: [
        { rank: 0, weightBytes: 5257792 },
        { rank: 1, weightBytes: 5257792 }
      ]
    })
    const table = await heddle(['info', '--model', tinyModel, '--tp', '2'])
    expect(table.stdout).toMatch(/^cuda +(usable, built with|not usable: )\S/m)
    expect(table.stdout).toMatch(/rank +weight bytes.*\n +0 +5,257,792.*\n +1 +5,257,792/)
    expect([machine, model, table].map(({ code, stderr }) => ({ code, stderr }))).toEqual(Array(3).fill({ code: 0, stderr: '' }))
  })
})

test('--help prints the usage', async () => {
  const { code, stdout } = await heddle(['--help'])
  expect(code).toBe(0)
  for (const word of ['chat', 'generate', 'info', '--messages', '--tp']) expect(stdout).toContain(word)
})

test.each(['--version', '-v'])('%s prints the version of the package', async (flag) => {
  const { version } = JSON.parse(await readFile(path.join(repository, 'package.json'), 'utf8')) as { version: string }
  expect(await heddle([flag])).toEqual({ code: 0, stdout: `${version}\n`, stderr: '' })
})

test.each([['-h'], ['generate', '-h'], ['plan', '--help'], ['help']])('%s prints the usage, too', async (...args) => {
  expect((await heddle(args)).stdout).toMatch(/^Usage: heddle/)
})

const onLinux = process.platform === 'linux' ? test : test.skip

onLinux('an output that cannot be written to is an error that says why', () => {
  const full = openSync('/dev/full', 'w')
  const { status, stderr } = spawnSync(process.execPath, [command, 'info', '--device', 'cpu'], { stdio: ['ignore', full, 'pipe'], encoding: 'utf8' })
  closeSync(full)
  expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringMatching(/^heddle: stdout: ENOSPC/) })
})

test('a reader that leaves early is no error', async () => {
  const child = spawn(process.execPath, [command, 'generate', '--model', tinyModel, '--prompt', 'Once', '--ignore-eos', '--tp', '2'], { stdio: 'pipe' })
  let stderr = ''
  child.stderr.on('data', (data: Buffer) => { stderr += data.toString() })
  child.stdout.once('data', () => child.stdout.destroy())
  const code = await new Promise((resolve) => child.on('close', resolve))
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
})

describe('wrong usage: exit code 2, stdout empty', () => {
  test.each<[string, string[], RegExp]>([
    ['no command', [], /expected a command/],
    ['an unknown command', ['frob'], /no command "frob"/],
    ['a command of JavaScript', ['constructor'], /no command "constructor"/],
    ['no model', ['generate', '--prompt', 'x'], /--model NAME is missing/],
    ['no prompt', ['generate', '--model', tinyModel], /one of --prompt TEXT and --messages FILE/],
    ['prompt and messages', ['generate', '--model', tinyModel, '--prompt', 'x', '--messages', 'y'], /one of/],
    ['an unknown option', ['chat', '--model', tinyModel, '--frob'], /--frob/],
    ['an option without its value', ['generate', '--model'], /--model/],
    ['a value with a dash', ['generate', '--model', tinyModel, '--prompt', '-x'], /--prompt.* ambiguous: .* as --prompt=-XYZ/],
    ['a positional argument', ['generate', 'hello'], /hello/],
    ['a size that is no number', ['chat', '--model', tinyModel, '--tp', 'two'], /--tp expects a number, got "two"/],
    ['size 0', ['chat', '--model', tinyModel, '--tp', '0'], /--tp/],
    [
      'a temperature that is none',
      ['generate', '--model', tinyModel, '--prompt', 'x', '--temperature', 'hot'],
      /--temperature expects a number/
    ],
    ['an unknown device', ['info', '--device', 'tpu'], /--device expects auto, cpu, cuda/],
    ['several answers in a chat', ['chat', '--model', tinyModel, '--n', '2'], /--n is no option here: a chat has one answer/],
    ['what only a model has, without one', ['info', '--strict'], /strict is said of a model, and --model NAME is missing/],
    ['devices that are no numbers', ['info', '--devices', '0,x'], /--devices expects numbers such as 0,1, got "0,x"/],
    ['an unknown communicator', ['info', '--communicator', 'mpi'], /--communicator expects auto, local, nccl/],
    ['an unknown dtype', ['chat', '--model', tinyModel, '--dtype', 'int4'], /--dtype expects/]
  ])('%s', async (_, args, pattern) => {
    const { code, stdout, stderr } = await heddle(args)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(pattern)
    expect(stderr.trimEnd().split('\n')).toEqual([expect.stringMatching(/^heddle: /), expect.stringMatching(/^hint: /)])
  })
})

describe('errors: exit code 1, one line and a hint on stderr, stdout empty', () => {
  test('what a model folder says cannot drive the terminal', async () => {
    const [config, template] = ['\u001b[31m\u0007\u009b2J\u202e', "{{ raise_exception('no \u001b]0;title\u0007') }}"]
    const escaped = '\\u001b[31m\\u0007\\u009b2J\\u202e'
    await withCopy(golden('llama'), (copy) => editJson(`${copy}/config.json`, (json) => Object.assign(json, { model_type: config })), async (copy) => {
      const { code, stderr } = await heddle(['info', '--model', copy])
      expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining(`model_type ${escaped} is not supported`) })
    })
    await withCopy(tinyModel, (copy) => writeFile(`${copy}/chat_template.jinja`, template), async (copy) => {
      const { code, stderr } = await heddle(['generate', '--model', copy, '--messages', '/dev/stdin'], question)
      expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining('no \\u001b]0;title\\u0007\n') })
    })
    await withCopy(tinyModel, (copy) => editJson(`${copy}/generation_config.json`, (json) => Object.assign(json, { [config]: 1 })), async (copy) => {
      const { code, stderr } = await heddle(['info', '--model', copy])
      expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringMatching(/^heddle: warning: .*may change the text: /) })
      expect(stderr).toContain(escaped)
    })
  })

  test.each<[string, string[], RegExp, string?]>([
    ['no such folder', ['generate', '--model', './none', '--prompt', 'x', '--json'], /\[invalid_argument\].*none/],
    ['a model that is neither a folder nor on a hub that answers', ['plan', '--model', 'org/none'], /hub cannot be reached[^]*hint: a model folder works without the hub/],
    ['a size that exceeds the heads', ['generate', '--model', tinyModel, '--prompt', 'x', '--tp', '9', '--json'], /valid sizes: 1, 2, 3, 4, 5, 6, 7, 8/],
    ['text for a model without a tokenizer', ['generate', '--model', golden('qwen3'), '--prompt', 'x', '--json'], /no tokenizer/],
    ['a chat with a model without a tokenizer', ['chat', '--model', golden('qwen3')], /tokenizer/],
    ['an empty prompt', ['generate', '--model', tinyModel, '--prompt', '', '--json'], /at least one token/],
    ['messages that are no JSON', ['generate', '--model', tinyModel, '--messages', '/dev/stdin', '--json'], /not JSON/, 'hello'],
    ['messages that are no list', ['generate', '--model', tinyModel, '--messages', '/dev/stdin', '--json'], /a list of at least one/, '{}'],
    ['no such messages file', ['generate', '--model', tinyModel, '--messages', 'none.json', '--json'], /none\.json/],
    ['a temperature out of range', ['generate', '--model', tinyModel, '--prompt', 'x', '--temperature=-1', '--json'], /temperature/],
    ['a GPU for one rank of two', ['info', '--tp', '2', '--devices', '0'], /\[invalid_argument\].*for each of 2 ranks/],
    ['NCCL without GPUs', ['info', '--device', 'cpu', '--communicator', 'nccl'], /\[invalid_argument\].*nccl.*use 'local'/],
    [
      'a device that is not there',
      ['generate', '--model', tinyModel, '--prompt', 'x', '--device', 'cuda', '--json'],
      /\[unavailable\].*cuda/
    ]
  ])('%s', async (_, args, pattern, ...[input]) => {
    const { code, stdout, stderr } = await heddle(args, input)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(pattern)
    expect(stderr.trimEnd().split('\n')).toEqual([expect.stringMatching(/^heddle: /), expect.stringMatching(/^hint: /)])
  })
})
