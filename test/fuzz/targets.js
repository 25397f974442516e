'use strict'
// What untrusted files meet, one target each: takes a source of random numbers, damages a file of its corpus and reads it.
// Rule: a target throws nothing but HeddleError; what it returns says that the damaged file was taken.
const fs = require('node:fs')
const path = require('node:path')
const { mutateJson, mutateSafetensors, pick } = require('./mutate.js')

const root = path.resolve(__dirname, '..', '..')
const dist = (file) => require(path.join(root, 'dist', file))
const golden = path.join(root, 'test', 'golden')
const cases = fs.readdirSync(golden).filter((name) => fs.existsSync(path.join(golden, name, 'config.json')))

const read = (...parts) => fs.readFileSync(path.join(golden, ...parts))
const texts = (file) => cases.filter((name) => fs.existsSync(path.join(golden, name, file))).map((name) => read(name, file).toString())

/** One folder of links to a case, whose mutated files are written anew each time. */
class Workshop {
  constructor(folder) {
    this.folder = folder
  }

  copy(name) {
    const folder = path.join(this.folder, name)
    if (fs.existsSync(folder)) return folder
    fs.mkdirSync(folder, { recursive: true })
    for (const file of fs.readdirSync(path.join(golden, name))) fs.symlinkSync(path.join(golden, name, file), path.join(folder, file))
    return folder
  }

  /** Runs `body` while one file of the folder is another. */
  async with(folder, file, content, body) {
    const target = path.join(folder, file)
    const link = fs.readlinkSync(target)
    fs.rmSync(target)
    fs.writeFileSync(target, content)
    try {
      return await body()
    } finally {
      fs.rmSync(target)
      fs.symlinkSync(link, target)
    }
  }
}

function makeTargets(folder) {
  const workshop = new Workshop(folder)
  const { parseSafetensorsHeader } = dist('models/safetensors.js')
  const { parseModelConfig } = dist('models/config.js')
  const { ConfigFields } = dist('models/config-fields.js')
  const { parseStrictJsonObject } = dist('models/strict-json.js')
  const { readGenerationConfig } = dist('models/generation-config.js')
  const { Checkpoint } = dist('models/checkpoint.js')
  const { AutoTokenizer } = dist('tokenizer/tokenizer.js')
  const { AutoModelForCausalLM } = dist('causal-lm.js')

  const single = cases.filter((name) => fs.existsSync(path.join(golden, name, 'model.safetensors')))
  const sharded = cases.filter((name) => fs.existsSync(path.join(golden, name, 'model.safetensors.index.json')))
  const weights = single.map((name) => read(name, 'model.safetensors'))
  const configs = texts('config.json')
  const tokenizers = JSON.parse(fs.readFileSync(path.join(__dirname, 'tokenizers.json'), 'utf8'))
  const empty = path.join(folder, 'tokenizer')
  fs.mkdirSync(empty, { recursive: true })

  const everyField = {
    eos_token_id: [1, 2], do_sample: true, temperature: 0.6, top_k: 20, top_p: 0.95, min_p: 0.1, repetition_penalty: 1.05, max_new_tokens: 20, max_length: 40,
    min_new_tokens: 1, min_length: 4, stop_strings: ['a', 'b'], sequence_bias: [[[5], -2.5], [[6, 7], 3]], suppress_tokens: [7, -1, 100], bad_words_ids: [[8], [8, 9]],
    begin_suppress_tokens: [9], forced_eos_token_id: 2, no_repeat_ngram_size: 3, num_beams: 4, typical_p: 0.9
  }

  return {
    async header(random) {
      const { start, dataBytes } = mutateSafetensors(random, pick(random, weights))
      const headerBytes = start.length < 8 ? start : start.subarray(8)
      if (start.length < 8 || Number(start.readBigUInt64LE(0)) !== headerBytes.length) return readFileTarget(start, dataBytes)
      return parseSafetensorsHeader(headerBytes, 'fuzz.safetensors', start.length + dataBytes)
    },

    async config(random) {
      const bytes = mutateJson(random, pick(random, configs))
      return parseModelConfig(new ConfigFields(parseStrictJsonObject(bytes, 'config.json'), 'config.json'))
    },

    async generation(random) {
      const copy = workshop.copy(pick(random, cases))
      const source = pick(random, [fs.readFileSync(path.join(copy, 'generation_config.json'), 'utf8'), JSON.stringify(everyField)])
      return workshop.with(copy, 'generation_config.json', mutateJson(random, source), () => readGenerationConfig(copy, 320))
    },

    async index(random) {
      const copy = workshop.copy(pick(random, sharded))
      const bytes = mutateJson(random, fs.readFileSync(path.join(copy, 'model.safetensors.index.json'), 'utf8'))
      return workshop.with(copy, 'model.safetensors.index.json', bytes, () => Checkpoint.open(copy))
    },

    async tokenizer(random) {
      const files = structuredClone(pick(random, tokenizers))
      const damaged = random(4) === 0 ? 'tokenizer_config.json' : 'tokenizer.json'
      fs.writeFileSync(path.join(empty, 'tokenizer.json'), JSON.stringify(files.tokenizer))
      fs.writeFileSync(path.join(empty, 'tokenizer_config.json'), JSON.stringify(files.config))
      fs.writeFileSync(path.join(empty, damaged), mutateJson(random, fs.readFileSync(path.join(empty, damaged), 'utf8')))
      const tokenizer = await AutoTokenizer.fromPretrained(empty)
      const ids = tokenizer.encode('the loom, a 12 thread\u00e9 ')
      if (!ids.every((id) => Number.isInteger(id) && id >= 0)) throw new Error(`ids that are none: ${ids}`)
      return tokenizer.decode(ids)
    },

    // the whole way: through the addon onto ranks, and a step with whatever was loaded
    async model(random) {
      const name = pick(random, single)
      const copy = workshop.copy(name)
      const inConfig = random(2) === 0
      const file = inConfig ? 'config.json' : 'model.safetensors'
      const original = fs.readFileSync(path.join(golden, name, file))
      const { start, dataBytes } = inConfig ? { start: mutateJson(random, original.toString()), dataBytes: 0 } : mutateSafetensors(random, original)
      const content = inConfig ? start : Buffer.concat([start, original.subarray(original.length - Math.min(dataBytes, original.length))])
      return workshop.with(copy, file, content, async () => {
        const model = await AutoModelForCausalLM.fromPretrained(copy, { tpSize: 1 + random(2), device: 'cpu', maxTokens: 32 })
        try {
          return (await model.generate([1, 2, 3], { maxNewTokens: 2, ignoreEos: true })).tokenIds
        } finally {
          await model.close()
        }
      })
    }
  }

  // a header whose length is a lie is for the part that reads the file
  async function readFileTarget(start, dataBytes) {
    const file = path.join(folder, 'lie.safetensors')
    fs.writeFileSync(file, start)
    fs.truncateSync(file, Math.min(start.length + dataBytes, 2 ** 24))
    return dist('models/safetensors.js').readSafetensorsHeader(file)
  }
}

module.exports = { makeTargets }
