// heddle-tiny over tensor-parallel CPU ranks: which rank holds what, a few questions whose answers can be checked, and the proof that one
// rank and two give the same tokens. `npm run demo` sets everything up and runs this. Exits 1 if an answer is wrong.
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { AutoModelForCausalLM } from 'heddle'

const folder = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'models', 'heddle-tiny')
const turns = [
  { question: 'What is 387 + 456?', answer: '387 + 456 = 843' },
  { question: 'Sort these numbers: 42 7 99 13 56', answer: '7 13 42 56 99' },
  {
    question: 'What is tensor parallelism?',
    answer:
      'Tensor parallelism splits each weight matrix of a layer over several GPUs. ' +
      'Every GPU multiplies with its own part, and one all-reduce adds the partial results together.'
  }
]
let failures = 0

const bytes = (value) => `${Math.round(value).toLocaleString('en-US')} bytes`

function check(what, holds) {
  console.log(`  ${holds ? 'ok    ' : 'WRONG '} ${what}`)
  if (!holds) failures++
}

/** What the weights must take by config.json alone: matrices in bfloat16; in float32 the small vectors, of which every rank has all. */
function expectedBytes({ hiddenSize, headCount, kvHeadCount, headDim, intermediateSize, vocabSize, layerCount }) {
  const [bfloat16, float32] = [2, 4]
  const attention = (2 * headCount + 2 * kvHeadCount) * headDim * hiddenSize // queries and output, keys and values
  const mlp = 3 * hiddenSize * intermediateSize // gate, up, down
  const replicated = {
    norms: (2 * layerCount + 1) * hiddenSize * float32, // two in a layer, one at the end
    queryKeyNorms: 2 * layerCount * headDim * float32,
    rotaryTable: (headDim / 2) * float32
  }
  replicated.sum = replicated.norms + replicated.queryKeyNorms + replicated.rotaryTable
  const matrices = (vocabSize * hiddenSize + layerCount * (attention + mlp)) * bfloat16 // the head shares the embedding's table
  return { replicated, total: matrices + replicated.sum }
}

/** Asks the questions as one conversation and prints each answer while it comes. */
async function chat(model) {
  const messages = []
  const tokenIds = []
  let seconds = 0 // from the first token of an answer to its last
  let decoded = 0
  for (const { question, answer } of turns) {
    messages.push({ role: 'user', content: question })
    process.stdout.write(`\n> ${question}\n  `)
    let text = ''
    let firstAt
    for await (const piece of model.stream(messages)) {
      if (firstAt === undefined) firstAt = performance.now()
      else decoded += piece.tokenIds.length
      process.stdout.write(piece.text)
      text += piece.text
      tokenIds.push(...piece.tokenIds)
    }
    seconds += (performance.now() - firstAt) / 1000
    process.stdout.write('\n')
    check(text === answer ? 'as expected' : `expected ${JSON.stringify(answer)}`, text === answer)
    messages.push({ role: 'assistant', content: text })
  }
  console.log(`\n${(decoded / seconds).toFixed(0)} tokens/s`)
  return tokenIds
}

console.log('heddle-tiny: 5.2 million parameters, Qwen3 architecture, bfloat16 weights, float32 compute\n')
const whole = await AutoModelForCausalLM.fromPretrained(folder, { tpSize: 1, dtype: 'float32' })
const split = await AutoModelForCausalLM.fromPretrained(folder, { tpSize: 2, dtype: 'float32' })

const { replicated, total } = expectedBytes(whole.config)
const [single] = whole.info().ranks
const { ranks, device } = split.info()
console.log(`one rank holds the whole model: ${bytes(single.weightBytes)}`)
check('as config.json says', single.weightBytes === total)
console.log(`two ranks (${device}) hold half of every matrix each, and what is small and float32 twice: ${bytes(replicated.sum)} =`)
console.log(`  norms ${replicated.norms} + query and key norms ${replicated.queryKeyNorms} + rotary table ${replicated.rotaryTable}`)
const share = (total - replicated.sum) / ranks.length
for (const { rank, weightBytes, cacheBytes, device: name } of ranks) {
  console.log(`  rank ${rank} on ${name}: ${bytes(weightBytes)}; KV cache ${bytes(cacheBytes)}`)
  check(`${bytes(share)} of its own + ${bytes(replicated.sum)} replicated`, weightBytes === share + replicated.sum)
}

console.log('\nThe conversation, over two ranks:')
const tokens = await chat(split)

console.log('\nThe same conversation on one rank:')
const messages = []
const alone = []
for (const { question } of turns) {
  messages.push({ role: 'user', content: question })
  const { text, tokenIds } = await whole.generate(messages)
  alone.push(...tokenIds)
  messages.push({ role: 'assistant', content: text })
}
check('one rank and two ranks gave the same tokens', alone.join() === tokens.join())
await Promise.all([whole.close(), split.close()])

console.log(failures === 0 ? '\nEverything as expected.' : `\n${failures} checks failed.`)
if (failures > 0) process.exitCode = 1
