// Times node-llama-cpp for bench/cases/peers.ts: one JSON command a line on stdin, one JSON answer a line on stdout; the process stays,
// so that contenders can alternate. The package is found from HEDDLE_LLAMA_CPP, the folder that holds its node_modules.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { answerLines } from '../answer-lines.mjs'

const folder = process.env.HEDDLE_LLAMA_CPP ?? process.cwd()
const entry = createRequire(join(folder, 'package.json')).resolve('node-llama-cpp')
const { getLlama } = await import(pathToFileURL(entry).href)
const { version } = JSON.parse(readFileSync(join(folder, 'node_modules', 'node-llama-cpp', 'package.json'), 'utf8'))
const greedy = { temperature: 0, yieldEogToken: true }

class Contender {
  async load({ file, threads, contextSize }) {
    const llama = await getLlama({ build: 'never', skipDownload: true, gpu: false, maxThreads: threads, logLevel: 'error' })
    const model = await llama.loadModel({ modelPath: file, gpuLayers: 0 })
    // As many tokens a batch as the longest prompt: no contender is made to split its prefill.
    const threadCount = { ideal: threads, min: threads }
    const context = await model.createContext({ contextSize, batchSize: contextSize, threads: threadCount, sequences: 1 })
    this.sequence = context.getSequence()
    return { version, threads: context.currentThreads, systemInfo: llama.systemInfo }
  }

  // Time to the first token, and that token: proof that all contenders run the same model.
  async prefill({ ids }) {
    await this.sequence.clearHistory()
    const start = performance.now()
    const [first] = await this.#tokens(ids, 1)
    return { seconds: (first.at - start) / 1000, token: first.token }
  }

  async decode({ ids, skip, count }) {
    await this.sequence.clearHistory()
    const tokens = await this.#tokens(ids, skip + count + 1)
    return { secondsPerToken: (tokens[skip + count].at - tokens[skip].at) / 1000 / count }
  }

  async #tokens(ids, count) {
    const tokens = []
    for await (const token of this.sequence.evaluate(ids, greedy)) {
      if (tokens.push({ token, at: performance.now() }) === count) break
    }
    if (tokens.length < count) throw new Error(`evaluate: expected ${count} tokens, got ${tokens.length}`)
    return tokens
  }
}

await answerLines(new Contender())
