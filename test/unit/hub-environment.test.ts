// The variables that all of Hugging Face's libraries obey, and the line that a download writes.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { downloadLine } from '../../lib/cli/download-line'
import { hubEnvironment } from '../../lib/hub/environment'

describe('the environment', () => {
  test('without a word: the public hub and the shared cache', () => {
    const none = { HF_TOKEN_PATH: '/none' }
    expect(hubEnvironment(none)).toEqual({
      endpoint: 'https://huggingface.co',
      cacheFolder: path.join(os.homedir(), '.cache/huggingface/hub'),
      offline: false
    })
  })

  test.each([
    [{ HF_HOME: '/h' }, '/h/hub'],
    [{ XDG_CACHE_HOME: '/x' }, '/x/huggingface/hub'],
    [{ HF_HOME: '/h', HF_HUB_CACHE: '/c' }, '/c'],
    [{ HF_HOME: '~/h' }, path.join(os.homedir(), 'h/hub')],
    [{ HF_HOME: ' ' }, path.join(os.homedir(), '.cache/huggingface/hub')]
  ])('%j puts the cache into %s', (variables, folder) => expect(hubEnvironment(variables).cacheFolder).toBe(folder))

  test.each([['1', true], ['TRUE', true], ['yes', true], ['on', true], ['0', false], ['', false], ['no', false]])(
    'HF_HUB_OFFLINE=%s: %s', (value, offline) => expect(hubEnvironment({ HF_HUB_OFFLINE: value }).offline).toBe(offline))

  test('the token is HF_TOKEN, else what a login wrote', async () => {
    const home = await mkdtemp(path.join(os.tmpdir(), 'heddle-home-'))
    await writeFile(path.join(home, 'token'), 'hf_file\n')
    expect(hubEnvironment({ HF_HOME: home }).token).toBe('hf_file')
    expect(hubEnvironment({ HF_HOME: home, HF_TOKEN: 'hf_variable' }).token).toBe('hf_variable')
    await rm(home, { recursive: true })
  })

  test('the endpoint loses its last slash; what is no address is refused', () => {
    expect(hubEnvironment({ HF_ENDPOINT: 'https://mirror.example/hf/' }).endpoint).toBe('https://mirror.example/hf')
    for (const wrong of ['mirror', 'file:///etc', 'ftp://x']) expect(() => hubEnvironment({ HF_ENDPOINT: wrong })).toThrow(/HF_ENDPOINT: expected an http/)
  })
})

test('a download writes one line over itself, cut to the terminal, and leaves none', () => {
  let time = 0
  const written: string[] = []
  const show = downloadLine({ write: (text: string) => written.push(text) > 0, columns: 60 }, () => time)
  const at = (loadedBytes: number, secondsLeft: number): void => {
    time += 1000
    show({ phase: 'download', loadedBytes, totalBytes: 1.19e9, file: 'org/model/model.safetensors', bytesPerSecond: 25e6, secondsLeft })
  }
  at(0, Infinity)
  at(595e6, 3725)
  at(1.1e9, 61)
  expect(written[0]).toContain('0 %  0 B of 1.2 GB  25.0 MB/s  ? left')
  expect(written[1]).toBe('\r\u001b[K' + ' 50 %  595.0 MB of 1.2 GB  25.0 MB/s  1 h 2 min left  org/model'.slice(0, 59))
  expect(written[2]).toContain('1 min 1 s left')
  at(1.19e9, 0)
  show({ phase: 'load', loadedBytes: 1, totalBytes: 2, tensor: 'x' })
  expect(written.slice(3)).toEqual(['\r\u001b[K'])
})
