// Why CUDA is not used: every way in which the backend cannot be opened, each with a text that says what to do about it.
// Rule: a process of its own per case, since a process asks once; none of them needs a GPU.
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { root, runScript } from '../support/child'

const folder = mkdtempSync(path.join(tmpdir(), 'heddle-cuda-loading-'))
const addon = path.join(root, 'build', 'Release', 'heddle.node')
afterAll(() => rmSync(folder, { recursive: true, force: true }))

interface Asked {
  info: { usable: boolean; reason: string; build: string; backend: string; devices: unknown[] }
  cuda: { code: string; message: string }
  auto: { device: string; reason: string }
  memory: { code: string; message: string }
}

/** What a program is told in this environment: by cudaInfo, by a group on GPUs, by a group on whatever is there. */
async function ask(env: NodeJS.ProcessEnv): Promise<Asked> {
  const script = `
    const { cudaInfo, cudaMemory } = require(root + '/dist/group.js')
    const failure = ({ code, message }) => ({ code, message })
    async function main() {
      const info = cudaInfo()
      const cuda = await openGroup({ size: 1, device: 'cuda' }).then(() => 'opened', failure)
      const group = await openGroup({ size: 2 })
      const { device, reason } = group.info()
      await group.close()
      let memory
      try { memory = cudaMemory(0) } catch (error) { memory = failure(error) }
      console.log(JSON.stringify({ info, cuda, auto: { device, reason }, memory }))
    }
    main()`
  const ended = await runScript(script, { env: { HEDDLE_CUBLASLT_LIB: '', HEDDLE_NCCL_LIB: '', HEDDLE_CUDA_LIB_PATH: '', ...env } })
  expect(ended).toMatchObject({ code: 0, stderr: '' })
  return JSON.parse(ended.stdout) as Asked
}

/** Everything that is asked gives the same reason, and the CPU goes on. */
async function expectReason(env: NodeJS.ProcessEnv, reason: RegExp): Promise<Asked> {
  const asked = await ask(env)
  expect(asked.info).toMatchObject({ usable: false, reason: expect.stringMatching(reason), devices: [] })
  expect(asked.cuda).toEqual({ code: 'unavailable', message: `openGroup: device cuda is not available: ${asked.info.reason}` })
  expect(asked.auto).toEqual({ device: 'cpu', reason: asked.info.reason })
  expect(asked.memory).toEqual({ code: 'unavailable', message: `cudaMemory: device cuda is not available: ${asked.info.reason}` })
  return asked
}

/** A shared library of this C++ source. */
function library(name: string, source: string): string {
  const file = path.join(folder, `${name}.so`)
  const code = path.join(folder, `${name}.cpp`)
  writeFileSync(code, source)
  const compiler = process.env.CXX || 'c++'
  execFileSync(compiler, ['-std=c++20', '-shared', '-fPIC', '-I', path.join(root, 'native'), code, '-o', file])
  return file
}

/** A backend whose entry does as `body` says. */
function backend(name: string, body: string): string {
  return library(name, `
#include <cstdio>
#include "core/backend_abi.h"
extern "C" __attribute__((visibility("default"))) int heddle_backend_entry_v1(
    const heddle_backend_host* host, heddle_backend_library* library, char* error, size_t error_size) {
  (void)host; (void)library; (void)error; (void)error_size;
  ${body}
}`)
}

describe('HEDDLE_CUDA_BACKEND is the file, and nothing else is tried', () => {
  test('a file that is not there', async () => {
    const file = path.join(folder, 'none.so')
    const { info } = await expectReason({ HEDDLE_CUDA_BACKEND: file }, /^the CUDA backend cannot be opened: .*none\.so.*No such file/)
    expect(info.backend).toBe('')
  })

  test('a file that is no library', async () => {
    await expectReason({ HEDDLE_CUDA_BACKEND: __filename }, /cannot be opened: .*cuda-loading\.test\.ts.*(ELF|file too short)/)
  })

  test('a library that is no backend', async () => {
    const file = library('other', 'extern "C" int other() { return 1; }')
    const { info } = await expectReason({ HEDDLE_CUDA_BACKEND: file }, /other\.so is no CUDA backend of heddle: .*heddle_backend_entry_v1/)
    expect(info.backend).toBe(file)
  })

  test('a library that needs a symbol which nobody has: now, not at the first call', async () => {
    const file = library('unresolved', 'extern "C" int missing_symbol(); extern "C" int heddle_backend_entry_v1() { return missing_symbol(); }')
    await expectReason({ HEDDLE_CUDA_BACKEND: file }, /undefined symbol: missing_symbol/)
  })
})

