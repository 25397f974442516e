// Bad folders, files, options and prompts: a HeddleError with a code and a text that says what is wrong, and the process goes on.
import { copyFile, open, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { AutoModelForCausalLM } from '../../lib/causal-lm'
import type { CausalLM } from '../../lib/causal-lm'
import { HeddleError } from '../../lib/errors'
import type { PretrainedOptions } from '../../lib/generation/load-model'
import { editJson, golden, tinyModel, withCopy, withModel } from '../support/models'
import { filled, readSafetensors, writeSafetensors } from '../support/safetensors-file'

const failure = (code: string, pattern: RegExp) =>
  expect.objectContaining({ name: 'HeddleError', code, message: expect.stringMatching(pattern) })

const load = (folder: string, options: PretrainedOptions = {}) => AutoModelForCausalLM.fromPretrained(folder, options)

async function expectLoadFails(
  code: string,
  pattern: RegExp,
  change: (folder: string) => Promise<void>,
  { of = 'qwen3', ...options }: PretrainedOptions & { of?: string } = {}
) {
  await withCopy(golden(of), change, async (folder) => {
    await expect(load(folder, options)).rejects.toEqual(failure(code, pattern))
  })
}

/** Rewrites the header of model.safetensors, its data left as it is. */
async function editHeader(folder: string, edit: (json: string) => string): Promise<void> {
  const file = path.join(folder, 'model.safetensors')
  const bytes = await readFile(file)
  const end = 8 + Number(bytes.readBigUInt64LE())
  const header = Buffer.from(edit(bytes.subarray(8, end).toString()))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  await writeFile(file, Buffer.concat([length, header, bytes.subarray(end)]))
}

describe('sizes', () => {
  test('one that exceeds the heads, or with `strict` does not divide them: refused with the valid sizes, before any weight file is opened', async () => {
    await withCopy(
      golden('qwen3'),
      (folder) => rm(path.join(folder, 'model.safetensors')),
      async (folder) => {
        const error = await load(folder, { tpSize: 3, strict: true }).catch((thrown: unknown) => thrown)
        expect(error).toEqual(failure('invalid_argument', /headCount 8 is not divisible by tpSize 3; valid sizes: 1, 2, 4, 8$/))
        expect((error as HeddleError).details).toEqual({ dim: 'headCount', value: 8, tpSize: 3, validSizes: [1, 2, 4, 8] })
        const most = await load(folder, { tpSize: 9 }).catch((thrown: unknown) => thrown)
        expect(most).toEqual(failure('invalid_argument', /headCount 8 is less than tpSize 9; valid sizes: 1, 2, 3, 4, 5, 6, 7, 8$/))
        expect((most as HeddleError).details).toEqual({ dim: 'headCount', value: 8, tpSize: 9, validSizes: [1, 2, 3, 4, 5, 6, 7, 8] })
      }
    )
  })

  test('with `strict`, a mixture of experts: one that does not divide their width, or exceeds their number', async () => {
    const options = { tpSize: 8, strict: true }
    const narrow = (folder: string) => editJson(path.join(folder, 'config.json'), (config) => (config.moe_intermediate_size = 12))
    const pattern = /expertWidth 12 is not divisible by tpSize 8; valid sizes: 1, 2, 4$/
    await expectLoadFails('invalid_argument', pattern, async (folder) => void (await narrow(folder)), { of: 'qwen3-moe', ...options })
    const few = (folder: string) => editJson(path.join(folder, 'config.json'), (config) => (config.num_local_experts = 4))
    const tooFew = /expertCount 4 is less than tpSize 8; valid sizes: 1, 2, 4$/
    await expectLoadFails('invalid_argument', tooFew, async (folder) => void (await few(folder)), { of: 'qwen3-moe', ...options, expertParallel: true })
    await expect(load(golden('qwen3-moe'), { expertParallel: 1 as never })).rejects.toEqual(failure('invalid_argument', /expertParallel/))
  })

  test('with `strict`, one that does not divide the width of the MLP', async () => {
    await withCopy(
      golden('qwen3'),
      (folder) =>
        editJson(path.join(folder, 'config.json'), (config) => {
          config.intermediate_size = 100
        }),
      async (folder) => {
        const error = await load(folder, { tpSize: 8, strict: true }).catch((thrown: unknown) => thrown)
        expect(error).toEqual(failure('invalid_argument', /intermediateSize 100 is not divisible by tpSize 8; valid sizes: 1, 2, 4$/))
        expect((error as HeddleError).details).toEqual({ dim: 'intermediateSize', value: 100, tpSize: 8, validSizes: [1, 2, 4] })
      }
    )
  })
})

describe('options', () => {
  test.each<[string, Record<string, unknown>, string, RegExp]>([
    ['tpSize 0', { tpSize: 0 }, 'invalid_argument', /tpSize/],
    ['tpSize 1.5', { tpSize: 1.5 }, 'invalid_argument', /tpSize/],
    ['tpSize "2"', { tpSize: '2' }, 'invalid_argument', /tpSize/],
    ['tpSize 65', { tpSize: 65 }, 'invalid_argument', /tpSize/],
    ['strict that is none', { strict: 1 }, 'invalid_argument', /strict/],
    ['an unknown plan', { tpPlan: 'rowwise' }, 'invalid_argument', /tpPlan/],
    ['a plan by module', { tpPlan: { 'model.layers.*.mlp': 'rowwise' } }, 'unavailable', /tpPlan/],
    ['an unknown dtype', { dtype: 'int8' }, 'invalid_argument', /dtype/],
    ['a misspelled option', { tp_size: 2 }, 'invalid_argument', /tp_size/],
    ['maxTokens 0', { maxTokens: 0 }, 'invalid_argument', /maxTokens/],
    ['a signal that is none', { signal: 1 }, 'invalid_argument', /signal/],
    ['onProgress that is none', { onProgress: 1 }, 'invalid_argument', /onProgress/],
    ['an unknown device', { device: 'tpu' }, 'invalid_argument', /device/],
    ['a revision that is none, of a folder too', { revision: 5 }, 'invalid_argument', /revision: expected a branch, a tag or a commit, got 5/],
    ['an empty revision', { revision: '' }, 'invalid_argument', /revision/],
    ['options that are none', null as never, 'invalid_argument', /options/],
    ['a list of options', [] as never, 'invalid_argument', /options: expected an object, got an empty array/]
  ])('%s', async (_, options, code, pattern) => {
    await expect(load(golden('qwen3'), options as PretrainedOptions)).rejects.toEqual(failure(code, pattern))
  })

  test('no folder', async () => {
    await expect(load(golden('none'))).rejects.toEqual(failure('invalid_argument', /model folder.*none/))
    await expect(load('')).rejects.toEqual(failure('invalid_argument', /model folder/))
    await expect(load(undefined as never)).rejects.toEqual(failure('invalid_argument', /model folder/))
  })
})

describe('files', () => {
  test('an unknown architecture is named', () =>
    expectLoadFails('unsupported_model', /MambaForCausalLM.*supported: LlamaForCausalLM/, (folder) =>
      editJson(path.join(folder, 'config.json'), (config) =>
        Object.assign(config, { model_type: 'mamba', architectures: ['MambaForCausalLM'] })
      )
    ))

  test('a missing config.json, and one that is cut', async () => {
    await expectLoadFails('corrupt_file', /config\.json is missing/, (folder) => rm(path.join(folder, 'config.json')))
    await expectLoadFails('corrupt_file', /config\.json: not valid JSON/, (folder) => truncate(path.join(folder, 'config.json'), 100))
  })

  test('missing weights, a missing shard', async () => {
    await expectLoadFails('corrupt_file', /neither model\.safetensors nor/, (folder) => rm(path.join(folder, 'model.safetensors')))
    await expectLoadFails(
      'corrupt_file',
      /model-00003-of-00007\.safetensors/,
      (folder) => rm(path.join(folder, 'model-00003-of-00007.safetensors')),
      { of: 'qwen3-tied-sharded' }
    )
  })

  test('a truncated shard', async () => {
    await expectLoadFails(
      'corrupt_file',
      /model-00003.*tensor ".*ends at byte/,
      (folder) => truncate(path.join(folder, 'model-00003-of-00007.safetensors'), 150000),
      { of: 'qwen3-tied-sharded' }
    )
    await expectLoadFails('corrupt_file', /truncated/, (folder) => truncate(path.join(folder, 'model.safetensors'), 500))
    await expectLoadFails('corrupt_file', /truncated/, (folder) => truncate(path.join(folder, 'model.safetensors'), 3))
  })

  test.each(['model.safetensors', 'config.json', 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json'])('%s as Git LFS leaves it where it was not asked for content', (file) =>
    withCopy(tinyModel, (folder) => writeFile(path.join(folder, file), `version https://git-lfs.github.com/spec/v1\noid sha256:${'a'.repeat(64)}\nsize 12345\n`), (folder) =>
      expect(load(folder)).rejects.toEqual(failure('corrupt_file', new RegExp(`${file}: expected the file itself, got a pointer of Git LFS: git lfs pull`)))))

  test('a header that is too large', () =>
    expectLoadFails('corrupt_file', /header too large/, async (folder) => {
      const file = await open(path.join(folder, 'model.safetensors'), 'r+')
      const length = Buffer.alloc(8)
      length.writeBigUInt64LE(100_000_001n)
      await file.write(length, 0, 8, 0)
      await file.close()
    }))

  test('offsets that overlap, that leave the file, a length that does not fit', async () => {
    const firstOffsets = /"data_offsets":\[0,(\d+)\]/
    await expectLoadFails('corrupt_file', /overlaps/, (folder) =>
      editHeader(folder, (json) => json.replace(/("model\.norm\.weight":.*"data_offsets":)\[\d+,\d+\]/, '$1[0,256]'))
    )
    await expectLoadFails('corrupt_file', /data_offsets hold/, (folder) =>
      editHeader(folder, (json) => json.replace(firstOffsets, '"data_offsets":[0,8]'))
    )
    await expectLoadFails('corrupt_file', /data_offsets hold|the file at/, (folder) =>
      editHeader(folder, (json) => json.replace(firstOffsets, '"data_offsets":[0,9007199254740991]'))
    )
    await expectLoadFails('corrupt_file', /unknown dtype "F31"/, (folder) => editHeader(folder, (json) => json.replace('"F32"', '"F31"')))
  })

  test('a duplicate name', () =>
    expectLoadFails('corrupt_file', /"model\.norm\.weight" is a duplicate/, (folder) =>
      editHeader(folder, (json) => json.replace(/"model\.layers\.0\.input_layernorm\.weight"/, '"model.norm.weight"'))
    ))

  test('an index that leads out of the folder', () =>
    expectLoadFails(
      'corrupt_file',
      /inside the folder/,
      (folder) =>
        editJson(path.join(folder, 'model.safetensors.index.json'), (index) => {
          index.weight_map['model.norm.weight'] = '../../etc/passwd'
        }),
      { of: 'qwen3-tied-sharded' }
    ))

  test('a missing tensor, one of another shape, one of a dtype that is no weight', async () => {
    const rewrite = (change: (tensors: Record<string, ReturnType<typeof filled>>) => void) => async (folder: string) => {
      const file = path.join(folder, 'model.safetensors')
      const tensors = Object.fromEntries(await readSafetensors(file))
      change(tensors)
      await writeSafetensors(file, tensors)
    }
    const name = 'model.layers.1.self_attn.k_proj.weight'
    await expectLoadFails(
      'corrupt_file',
      /"model\.layers\.1\.self_attn\.k_proj\.weight" is missing/,
      rewrite((tensors) => {
        delete tensors[name]
      })
    )
    await expectLoadFails(
      'corrupt_file',
      /k_proj\.weight": expected shape \[64, 64\] by config\.json, got \[64, 32\]/,
      rewrite((tensors) => {
        tensors[name] = filled([64, 32])
      })
    )
    await expectLoadFails(
      'unsupported_model',
      /k_proj\.weight": expected dtype .*, got I32/,
      rewrite((tensors) => {
        tensors[name] = { ...filled([64, 64]), dtype: 'I32' }
      })
    )
  })

  test('a checkpoint larger than memory: refused before it is read', async () => {
    const [vocab, hidden] = [2 ** 24, 2 ** 17] // one table of 8 TiB, as a file that is almost all hole
    const shapes = {
      'model.norm.weight': [hidden],
      'model.layers.0.input_layernorm.weight': [hidden],
      'model.layers.0.post_attention_layernorm.weight': [hidden],
      'model.layers.0.self_attn.q_proj.weight': [4, hidden],
      'model.layers.0.self_attn.k_proj.weight': [4, hidden],
      'model.layers.0.self_attn.v_proj.weight': [4, hidden],
      'model.layers.0.self_attn.o_proj.weight': [hidden, 4],
      'model.layers.0.mlp.gate_proj.weight': [4, hidden],
      'model.layers.0.mlp.up_proj.weight': [4, hidden],
      'model.layers.0.mlp.down_proj.weight': [hidden, 4],
      'model.embed_tokens.weight': [vocab, hidden]
    }
    await expectLoadFails(
      'out_of_memory',
      /weights of \d+ MB.*fit into memory, got \d+ MB available/,
      async (folder) => {
        await editJson(path.join(folder, 'config.json'), (config) =>
          Object.assign(config, {
            hidden_size: hidden,
            vocab_size: vocab,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 2,
            head_dim: 2,
            intermediate_size: 4,
            tie_word_embeddings: true
          })
        )
        let offset = 0
        const header = Buffer.from(
          JSON.stringify(
            Object.fromEntries(
              Object.entries(shapes).map(([name, shape]) => {
                const begin = offset
                offset += shape.reduce((product, length) => product * length, 4)
                return [name, { dtype: 'F32', shape, data_offsets: [begin, offset] }]
              })
            )
          )
        )
        const length = Buffer.alloc(8)
        length.writeBigUInt64LE(BigInt(header.length))
        await writeFile(path.join(folder, 'model.safetensors'), Buffer.concat([length, header]))
        await truncate(path.join(folder, 'model.safetensors'), 8 + header.length + offset)
      },
      { of: 'llama', tpSize: 2 }
    )
  })

  test('a cache larger than memory', () =>
    expect(load(golden('qwen3'), { maxTokens: 2 ** 40 })).rejects.toEqual(failure('out_of_memory', /maxTokens 1099511627776/)))

  test('a tokenizer.json that is none', async () => {
    await withCopy(
      tinyModel,
      (folder) => truncate(path.join(folder, 'tokenizer.json'), 1000),
      (folder) => expect(load(folder)).rejects.toEqual(failure('corrupt_file', /tokenizer\.json/))
    )
  })

  test('a file that shrinks after its header was read is an error, not a crash', async () => {
    await withCopy(
      tinyModel,
      async () => {},
      async (folder) => {
        const file = path.join(folder, 'model.safetensors')
        let cut = false
        const onProgress = () => {
          if (cut) return
          cut = true
          void truncate(file, 100_000)
        }
        const outcome = await load(folder, { onProgress }).then(
          (model) => model.close(),
          (error: unknown) => error
        )
        expect(outcome === undefined || (outcome as HeddleError).code === 'corrupt_file').toBe(true)
        await copyFile(path.join(tinyModel, 'model.safetensors'), `${file}.new`)
        await rename(`${file}.new`, file)
        await withModel(folder, {}, async (model) =>
          expect((await model.generate([{ role: 'user', content: 'What is 1 + 2?' }])).text).toBe('1 + 2 = 3')
        )
      }
    )
  })
})

describe('prompts', () => {
  let tiny: CausalLM
  let bare: CausalLM
  beforeAll(async () => {
    tiny = await load(tinyModel, { tpSize: 2 })
    bare = await load(golden('qwen3'), { tpSize: 2 })
  })
  afterEach(async () => {
    // whatever was refused, the model goes on
    expect(tiny.info().cacheTokensUsed).toBe(0)
    expect((await tiny.generate([{ role: 'user', content: 'What is 387 + 456?' }])).text).toBe('387 + 456 = 843')
  })
  afterAll(async () => {
    await tiny.close()
    await bare.close()
  })

  const expectRefused = async (model: CausalLM, input: unknown, pattern: RegExp, options: object = {}): Promise<void> => {
    await expect(model.generate(input as never, options)).rejects.toEqual(failure('invalid_argument', pattern))
    await expect(model.stream(input as never, options).next()).rejects.toEqual(failure('invalid_argument', pattern))
  }

  test('text, messages and stop texts without a tokenizer; ids need none', async () => {
    await expectRefused(bare, 'Hello', /no tokenizer.*got a text/)
    await expectRefused(bare, [{ role: 'user', content: 'Hello' }], /no tokenizer.*got messages/)
    await expectRefused(bare, [1, 2], /no tokenizer.*got stop texts/, { stop: 'x' })
    expect((await bare.generate([1, 2], { maxNewTokens: 3, ignoreEos: true })).tokenIds).toHaveLength(3)
  })

  test.each<[string, unknown, RegExp]>([
    ['an empty text', '', /at least one token/],
    ['no ids', [], /at least one token/],
    ['nothing', undefined, /text, messages or token ids/],
    ['a number', 5, /text, messages or token ids/],
    ['an id outside the vocabulary', [1, 2048], /token 1: expected an id from 0 to 2047, got 2048/],
    ['a negative id', [-1], /token 0/],
    ['a fraction', [1.5], /token 0/],
    ['NaN', [NaN], /token 0/],
    ['texts among ids', ['a', 5], /token 0/],
    ['a message without content', [{ role: 'user' }], /content/],
    ['a wrong id in the second prompt', [[1], [2, -1]], /^(generate|stream): prompts\[1\]: token 1: expected an id/],
    ['an empty text in a batch', ['a', 'b', ''], /^(generate|stream): prompts\[2\]: expected at least one token/],
    ['a prompt of a batch that is longer than the context', [[1], new Array(1025).fill(7)], /prompts\[1\]: expected .*at most 1024 tokens.*1025/],
    ['a message among ids', [1, { role: 'user', content: 'x' }], /messages\[0\]/]
  ])('%s', (_, input, pattern) => expectRefused(tiny, input, pattern))

  test('a prompt longer than the context', async () => {
    await expectRefused(tiny, new Array(1025).fill(7), /at most 1024 tokens, the context, got 1025/)
    await expect(tiny.forward([new Array(1025).fill(7)])).rejects.toEqual(failure('invalid_argument', /at most 1024 tokens/))
  })

  test.each<[string, object, RegExp]>([
    ['NaN temperature', { temperature: NaN }, /temperature/],
    ['negative temperature', { temperature: -1 }, /temperature/],
    ['topP above 1', { topP: 1.5 }, /topP/],
    ['maxNewTokens 0', { maxNewTokens: 0 }, /maxNewTokens/],
    ['options that are none', 5 as never, /options/],
    ['a list of options', [] as never, /options/],
    ['a stop token outside the vocabulary', { stopTokenIds: [2, 2048] }, /stopTokenIds: expected ids from 0 to 2047, got 2048/],
    ['a negative stop token', { stopTokenIds: [-1] }, /stopTokenIds: expected ids from 0 to 2047, got -1/],
    ['an empty stop text', { stop: '' }, /stop/]
  ])('%s', (_, options, pattern) => expectRefused(tiny, 'Hello', pattern, options))

  test('forward: no rows, an empty row, foreign ids, unequal rows unless lastOnly', async () => {
    const refused = (ids: unknown, pattern: RegExp, options?: object) =>
      expect(tiny.forward(ids as never, options)).rejects.toEqual(failure('invalid_argument', pattern))
    await refused([], /at least one row/)
    await refused([1, 2], /row 0/)
    await refused([[]], /row 0: expected at least one token/)
    await refused([[1], [2048]], /row 1: token 0/)
    await refused([[1, 2], [3]], /rows of equal length, or lastOnly, got rows of 2, 1 tokens$/)
    await refused([[1]], /last_only/, { last_only: true })
    await refused([[1]], /forward: lastOnly: expected true or false/, { lastOnly: 1 })
    await refused([[1]], /forward: options: expected an object/, null as never)
    expect((await tiny.forward([[1, 2], [3]], { lastOnly: true })).shape).toEqual([2, 1, 2048])
  })

  test('use after close', async () => {
    const model = await load(golden('qwen3'))
    await model.close()
    await model.close()
    await expect(model.generate([1])).rejects.toEqual(failure('closed', /closed/))
    await expect(model.stream([1]).next()).rejects.toEqual(failure('closed', /closed/))
    await expect(model.forward([[1]])).rejects.toEqual(failure('closed', /closed/))
    expect(() => model.info()).toThrow(failure('closed', /closed/))
  })
})

test('a load that is aborted, before it and in the middle of it', async () => {
  await expect(load(tinyModel, { signal: AbortSignal.abort() })).rejects.toEqual(failure('aborted', /aborted/))
  const controller = new AbortController()
  let loaded = 0
  const onProgress = (): void => {
    if (++loaded === 5) controller.abort()
  }
  await expect(load(tinyModel, { tpSize: 2, signal: controller.signal, onProgress })).rejects.toEqual(failure('aborted', /aborted/))
  expect(loaded).toBeLessThanOrEqual(6)
})

test('an error thrown by onProgress comes out', () =>
  expect(
    load(tinyModel, {
      onProgress: () => {
        throw new Error('mine')
      }
    })
  ).rejects.toThrow('mine'))
