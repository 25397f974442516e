// Models by name: what is fetched from the hub, what is kept, and what happens when the hub, the network or the disk misbehave.
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { AutoModelForCausalLM } from '../../lib/causal-lm'
import type { HubEnvironment } from '../../lib/hub/environment'
import { isHubName, modelFolder } from '../../lib/hub/fetch-model'
import type { DownloadProgress } from '../../lib/hub/download-progress'
import type { FetchModelOptions } from '../../lib/hub/fetch-model'
import { HubAnswer } from '../../lib/hub/hub-fetch'
import { AutoTokenizer } from '../../lib/tokenizer/tokenizer'
import { defaultCommit, gitHash, HubServer, sendContent, sha256 } from '../support/hub-server'
import type { Fault, HubModel } from '../support/hub-server'
import { golden, tinyModel } from '../support/models'

let cache = ''
let hub: HubServer
beforeEach(async () => {
  cache = await mkdtemp(path.join(os.tmpdir(), 'heddle-hub-'))
  hub = await HubServer.start()
})
afterEach(async () => {
  await hub[Symbol.asyncDispose]()
  await rm(cache, { recursive: true })
})

const environment = (more: Partial<HubEnvironment> = {}): HubEnvironment => ({ endpoint: hub.endpoint, cacheFolder: cache, offline: false, ...more })
const fetchModel = (options: Partial<FetchModelOptions> = {}, name = 'org/model'): Promise<string> =>
  modelFolder(name, { environment: environment(), retryMilliseconds: 1, ...options })
const weights = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 31 + (i >> 8)) & 255))
const small: HubModel = { files: { 'config.json': '{"a": 1}', 'README.md': 'not needed', 'tokenizer.json': '{}', 'model.safetensors': weights } }
const weightBlob = (): string => path.join(cache, 'models--org--model/blobs', sha256(weights))

/** Lets `count` requests for the weights fail. */
function failing(count: number, act: Fault): Fault {
  let left = count
  return (request, response, content) => request.server === 'storage' && left-- > 0 && act(request, response, content)
}

const breakOff: Fault = ({ range }, response, content) => {
  const start = Number(/^bytes=(\d+)/.exec(range ?? '')?.[1] ?? 0)
  response.writeHead(range ? 206 : 200, { 'content-length': content!.length - start, 'content-range': `bytes ${start}-${content!.length - 1}/${content!.length}` })
  response.write(content!.subarray(start, start + 70_000), () => response.destroy())
  return true
}

