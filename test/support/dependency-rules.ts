// The binding dependency rules: which part of heddle may know which other.
// Rule: what is not listed is not allowed, and there are no cycles.
import path from 'node:path'
import { findCycle, importsOf, includesOf, withoutCommentsAndStrings, type Reference, type SourceFile } from './source-files'

interface Part {
  /** parts it may import */
  uses: string[]
  /** parts of which it may import types, which load nothing */
  types?: string[]
  packages?: string[]
}

const everyPart = [
  'server',
  'causal-lm',
  'generation',
  'planning',
  'models',
  'layers',
  'tokenizer',
  'hub',
  'group',
  'program',
  'tensor',
  'shard',
  'native',
  'checks',
  'errors'
]

/** The parts of lib/: its folders, and the files beside them by the concept they belong to. */
const typescriptParts: Record<string, Part> = {
  cli: { uses: ['causal-lm', 'planning', 'hub', 'generation', 'models', 'tokenizer', 'group', 'errors'] },
  server: { uses: ['causal-lm', 'generation', 'models', 'tokenizer', 'group', 'errors'] },
  'causal-lm': { uses: ['generation', 'models', 'tokenizer', 'group', 'checks', 'errors'] },
  generation: { uses: ['models', 'tokenizer', 'hub', 'program', 'tensor', 'group', 'checks', 'errors'] },
  planning: { uses: ['models', 'hub', 'program', 'tensor', 'shard', 'group', 'checks', 'errors'] },
  models: { uses: ['layers', 'program', 'tensor', 'group', 'shard', 'files', 'checks', 'errors'] },
  layers: { uses: ['program', 'tensor', 'shard', 'checks', 'errors'], types: ['group'] },
  group: { uses: ['program', 'tensor', 'native', 'checks', 'errors'] },
  program: { uses: ['tensor', 'native', 'checks', 'errors'], types: ['group'] },
  tensor: { uses: ['native', 'checks', 'errors'], types: ['group'] },
  tokenizer: { uses: ['hub', 'files', 'checks', 'errors'], packages: ['@huggingface/tokenizers', '@huggingface/jinja'] },
  hub: { uses: ['files', 'checks', 'errors'], packages: ['@huggingface/hub'] },
  native: { uses: ['errors', 'realm', 'cuda-libs'], packages: ['node-gyp-build'] },
  // slices are told to ranks as data, and the types of that data are native's
  shard: { uses: ['errors'], types: ['native'] },
  checks: { uses: ['errors'] },
  errors: { uses: [] },
  files: { uses: [] },
  realm: { uses: [] },
  'cuda-libs': { uses: [] },
  index: { uses: everyPart }
}

/** Files beside the one that carries the name of their part. */
const partOfFile: Record<string, string> = { value: 'program', 'kv-caches': 'tensor' }

function typescriptPart(file: string): string {
  const [, first = '', rest] = file.split('/')
  const name = first.replace(/\.m?ts$/, '')
  return rest === undefined ? (partOfFile[name] ?? name) : name
}

/** lib/x/y.ts and './z' give lib/x/z; the ending is left to the caller. */
function resolve(file: string, target: string): string {
  return path.posix.join(path.posix.dirname(file), target).replace(/\.m?js$/, '')
}

const at = (file: SourceFile, reference: Reference, problem: string) => `${file.path}:${reference.line}: ${problem}`

function packageProblem(file: SourceFile, reference: Reference, allowed: string[]): string | undefined {
  if (reference.target.startsWith('node:') || allowed.includes(reference.target)) return undefined
  return at(file, reference, `may not import the package ${reference.target}`)
}

function libraryImportProblem(file: SourceFile, reference: Reference): string | undefined {
  const name = typescriptPart(file.path)
  const part = typescriptParts[name]
  if (!part) return at(file, reference, `${name} is no part of lib/ that the dependency rules know`)
  if (!reference.target.startsWith('.')) {
    return packageProblem(file, reference, part.packages ?? [])
  }
  const target = resolve(file.path, reference.target)
  if (!target.startsWith('lib/')) return at(file, reference, `lib/ may not import ${target}`)
  if (target === 'lib/index') return file.path === 'lib/index.mts' ? undefined : at(file, reference, 'import the file, never index')
  const used = typescriptPart(target)
  if (used === name || part.uses.includes(used)) return undefined
  if (part.types?.includes(used)) return reference.typeOnly ? undefined : at(file, reference, `${name} may import only types of ${used}`)
  return at(file, reference, `${name} may not import ${used} (${target})`)
}

