// A model as a user scripts it, of the public layers alone: its logits and the tokens of its own loop are those of the whole model.
import path from 'node:path'
import {
  KVCaches, oneSequence, openGroup, ParallelLMHead, Program, RMSNorm, RotaryEmbedding, TPAttention, TPMLP, VocabParallelEmbedding
} from '../../lib'
import type { Group, HostTensor, Layer, Value } from '../../lib'
import { golden, withModel } from '../support/models'
import { floats, readSafetensors } from '../support/safetensors-file'

const folder = golden('qwen3')
const hiddenSize = 64
const vocabSize = 320
const prompt = [5, 17, 300, 42, 9, 9, 61]
const newTokens = 20

async function scripted(group: Group): Promise<{ logits(x: Value): Value; embedding: VocabParallelEmbedding; head: ParallelLMHead; body(x: Value): Value }> {
  const tensors = await readSafetensors(path.join(folder, 'model.safetensors'))
  const tensor = (name: string): HostTensor => ({ data: floats(tensors.get(name)!), shape: tensors.get(name)!.shape })
  const loaded = async <T extends Layer>(layer: T, prefix: string): Promise<T> => {
    await layer.load(Object.fromEntries(layer.weights.map(({ name }) => [name, tensor(prefix + name)])))
    return layer
  }
  const rope = new RotaryEmbedding(group, 16, { theta: 1e6 })
  const embedding = await loaded(new VocabParallelEmbedding(group, vocabSize, hiddenSize), 'model.embed_tokens.')
  const blocks = await Promise.all([0, 1, 2].map(async (index) => {
    const prefix = `model.layers.${index}.`
    const attention = new TPAttention(group, { hiddenSize, headCount: 8, kvHeadCount: 4, headDim: 16, rope, queryKeyNorm: true })
    return {
      attentionNorm: await loaded(new RMSNorm(group, hiddenSize), `${prefix}input_layernorm.`),
      attention: await loaded(attention, `${prefix}self_attn.`),
      mlpNorm: await loaded(new RMSNorm(group, hiddenSize), `${prefix}post_attention_layernorm.`),
      mlp: await loaded(new TPMLP(group, { hiddenSize, intermediateSize: 160 }), `${prefix}mlp.`)
    }
  }))
  const norm = await loaded(new RMSNorm(group, hiddenSize), 'model.norm.')
  const head = await loaded(new ParallelLMHead(group, hiddenSize, vocabSize), 'lm_head.')
  const body = (x: Value): Value => {
    for (const { attentionNorm, attention, mlpNorm, mlp } of blocks) {
      const y = x.add(attention.forward(attentionNorm.forward(x)))
      x = y.add(mlp.forward(mlpNorm.forward(y)))
    }
    return norm.forward(x)
  }
  return { embedding, head, body, logits: (x) => head.forward(body(x)) }
}

test.each([1, 2, 3, 8])('over %i ranks', async (size) => {
  const expected = await withModel(folder, { dtype: 'float32' }, async (model) => ({
    logits: (await model.forward([prompt])).logits,
    tokenIds: (await model.generate(prompt, { maxNewTokens: newTokens, ignoreEos: true })).tokenIds
  }))
  const group = await openGroup({ size, device: 'cpu' })
  try {
    const { embedding, head, body, logits } = await scripted(group)
    const { data, shape } = await group.evaluate((g) => logits(embedding.forward(g.tokens(prompt))))
    expect(shape).toEqual([prompt.length, vocabSize])
    expect(data.reduce((most, value, i) => Math.max(most, Math.abs(value - expected.logits[i]!)), 0)).toBeLessThan(2e-5)

    const options = { maxTokens: 16, maxSequences: 1, caches: new KVCaches(group, 4) }
    using program = await Program.create(group, options, (g) => head.sample(body(embedding.forward(g.tokens())).lastRows()))
    const blocks = [2, 0]
    const found: number[] = []
    let { tokens } = await program.run(oneSequence(Int32Array.from(prompt), 0, blocks))
    for (let position = prompt.length; found.push(tokens[0]!) < newTokens; position++) ({ tokens } = await program.run(oneSequence(tokens, position, blocks)))
    expect(found).toEqual(expected.tokenIds)
  } finally {
    await group.close()
  }
})