describe('a model of the hub', () => {
  test('loads, from names alone, and answers as its folder does', async () => {
    const names = await readdir(tinyModel)
    const files = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await readFile(path.join(tinyModel, name))] as const)))
    hub.models.set('heddle/tiny', { files })
    const variables = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cache, HF_HUB_OFFLINE: '0' }
    const before = { ...process.env }
    Object.assign(process.env, variables)
    try {
      const phases = new Set<string>()
      await using model = await AutoModelForCausalLM.fromPretrained('heddle/tiny', { tpSize: 2, device: 'cpu', onProgress: ({ phase }) => phases.add(phase) })
      await using local = await AutoModelForCausalLM.fromPretrained(tinyModel, { device: 'cpu' })
      const messages = [{ role: 'user', content: 'Sort these numbers: 42 7 99 13 56' }]
      expect((await model.generate(messages)).text).toBe((await local.generate(messages)).text)
      expect([...phases]).toEqual(['download', 'load'])
      expect((await AutoTokenizer.fromPretrained('heddle/tiny')).encode('hello')).toEqual(local.tokenizer!.encode('hello'))
    } finally {
      process.env = before
    }
  })

  test('is laid out as the libraries of Hugging Face expect it, without what is not needed', async () => {
    hub.models.set('org/model', small)
    const folder = await fetchModel()
    const root = path.join(cache, 'models--org--model')
    expect(folder).toBe(path.join(root, 'snapshots', defaultCommit))
    expect(await readFile(path.join(root, 'refs/main'), 'utf8')).toBe(defaultCommit)
    expect((await readdir(folder)).sort()).toEqual(['config.json', 'model.safetensors', 'tokenizer.json'])
    expect(await readlink(path.join(folder, 'model.safetensors'))).toBe(`../../blobs/${sha256(weights)}`)
    expect((await readdir(path.join(root, 'blobs'))).sort()).toEqual(
      [gitHash(Buffer.from('{"a": 1}')), gitHash(Buffer.from('{}')), sha256(weights)].sort())
    expect(sha256(await readFile(path.join(folder, 'model.safetensors')))).toBe(sha256(weights))
  })

  test('with an index brings the files that it names', async () => {
    const index = JSON.stringify({ weight_map: { a: 'model-1.safetensors', b: 'model-2.safetensors', c: 'model-1.safetensors' } })
    hub.models.set('org/model', { files: { ...small.files, 'model.safetensors.index.json': index, 'model-1.safetensors': weights, 'model-2.safetensors': 'x', 'model-3.safetensors': 'y' } })
    delete hub.models.get('org/model')!.files['model.safetensors']
    const folder = await fetchModel()
    expect((await readdir(folder)).sort()).toEqual(['config.json', 'model-1.safetensors', 'model-2.safetensors', 'model.safetensors.index.json', 'tokenizer.json'])
  })

  test('is not fetched again: a second call asks only whether the branch moved, a commit asks nothing', async () => {
    hub.models.set('org/model', small)
    await fetchModel()
    hub.requests.length = 0
    const folder = await fetchModel()
    expect(hub.requests.filter(({ path }) => path.includes('/resolve/'))).toEqual([])
    hub.requests.length = 0
    expect(await fetchModel({ revision: defaultCommit })).toBe(folder)
    expect(hub.requests).toEqual([])
  })

  test('that moved on brings only what changed', async () => {
    hub.models.set('org/model', small)
    await fetchModel()
    hub.models.set('org/model', { commit: 'd'.repeat(40), files: { ...small.files, 'config.json': '{"a": 2}' } })
    hub.requests.length = 0
    const folder = await fetchModel()
    expect(await readFile(path.join(folder, 'config.json'), 'utf8')).toBe('{"a": 2}')
    expect(hub.reads('model.safetensors')).toEqual([])
  })

  test('tells its progress up to all of its bytes', async () => {
    hub.models.set('org/model', small)
    const seen: DownloadProgress[] = []
    await fetchModel({ onProgress: (progress) => seen.push(progress) })
    const total = weights.length + '{"a": 1}{}'.length
    expect(seen.at(-1)).toMatchObject({ phase: 'download', loadedBytes: total, totalBytes: total, secondsLeft: 0, file: 'org/model/model.safetensors' })
    expect(seen.every(({ loadedBytes, totalBytes, bytesPerSecond }) => loadedBytes <= totalBytes && bytesPerSecond >= 0)).toBe(true)
  })

  test('what the cache holds counts from the beginning, whole files and parts', async () => {
    hub.models.set('org/model', small)
    await mkdir(path.dirname(weightBlob()), { recursive: true })
    await writeFile(`${weightBlob()}.incomplete`, weights.subarray(0, 123_456))
    const seen: DownloadProgress[] = []
    await fetchModel({ onProgress: (progress) => seen.push(progress) })
    expect(seen[0]!.loadedBytes).toBeGreaterThanOrEqual(123_456)
    expect(seen.filter(({ loadedBytes }, index) => index > 0 && loadedBytes < seen[index - 1]!.loadedBytes)).toEqual([])
    const again: DownloadProgress[] = []
    await fetchModel({ onProgress: (progress) => again.push(progress) })
    expect(again.every(({ loadedBytes, totalBytes }) => loadedBytes === totalBytes)).toBe(true)
  })

  test('the token goes to the hub and nowhere else', async () => {
    hub.models.set('org/model', { ...small, token: 'hf_secret' })
    await fetchModel({ environment: environment({ token: 'hf_secret' }) })
    expect(hub.requests.some(({ server }) => server === 'storage')).toBe(true)
    for (const { server, token } of hub.requests) expect(token).toBe(server === 'hub' ? 'hf_secret' : undefined)
  })
})