/** What each file loads at run time, by path. */
function loadGraph(files: SourceFile[]): Map<string, string[]> {
  const known = new Map(files.map((file) => [file.path.replace(/\.m?ts$/, ''), file.path]))
  return new Map(
    files.map((file) => {
      const loaded = importsOf(file).filter((reference) => !reference.typeOnly && reference.target.startsWith('.'))
      return [file.path, loaded.flatMap((reference) => known.get(resolve(file.path, reference.target)) ?? [])]
    })
  )
}

/** Violations in lib/, each as "file:line: problem". */
export function checkLibrary(files: SourceFile[]): string[] {
  const problems = files.flatMap((file) => importsOf(file).flatMap((reference) => libraryImportProblem(file, reference) ?? []))
  const cycle = findCycle(loadGraph(files.filter((file) => !file.path.endsWith('.mts'))))
  return cycle ? [...problems, `${cycle[0]}:1: imports itself over ${cycle.slice(1).join(' -> ')}`] : problems
}

/** bench/ sees what a user sees: the package, or lib/index. */
export function checkBench(files: SourceFile[]): string[] {
  return files.flatMap((file) =>
    importsOf(file).flatMap((reference) => {
      if (!reference.target.startsWith('.')) return packageProblem(file, reference, ['heddle']) ?? []
      const target = resolve(file.path, reference.target)
      return target.startsWith('bench/') || target === 'lib/index' ? [] : [at(file, reference, `bench/ may not import ${target}`)]
    })
  )
}

/** test/unit runs without the addon: nothing that it loads, of lib/ or of bench/, may load lib/native, or the package. */
export function checkUnitTests(tests: SourceFile[], files: SourceFile[]): string[] {
  const graph = loadGraph([...tests, ...files])
  const loadsPackage = (file: SourceFile) => importsOf(file).some((reference) => !reference.typeOnly && reference.target === 'heddle')
  for (const file of [...tests, ...files].filter(loadsPackage)) graph.get(file.path)?.push('lib/native.ts')
  const loadsNative = (file: string, seen = new Set<string>()): boolean => {
    if (file === 'lib/native.ts') return true
    if (seen.has(file)) return false
    seen.add(file)
    return (graph.get(file) ?? []).some((next) => loadsNative(next, seen))
  }
  return tests.filter((test) => loadsNative(test.path)).map((test) => `${test.path}:1: test/unit may not load lib/native.ts`)
}

/** The parts of native/, and of which others they may include headers. */
const nativeParts: Record<string, string[]> = {
  core: [],
  cpu: ['core'],
  cuda: ['core'],
  comm: ['core'],
  tests: ['core', 'cpu', 'cuda', 'comm', 'factory'],
  cuda_library: ['core'],
  factory: ['core', 'cpu', 'comm', 'cuda_library'],
  addon: ['core', 'factory']
}
/** Single headers beyond the parts. */
const nativeExceptions = [
  // NCCL is reached through the function tables of cuda/, and its collectives run on the ranks' streams
  {
    place: 'native/comm/nccl/',
    headers: /^native\/cuda\/((nv_abi|dynlib|runtime|device|device_communicator|launch|all_reduce)\.h|(numbers|ptx)\.cuh)$/
  },
  // the one place of the CUDA library that knows every communicator
  { place: 'native/cuda/entry.cpp', headers: /^native\/comm\/nccl\/nccl\.h$/ }
]

