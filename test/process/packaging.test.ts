// What a user gets from npm: the packed tarball in an empty folder, with prebuilt binaries and without.
// Rule: nothing of the checkout is reached from there, and the checkout's own build is left alone. Runs by npm run test:packaging.
import { execFile } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'

const minutes = 60_000
const root = path.resolve(__dirname, '..', '..')
const bin = (name: string) => path.join(root, 'node_modules', '.bin', name)
const folder = mkdtempSync(path.join(tmpdir(), 'heddle-packaging-'))

/** The environment without what npm tells the scripts that it runs: an npm started in another folder must not see it. */
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(npm_|INIT_CWD$|NODE_PATH$|HEDDLE_)/.test(name)))

/** Prebuilt binaries hold the CUDA backend where nvcc is, for one architecture; ON: it must be there. A source build goes without. */
const { HEDDLE_CUDA = 'AUTO', HEDDLE_CUDA_ARCHS = '90-real' } = process.env
Object.assign(environment, { HEDDLE_CUDA: 'OFF' })
const withCuda = { ...environment, HEDDLE_CUDA, HEDDLE_CUDA_ARCHS }

async function run(cwd: string, command: string, ...args: string[]): Promise<string> {
  return runWith(environment, cwd, command, ...args)
}

async function runWith(env: NodeJS.ProcessEnv, cwd: string, command: string, ...args: string[]): Promise<string> {
  const options = { cwd, env, maxBuffer: 1 << 26, timeout: 60 * minutes }
  const { stdout } = await promisify(execFile)(command, args, options)
  return stdout
}

/** Packs a folder without running its scripts; returns the tarball, moved to a folder of that name. */
async function pack(from: string, name: string): Promise<string> {
  const target = path.join(folder, name)
  mkdirSync(target)
  await run(from, 'npm', 'pack', '--ignore-scripts', '--pack-destination', target)
  return path.join(target, readdirSync(target)[0]!)
}

/** An unpacked copy of the package with the development tools in reach and no binary of this machine in it. */
async function stage(): Promise<string> {
  await run(folder, 'tar', 'xzf', await pack(root, 'checkout'), '-C', folder)
  const staged = path.join(folder, 'package')
  rmSync(path.join(staged, 'prebuilds'), { recursive: true, force: true })
  symlinkSync(path.join(root, 'node_modules'), path.join(staged, 'node_modules'))
  return staged
}

async function install(name: string, tarball: string, ...options: string[]): Promise<string> {
  const consumer = path.join(folder, name)
  mkdirSync(consumer)
  writeFileSync(path.join(consumer, 'package.json'), JSON.stringify({ name, private: true }))
  await run(consumer, 'npm', 'install', '--no-audit', '--no-fund', '--prefer-offline', '--fetch-retries=5', ...options, tarball)
  return consumer
}

const installed = (consumer: string, ...parts: string[]) => path.join(consumer, 'node_modules', 'heddle', ...parts)

/** Two ranks multiply [3, 5] with a weight of four rows. */
const program = `
async function main({ openGroup, ColumnParallelLinear }) {
  const group = await openGroup({ size: 2, device: 'cpu' })
  const layer = new ColumnParallelLinear(group, 2, 4, { bias: false })
  await layer.load({ weight: new Float32Array([1, 0, 0, 1, 1, 1, 2, -1]) })
  const { data, shape } = await layer.run({ data: new Float32Array([3, 5]), shape: [1, 2] })
  await group.close()
  console.log(JSON.stringify([...data, ...shape]))
}`
const product = '[3,5,8,1,1,4]\n'

async function runScript(consumer: string, name: string, text: string): Promise<string> {
  writeFileSync(path.join(consumer, name), text)
  return await run(consumer, process.execPath, name)
}

const requireIt = (consumer: string) => runScript(consumer, 'require.cjs', `${program}\nmain(require('heddle'))`)

let bare = '' // the tarball without binaries
let prebuilt = '' // the tarball with them

beforeAll(async () => {
  const staged = await stage()
  bare = await pack(staged, 'bare')
  cpSync(path.join(root, 'scripts'), path.join(staged, 'scripts'), { recursive: true })
  await runWith(withCuda, staged, bin('prebuildify'), '--napi', '--strip', '--tag-libc', '--node-gyp', 'scripts/prebuild.js')
  prebuilt = await pack(staged, 'prebuilt')
}, 90 * minutes)

afterAll(() => rmSync(folder, { recursive: true, force: true }))