describe('the hub as it is', () => {
  test('files in its Xet storage come by plain HTTP, uncompressed', async () => {
    hub.models.set('org/model', small)
    await fetchModel()
    expect(hub.requests.some(({ server }) => server === 'storage')).toBe(true)
    expect(hub.requests.filter(({ path, accept = '' }) => /xet/.test(path + accept))).toEqual([])
    const files = hub.requests.filter(({ server, path }) => server === 'storage' || path.includes('/resolve/'))
    expect(new Set(files.map(({ acceptEncoding }) => acceptEncoding))).toEqual(new Set(['identity']))
  })

  test('a model that was renamed is found by its old name, and the token goes along', async () => {
    hub.models.set('org/model', { ...small, token: 'hf_secret' })
    hub.faults = [({ server, path }, response) => {
      if (server !== 'hub' || !path.includes('old/name')) return false
      response.writeHead(307, { location: path.replace('old/name', 'org/model') }).end()
      return true
    }]
    const folder = await fetchModel({ environment: environment({ token: 'hf_secret' }) }, 'old/name')
    expect(sha256(await readFile(path.join(folder, 'model.safetensors')))).toBe(sha256(weights))
    for (const { server, token } of hub.requests) expect(token).toBe(server === 'hub' ? 'hf_secret' : undefined)
  })

  test('names of files may have characters that addresses lack', async () => {
    const name = 'weights of 100% #1?.safetensors'
    hub.models.set('org/model', { files: { 'config.json': '{}', 'model.safetensors.index.json': JSON.stringify({ weight_map: { a: name } }), [name]: weights } })
    expect(sha256(await readFile(path.join(await fetchModel(), name)))).toBe(sha256(weights))
  })

  test('a gated model shows its files and gives them to those who may read it alone', async () => {
    hub.models.set('org/model', { ...small, gate: 'hf_may' })
    for (const [token, status] of [[undefined, 401], ['hf_other', 403]] as const) {
      const message = `org/model: the hub refuses access (${status}: Access to model org/model is restricted.): a private or gated model, or none; set HF_TOKEN`
      const asked = fetchModel({ environment: environment({ ...(token && { token }) }) })
      await expect(asked).rejects.toMatchObject({ code: 'unavailable', message: expect.stringContaining(message), details: { status } })
    }
    expect(hub.requests.filter(({ path }) => path.includes('/resolve/')).length).toBeLessThanOrEqual(6) // no use in asking again
    await fetchModel({ environment: environment({ token: 'hf_may' }) })
  })

  test.each([
    ['seconds', { 'retry-after': '7' }, 7000],
    ['a date that has passed', { 'retry-after': 'Wed, 21 Oct 2015 07:28:00 GMT' }, 0],
    ["a day, shortened to what is bearable", { 'retry-after': '86400' }, 60_000],
    ["the hub's own header", { ratelimit: '"api";r=0;t=42' }, 42_000],
    ['nonsense', { 'retry-after': 'soon' }, undefined],
    ['nothing', {}, undefined]
  ])('when to come back: %s', (_, headers: Record<string, string>, expected) => {
    expect(new HubAnswer(new Response('', { status: 429, headers })).retryMilliseconds).toBe(expected)
  })
})

