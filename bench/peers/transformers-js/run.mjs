// Times transformers.js for bench/cases/peers.ts: one JSON command a line on stdin, one JSON answer a line on stdout; the process stays, so that
// contenders can alternate. The package is found from HEDDLE_TRANSFORMERS_JS, the folder that holds its node_modules.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { answerLines } from '../answer-lines.mjs'

const folder = process.env.HEDDLE_TRANSFORMERS_JS ?? process.cwd()
const packageName = '@huggingface/transformers'
const entry = createRequire(join(folder, 'package.json')).resolve(packageName)
const { AutoModelForCausalLM, BaseStreamer, Tensor, env } = await import(pathToFileURL(entry).href)
const { version } = JSON.parse(readFileSync(join(folder, 'node_modules', packageName, 'package.json'), 'utf8'))

class Stamps extends BaseStreamer {
  tokens = []
  put([ids]) {
    this.tokens.push({ token: Number(ids.at(-1)), at: performance.now() })
  }
  end() {}
}

class Contender {
  async load({ folder: model, threads }) {
    env.allowRemoteModels = false
    env.localModelPath = dirname(model)
    const session_options = { intraOpNumThreads: threads, interOpNumThreads: 1 }
    this.model = await AutoModelForCausalLM.from_pretrained(basename(model), { dtype: 'fp32', device: 'cpu', local_files_only: true, session_options })
    return { version }
  }

  // Time to the first token, and that token: proof that all contenders run the same model.
  async prefill({ ids }) {
    const start = performance.now()
    const [first] = await this.#tokens(ids, 1)
    return { seconds: (first.at - start) / 1000, token: first.token }
  }

  async decode({ ids, skip, count }) {
    const tokens = await this.#tokens(ids, skip + count + 1)
    return { secondsPerToken: (tokens[skip + count].at - tokens[skip].at) / 1000 / count }
  }

  async #tokens(ids, count) {
    const streamer = new Stamps()
    const row = (values) => new Tensor('int64', BigInt64Array.from(values, BigInt), [1, ids.length])
    const inputs = { inputs: row(ids), attention_mask: row(ids.map(() => 1)) }
    await this.model.generate({ ...inputs, max_new_tokens: count, min_new_tokens: count, do_sample: false, streamer })
    const tokens = streamer.tokens.slice(1) // the first put is the prompt
    if (tokens.length !== count) throw new Error(`generate: expected ${count} tokens, got ${tokens.length}`)
    return tokens
  }
}

await answerLines(new Contender())