/** Headers that are not ours, and the only places that may include them. */
const vendorHeaders = [
  { headers: /^(napi|node_api|node_api_types|js_native_api|uv|v8|node)\b.*\.h$/, places: /^native\/addon\// },
  {
    headers: /^(cuda|cublas|cudnn|nccl|nv|library_types|driver_types|vector_types|cooperative_groups|cub\/)/,
    places: /^native\/(cuda\/|comm\/nccl|tests\/(abi_check|cuda\/|emulator\/|fake_libraries\/))/
  },
  // stands in for CUDA's headers where there is no GPU: the tests' emulator
  { headers: /^emulator(_[a-z]+)?\.h$/, places: /^native\/(cuda\/(ptx\.cuh|launch\.h)$|tests\/)/ },
  { headers: /^(elf|ucontext|math|emmintrin|sanitizer\/[a-z_]+)\.h$/, places: /^native\/tests\/emulator\// },
  { headers: /^gloo\//, places: /^native\/comm\/gloo/ },
  { headers: /^hwy\//, places: /^native\/cpu\// },
  { headers: /^(immintrin|cpuid|arm_neon)\.h$/, places: /^native\/(core|cpu|comm)\// }
]
const standardHeader = /^[a-z_0-9]+$/
const systemHeader = /^(sys|linux)\/[a-z_]+\.h$|^(cpuid|dirent|dlfcn|fcntl|link|pthread|sched|signal|stddef|stdint|unistd)\.h$/

function nativePart(file: string): string {
  const [, first = '', rest] = file.split('/')
  return rest === undefined ? first.replace(/\.(h|cpp)$/, '') : first
}

function vendorProblem(file: SourceFile, reference: Reference, header: string): string | undefined {
  const vendor = vendorHeaders.find((entry) => entry.headers.test(header))
  if (vendor) return vendor.places.test(file.path) ? undefined : at(file, reference, `may not include ${header}`)
  if (standardHeader.test(header) || systemHeader.test(header)) return undefined
  return at(file, reference, `${header} is neither a standard header nor one that the dependency rules know`)
}

function includeProblem(file: SourceFile, reference: Reference, known: Set<string>): string | undefined {
  const header = reference.target.replace(/^<|>$/g, '')
  const target = resolveInclude(file, header, known)
  if (!target) return vendorProblem(file, reference, header)
  const name = nativePart(file.path)
  const uses = nativeParts[name]
  if (!uses) return at(file, reference, `${name} is no part of native/ that the dependency rules know`)
  const used = nativePart(target)
  if (used === name || uses.includes(used)) return undefined
  if (nativeExceptions.some((entry) => file.path.startsWith(entry.place) && entry.headers.test(target))) return undefined
  return at(file, reference, `${name} may not include ${used} (${target})`)
}

/** Beside the file, as the compiler looks, or below native/. */
function resolveInclude(file: SourceFile, header: string, known: Set<string>): string | undefined {
  const candidates = [path.posix.join(path.posix.dirname(file.path), header), path.posix.join('native', header)]
  return candidates.find((candidate) => known.has(candidate))
}

const modelName = /(^|_)(llama|qwen|mistral|mixtral|gemma|gpt|deepseek|falcon|olmo|bert|mlp|lm_head)\d*(_|$)/

function modelNameProblems(file: SourceFile): string[] {
  const lines = withoutCommentsAndStrings(file.text).split('\n')
  return lines.flatMap((line, index) => {
    const identifiers = line.match(/[A-Za-z_]\w*/g) ?? []
    const offender = identifiers.find((identifier) => modelName.test(snakeCase(identifier)))
    return offender ? [`${file.path}:${index + 1}: native code knows operations, not models: ${offender}`] : []
  })
}

/** TPMLPBlock, lmHead and k_lm_head become tp_mlp_block, lm_head and k_lm_head. */
function snakeCase(identifier: string): string {
  return identifier
    .replace(/([a-z\d])([A-Z])/g, '$1_$2')
    .replace(/([A-Z])([A-Z][a-z])/g, '$1_$2')
    .toLowerCase()
    .replace(/^tpmlp/, 'tp_mlp')
}

/** Violations in native/, each as "file:line: problem". */
export function checkNative(files: SourceFile[]): string[] {
  const known = new Set(files.map((file) => file.path))
  const problems = files.flatMap((file) => includesOf(file).flatMap((reference) => includeProblem(file, reference, known) ?? []))
  const graph = new Map(
    files.map((file) => [
      file.path,
      includesOf(file).flatMap((reference) => resolveInclude(file, reference.target.replace(/^<|>$/g, ''), known) ?? [])
    ])
  )
  const cycle = findCycle(graph)
  if (cycle) problems.push(`${cycle[0]}:1: includes itself over ${cycle.slice(1).join(' -> ')}`)
  const sites = files.filter((file) => includesOf(file).some((reference) => /^<?napi\.h>?$/.test(reference.target)))
  problems.push(...sites.slice(1).map((file) => `${file.path}:1: napi.h has one include site, ${sites[0]?.path}`))
  return [...problems, ...files.flatMap(modelNameProblems)]
}