describe('faults', () => {
  beforeEach(() => hub.models.set('org/model', small))

  test('a broken connection is resumed where it stopped', async () => {
    hub.faults = [failing(3, breakOff)]
    const folder = await fetchModel()
    expect(sha256(await readFile(path.join(folder, 'model.safetensors')))).toBe(sha256(weights))
    const starts = hub.requests.filter(({ server, range }) => server === 'storage').map(({ range }) => Number(/\d+/.exec(range ?? '0')![0]))
    expect(starts.length).toBe(4)
    expect(starts.slice(1).every((start, i) => start > starts[i]!)).toBe(true)
  })

  test('what an earlier process left is taken on, damaged or not', async () => {
    await mkdir(path.dirname(weightBlob()), { recursive: true })
    await writeFile(`${weightBlob()}.incomplete`, weights.subarray(0, 123_456))
    await fetchModel()
    expect(hub.requests.some(({ range }) => range?.startsWith('bytes=123456-'))).toBe(true)
    await rm(path.join(cache, 'models--org--model'), { recursive: true })

    await mkdir(path.dirname(weightBlob()), { recursive: true })
    await writeFile(`${weightBlob()}.incomplete`, Buffer.alloc(123_456, 7))
    const folder = await fetchModel()
    expect(sha256(await readFile(path.join(folder, 'model.safetensors')))).toBe(sha256(weights))
  })

  test('a server that ignores ranges sends the whole again', async () => {
    hub.faults = [failing(1, breakOff), ({ server, range }, response, content) => {
      if (server !== 'storage' || !range) return false
      sendContent({ server, path: '' }, response, content)
      return true
    }]
    const folder = await fetchModel()
    expect(sha256(await readFile(path.join(folder, 'model.safetensors')))).toBe(sha256(weights))
  })

  test.each([429, 500, 503])('status %i passes', async (status) => {
    hub.faults = [failing(2, (_, response) => {
      response.writeHead(status, { 'retry-after': '0' }).end('later')
      return true
    })]
    expect(sha256(await readFile(path.join(await fetchModel(), 'model.safetensors')))).toBe(sha256(weights))
  })

  test.each([429, 500, 503])('status %i to a question passes, too', async (status) => {
    let left = 2
    hub.faults = [({ path }, response) => {
      if (!path.startsWith('/api/') || left-- <= 0) return false
      response.writeHead(status, { 'retry-after': '0' }).end('later')
      return true
    }]
    await fetchModel()
    expect(left).toBeLessThan(0)
  })

  test.each(['/api/', '/resolve/'])('an abort ends the wait until %s may be asked again', async (part) => {
    const controller = new AbortController()
    hub.faults = [({ path }, response) => {
      if (!path.includes(part)) return false
      response.writeHead(429, { 'retry-after': '60' }).end('later', () => setTimeout(() => controller.abort(), 20))
      return true
    }]
    await expect(fetchModel({ signal: controller.signal })).rejects.toMatchObject({ code: 'aborted' })
  })

  test('another part than the one that was asked for is not taken for it', async () => {
    hub.faults = [failing(1, breakOff), ({ server, range }, response, content) => {
      if (server !== 'storage' || !range) return false
      response.writeHead(206, { 'content-range': `bytes 0-${content!.length - 1}/${content!.length}` }).end(content)
      return true
    }]
    expect(sha256(await readFile(path.join(await fetchModel(), 'model.safetensors')))).toBe(sha256(weights))
  })

  test('wrong content is never kept: corrupt_file that names the file', async () => {
    hub.faults = [failing(100, (request, response, content) => {
      sendContent(request, response, Buffer.from(content!.map((byte, i) => (i === 200_000 ? byte ^ 1 : byte))))
      return true
    })]
    await expect(fetchModel()).rejects.toMatchObject({ code: 'corrupt_file', message: expect.stringContaining('org/model/model.safetensors') })
    await expect(stat(weightBlob())).rejects.toThrow()
  })

  test.each([
    ['nothing', () => Buffer.alloc(0)],
    ['more than there is', (content: Buffer) => Buffer.concat([content, content])]
  ])('a server that sends %s ends as unavailable, and the next call succeeds', async (_, change) => {
    hub.faults = [failing(1000, ({ range }, response, content) => {
      const start = Number(/^bytes=(\d+)/.exec(range ?? '')?.[1] ?? 0)
      response.writeHead(range ? 206 : 200).end(change(content!.subarray(start)))
      return true
    })]
    await expect(fetchModel()).rejects.toMatchObject({ code: 'unavailable', message: expect.stringContaining(`${weights.length} bytes`) })
    hub.faults = []
    expect(sha256(await readFile(path.join(await fetchModel(), 'model.safetensors')))).toBe(sha256(weights))
  })

  test('an abort ends with aborted, and what came stays for the next call', async () => {
    const controller = new AbortController()
    const onProgress = ({ loadedBytes }: DownloadProgress) => { if (loadedBytes > 100_000) controller.abort() }
    await expect(fetchModel({ signal: controller.signal, onProgress })).rejects.toMatchObject({ code: 'aborted' })
    expect(sha256(await readFile(path.join(await fetchModel(), 'model.safetensors')))).toBe(sha256(weights))
  })

  test('two calls at once load every file once', async () => {
    const [one, other] = await Promise.all([fetchModel(), fetchModel()])
    expect(one).toBe(other)
    expect(hub.requests.filter(({ server, range }) => server === 'storage').length).toBe(1)
  })

  test('the lock of a process that is gone holds nobody up', async () => {
    await mkdir(path.dirname(weightBlob()), { recursive: true })
    await writeFile(`${weightBlob()}.lock`, '4194300') // above what Linux numbers processes by default
    await fetchModel()
  })

  test('a model that is not there, or is gated, is an error that says what to do', async () => {
    await expect(fetchModel({}, 'org/other')).rejects.toMatchObject({ code: 'unavailable', message: expect.stringContaining('HF_TOKEN') })
    await expect(fetchModel({ revision: 'nope' })).rejects.toMatchObject({ code: 'invalid_argument', message: expect.stringContaining('org/model') })
    await expect(fetchModel({ revision: '../../x' })).rejects.toMatchObject({ code: 'invalid_argument' })
    hub.models.set('org/model', { files: { 'config.json': '{}', 'pytorch_model.bin': 'x' } })
    await expect(fetchModel()).rejects.toMatchObject({ code: 'unsupported_model', message: expect.stringContaining('model.safetensors') })
  })

  test('a cache that cannot be written to is named, and the hub is not blamed', async () => {
    const file = path.join(cache, 'a-file')
    await writeFile(file, '')
    await expect(fetchModel({ environment: environment({ cacheFolder: path.join(file, 'hub') }) })).rejects.toMatchObject({
      code: 'unavailable', message: expect.stringMatching(/org\/model: the cache .*a-file\/hub cannot be written to: .*ENOTDIR/)
    })
  })

  test('without the network the cached model serves, offline by wish without a question', async () => {
    const folder = await fetchModel()
    const online = environment()
    await hub[Symbol.asyncDispose]()
    expect(await fetchModel({ environment: online })).toBe(folder)
    hub.requests.length = 0
    expect(await fetchModel({ environment: { ...online, offline: true, endpoint: 'http://127.0.0.1:9' } })).toBe(folder)
    await rm(path.join(folder, 'model.safetensors'))
    const offline = fetchModel({ environment: { ...online, offline: true, endpoint: 'http://127.0.0.1:9' } })
    await expect(offline).rejects.toMatchObject({ code: 'unavailable', details: { missing: ['model.safetensors'] } })
    hub = await HubServer.start()
  })
})

