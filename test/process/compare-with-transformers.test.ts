// The comparison with transformers as its users run it. What needs transformers runs where bench/peers/install.sh has put it.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { editJson, golden, tinyModel, withCopy } from '../support/models'
import { publishedExpertPlan, publishedPlans } from '../support/published-plans'

const root = path.resolve(__dirname, '..', '..')
const peers = process.env.HEDDLE_PEERS ?? path.join(os.homedir(), '.cache', 'heddle-peers')
const withPeers = existsSync(path.join(peers, 'python', 'bin', 'python')) ? test : test.skip

const run = (script: string, args: string[], env: Record<string, string> = {}) =>
  spawnSync(process.execPath, [script, ...args], { cwd: root, encoding: 'utf8', env: { ...process.env, ...env } })
/** As the first test has compiled it. */
const compare = (...args: string[]) => run('build/bench/parity/main.js', args)

test('without transformers it names the command that installs it', () => {
  const empty = mkdtempSync(path.join(os.tmpdir(), 'heddle-no-peers-'))
  const { status, stderr } = run('scripts/compare-with-transformers.js', [tinyModel], { HEDDLE_PEERS: empty })
  rmSync(empty, { recursive: true })
  expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringMatching(/transformers: not found at .*; run bench\/peers\/install\.sh/) })
})

test('wrong usage is said', () => {
  expect(compare('--tp', '0', tinyModel)).toMatchObject({ status: 2, stderr: expect.stringContaining('--tp: expected a whole number from 1, got 0') })
})

withPeers('a model with a tokenizer, one without, and what is refused', async () => {
  const unknown = (copy: string) => editJson(`${copy}/config.json`, (json) => Object.assign(json, { hidden_act: 'mish' }))
  await withCopy(golden('llama'), unknown, async (copy) => {
    const { status, stdout, stderr } = compare(tinyModel, golden('gpt2'), copy, '--tp', '1,3', '--json', '--new-tokens', '8')
    expect({ status, stderr }).toMatchObject({ status: 0 })
    const { models } = JSON.parse(stdout)
    expect(models).toMatchObject([
      { modelType: 'qwen3', agrees: true, tokenizer: { differences: [], chats: 3 }, sizes: [{ size: 1 }, { size: 3 }] },
      { modelType: 'gpt2', agrees: true, sizes: [{ size: 1 }, { size: 3 }] },
      { agrees: true, refused: { code: 'unsupported_model', field: 'hidden_act' } },
    ])
    for (const { logits, answers } of models.slice(0, 2).flatMap((model: any) => model.sizes)) {
      expect(logits).toMatchObject({ most: expect.any(Number), sameArgmax: logits.positions })
      expect(logits.most).toBeGreaterThan(0) // two programs
      for (const answer of answers) expect(answer).toMatchObject({ tokens: 8, agreed: 8 })
    }
  })
})

withPeers('random checkpoints are the same for a seed, and agree', () => {
  const nine = () => JSON.parse(compare('--random', '9', '--seed', '5', '--tp', '1,2', '--json').stdout)
  const [first, again] = [nine(), nine()]
  expect(first.models.map(({ agrees }: any) => agrees)).toEqual(Array(9).fill(true))
  const facts = ({ models }: any) => models.map(({ fields, modelType, sizes }: any) => ({ fields, modelType, greatest: sizes[0]?.logits.greatest }))
  expect(facts(again)).toEqual(facts(first))
})

withPeers('the plans of transformers that unit tests compare with are those that it has', () => {
  const names = [...publishedPlans.map(([name]) => name), 'gpt2']
  const input = names.map((name) => JSON.stringify({ do: 'plan', folder: golden(name) })).join('\n')
  const python = path.join(peers, 'python', 'bin', 'python')
  const { stdout } = spawnSync(python, [path.join(root, 'bench/peers/transformers/reference.py')], { input, encoding: 'utf8' })
  const plans = stdout.trim().split('\n').map((line) => JSON.parse(line))
  expect(plans).toHaveLength(names.length)
  for (const [index, [, plan]] of publishedPlans.entries()) {
    const { base, head, experts } = plans[index]
    expect({ ...base, ...head }).toEqual(plan)
    if (experts) expect(experts).toEqual(publishedExpertPlan)
  }
  expect(plans.filter(({ experts }) => experts)).toHaveLength(2)
  expect(plans.at(-1).base).toBeNull() // as docs/plans.md says
})