test('the tarball holds what runs and builds, and nothing else', async () => {
  const files = (await run(folder, 'tar', 'tzf', prebuilt))
    .trim()
    .split('\n')
    .map((file) => file.replace(/^package\//, ''))
  const platform = `${process.platform}-${process.arch}`
  expect(files).toEqual(
    expect.arrayContaining([
      'LICENSE',
      'README.md',
      'CMakeLists.txt',
      'binding.gyp',
      'dist/index.js',
      'dist/index.mjs',
      'dist/index.d.ts',
      'dist/index.d.mts',
      'dist/cli/main.js',
      'scripts/install.js',
      'scripts/build-native.js',
      'native/core/backend_abi.h',
      'native/cuda/entry.cpp',
      `prebuilds/${platform}/heddle.glibc.node`,
      ...(HEDDLE_CUDA === 'ON' ? [`prebuilds/${platform}/libheddle_cuda.so`] : [])
    ])
  )
  const binaries = files.filter((file) => /\.(so|node)$/.test(file))
  expect(binaries.filter((file) => !/\/(heddle\.glibc\.node|libheddle_cuda\.so)$/.test(file))).toEqual([])
  const unwanted = /^(models|test|bench|examples|lib|build|native\/tests|node_modules|\.ci)\b|\.map$|\.npmrc$/
  expect(files.filter((file) => unwanted.test(file))).toEqual([])
})

describe('with prebuilt binaries and scripts blocked', () => {
  let consumer = ''
  beforeAll(async () => {
    consumer = await install('prebuilt-consumer', prebuilt, '--ignore-scripts')
  }, 90 * minutes)

  test('nothing was compiled', () => {
    expect(existsSync(installed(consumer, 'prebuilds'))).toBe(true)
    expect(existsSync(installed(consumer, 'build'))).toBe(false)
  })

  test('require runs a layer on two ranks', async () => {
    expect(await requireIt(consumer)).toBe(product)
  })

  test('import runs it too, and gives the same classes as require', async () => {
    expect(await runScript(consumer, 'import.mjs', `${program}\nawait main(await import('heddle'))`)).toBe(product)
    const same =
      "import { createRequire } from 'node:module'\nimport { HeddleError } from 'heddle'\n" +
      "console.log(createRequire(import.meta.url)('heddle').HeddleError === HeddleError)"
    expect(await runScript(consumer, 'same.mjs', same)).toBe('true\n')
  })

  test('the command is linked and answers; the CUDA backend is opened and says what it found', async () => {
    const { cuda } = JSON.parse(await run(consumer, path.join(consumer, 'node_modules', '.bin', 'heddle'), 'info', '--json'))
    const shipped = existsSync(installed(consumer, 'prebuilds', `${process.platform}-${process.arch}`, 'libheddle_cuda.so'))
    expect(cuda.build).toMatch(shipped ? /^built with nvcc \d/ : /^not built: /)
    expect(path.basename(cuda.backend)).toBe(shipped ? 'libheddle_cuda.so' : '')
    if (!cuda.usable) expect(cuda.reason).toMatch(shipped ? /^(no NVIDIA driver|the NVIDIA driver|no usable GPU|cuBLASLt)/ : /^CUDA backend not built: /)
  })

  const typed = `import { openGroup, ColumnParallelLinear, AutoModelForCausalLM, HeddleError, type Group, type CausalLM } from 'heddle'
export async function use(): Promise<number> {
  const group: Group = await openGroup({ size: 2, dtype: 'bfloat16' })
  const layer = new ColumnParallelLinear(group, 2, 4, { bias: false })
  const model: CausalLM = await AutoModelForCausalLM.fromPretrained('folder', { tpSize: 2 })
  const { shape } = await model.forward([[1, 2]])
  const y = await layer.run({ data: new Float32Array(2), shape: [1, 2] })
  return shape[2] + y.data.length + new HeddleError('closed', '').code.length
}
`
  const compile = (...args: string[]) => {
    const common = ['--noEmit', '--strict', '--target', 'es2022', '--lib', 'es2023,esnext.disposable', '--types', 'node']
    return run(consumer, bin('tsc'), ...common, '--typeRoots', path.join(root, 'node_modules', '@types'), ...args)
  }

  test.each([
    ['node20', ['typed.cts', 'typed.mts']],
    ['nodenext', ['typed.cts', 'typed.mts']],
    ['esnext', ['typed.mts', '--moduleResolution', 'bundler']]
  ])('types resolve under %s', async (module, args) => {
    writeFileSync(path.join(consumer, 'typed.cts'), typed)
    writeFileSync(path.join(consumer, 'typed.mts'), typed)
    expect(await compile('--module', module, ...args)).toBe('')
  })

  test('types refuse what the package does not have', async () => {
    writeFileSync(path.join(consumer, 'wrong.mts'), "import { openGroup } from 'heddle'\nexport const group = openGroup({ size: 'two' })\n")
    const refusal = { stdout: expect.stringMatching(/wrong\.mts.*TS2322/) }
    await expect(compile('--module', 'nodenext', 'wrong.mts')).rejects.toMatchObject(refusal)
  })
})

describe('without prebuilt binaries', () => {
  test(
    'npm install builds from source',
    async () => {
      const consumer = await install('source-consumer', bare)
      expect(readdirSync(installed(consumer, 'build', 'Release'))).toEqual(['heddle.node'])
      expect(await requireIt(consumer)).toBe(product)
      const command = path.join(consumer, 'node_modules', '.bin', 'heddle')
      expect(await run(consumer, command, 'info')).toMatch(/^cuda +not usable: CUDA backend not built: switched off$/m)
    },
    90 * minutes
  )

  test('with scripts blocked as well, the error says what to do', async () => {
    const consumer = await install('blocked-consumer', bare, '--ignore-scripts')
    const text =
      'const report = (error) => console.log(error.code, error.message)\n' +
      "try { require('heddle').openGroup({ size: 1 }).catch(report) } catch (error) { report(error) }"
    expect(await runScript(consumer, 'blocked.cjs', text)).toMatch(/^unavailable .*npm rebuild heddle/s)
  })
})