describe('hostile answers never leave the model folder', () => {
  const paths = ['../../evil', '/etc/evil', 'a/../../evil', '..\\evil', 'C:\\evil', 'C:evil', '\\\\host\\share', 'a\0b', 'a//b', './x', 'x/..', 'x.', '']
  test.each(paths)('an index that names %j', async (name) => {
    const index = JSON.stringify({ weight_map: { a: name } })
    const tree: HubModel['tree'] = (entries) => [...entries, { type: 'file', path: name, size: 1, oid: gitHash(Buffer.from('x')) }]
    hub.models.set('org/model', { files: { 'config.json': '{}', 'model.safetensors.index.json': index }, tree })
    await expect(fetchModel()).rejects.toMatchObject({ code: 'corrupt_file' })
    expect((await readdir(cache, { recursive: true })).filter((file) => file.includes('evil'))).toEqual([])
  })

  test.each(['../../../evil', 'a/b', '', 'x'.repeat(64)])('a file with the hash %j', async (oid) => {
    hub.models.set('org/model', { ...small, tree: (entries) => entries.map((entry) => ({ ...entry, oid, ...(entry.lfs && { lfs: { ...entry.lfs, oid } }) })) })
    await expect(fetchModel()).rejects.toMatchObject({ code: 'corrupt_file' })
  })

  test('a commit that is a path', async () => {
    hub.models.set('org/model', { ...small, commit: '../../../evil' })
    await expect(fetchModel()).rejects.toMatchObject({ code: 'corrupt_file' })
  })
})

test.each([
  ['gpt2', true], ['Qwen/Qwen3-0.6B', true], ['a/b_c.d-e', true], ['./models/x', false], ['/abs', false], ['a/b/c', false], ['../x', false], ['a\\b', false],
  ['C:/x', false], ['a--b', false], ['a..b', false], ['model.git', false], ['', false], ['-a', false], ['a/', false], ['~/x', false]
])('%j as a name on the hub: %s', (name, expected) => expect(isHubName(name)).toBe(expected))