describe('what the entry answers', () => {
  test('another build: its text is passed on', async () => {
    const file = backend('mismatch', 'snprintf(error, error_size, "I am another build than %s", host->identity); return HEDDLE_BACKEND_MISMATCH;')
    const { version } = require(path.join(root, 'package.json')) as { version: string }
    await expectReason({ HEDDLE_CUDA_BACKEND: file }, new RegExp(`^I am another build than heddle ${version}, interfaces [0-9a-f]{12}, \\S+ \\d+$`))
  })

  test('a code without a text', async () => {
    await expectReason({ HEDDLE_CUDA_BACKEND: backend('silent', 'return 4;') }, /gave the code 4 and no reason/)
  })

  test('a text without an end', async () => {
    const file = backend('endless', "for (size_t i = 0; i < error_size; ++i) error[i] = 'x'; return HEDDLE_BACKEND_NO_DEVICE;")
    await expectReason({ HEDDLE_CUDA_BACKEND: file }, /^x{100,}$/)
  })

  test('ready, but without its functions, or of another ABI', async () => {
    await expectReason({ HEDDLE_CUDA_BACKEND: backend('empty', 'library->abi_version = 1; return 0;') }, /gave the code 0/)
    const foreign = backend('foreign', 'library->abi_version = 2; library->functions = library; return 0;')
    await expectReason({ HEDDLE_CUDA_BACKEND: foreign }, /gave the code 0/)
  })

  test('it is told where libraries may lie, best first', async () => {
    const list = 'for (const char* const* dir = host->folders; *dir; ++dir) at += snprintf(error + at, error_size - at, "%s\\n", *dir);'
    const file = backend('folders', `size_t at = 0; ${list} return HEDDLE_BACKEND_NO_LIBRARY;`)
    const { info } = await expectReason({ HEDDLE_CUDA_BACKEND: file, HEDDLE_CUDA_LIB_PATH: `/nowhere:${folder}` }, new RegExp(`^${folder}\\n`))
    expect(info.reason.trimEnd().split('\n').every((line) => path.isAbsolute(line))).toBe(true)
  })

  test('it is asked once, whoever asks', async () => {
    const count = 'static int calls = 0; snprintf(error, error_size, "call %d", ++calls); return HEDDLE_BACKEND_NO_DEVICE;'
    await expectReason({ HEDDLE_CUDA_BACKEND: backend('counted', count) }, /^call 1$/)
  })
})

describe('without HEDDLE_CUDA_BACKEND', () => {
  test('the backend beside the addon, where there is one, else how the build was made', async () => {
    // whatever this machine has: one that cannot be used says why, on all ways alike
    const asked = await ask({ HEDDLE_CUDA_BACKEND: '' })
    expect(asked.info.build).toMatch(/^(built with nvcc \d+\.\d+|not built: )/)
    if (asked.info.usable) return
    expect(asked.info.reason).toMatch(/^(CUDA backend not built: |libheddle_cuda\.so was not found in |no NVIDIA driver|no usable GPU|the NVIDIA driver is too old|cuBLASLt was not found)/)
    expect(asked.auto).toEqual({ device: 'cpu', reason: asked.info.reason })
  })

  test('an addon that lies alone says where it looked', async () => {
    const lonely = mkdtempSync(path.join(folder, 'lonely-'))
    copyFileSync(addon, path.join(lonely, 'heddle.node'))
    const script = `
      const search = { backendFolders: [${JSON.stringify(folder)}], libraryFolders: [] }
      console.log(JSON.stringify(require(${JSON.stringify(path.join(lonely, 'heddle.node'))}).cudaInfo(search, true)))`
    const { stdout } = await runScript(script, { env: { HEDDLE_CUDA_BACKEND: '' } })
    const { build, reason, usable } = JSON.parse(stdout) as Asked['info']
    expect(usable).toBe(false)
    expect(reason).toBe(build.startsWith('not built') ? `CUDA backend ${build}` : `libheddle_cuda.so was not found in ${lonely}, ${folder}`)
  })

  test('a folder that was given is the second place', async () => {
    const given = mkdtempSync(path.join(folder, 'given-'))
    copyFileSync(backend('given', 'snprintf(error, error_size, "found"); return HEDDLE_BACKEND_NO_DEVICE;'), path.join(given, 'libheddle_cuda.so'))
    const lonely = mkdtempSync(path.join(folder, 'lonely-'))
    copyFileSync(addon, path.join(lonely, 'heddle.node'))
    const script = `
      const search = { backendFolders: ['/nowhere', ${JSON.stringify(given)}], libraryFolders: [] }
      console.log(JSON.stringify(require(${JSON.stringify(path.join(lonely, 'heddle.node'))}).cudaInfo(search, true)))`
    const { stdout } = await runScript(script, { env: { HEDDLE_CUDA_BACKEND: '' } })
    expect(JSON.parse(stdout)).toMatchObject({ reason: 'found', backend: path.join(given, 'libheddle_cuda.so') })
  })
})
