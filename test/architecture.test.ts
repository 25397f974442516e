// Enforces the dependency rules on the sources as they are. Rule: every check also proves that it looked at files and that it can fail.
import { existsSync } from 'node:fs'
import path from 'node:path'
import { checkBench, checkLibrary, checkNative, checkUnitTests } from './support/dependency-rules'
import { importsOf, includesOf, readSources, repositoryRoot, type SourceFile } from './support/source-files'

const library = readSources('lib', ['.ts', '.mts'])
const native = readSources('native', ['.h', '.cpp', '.cu', '.cuh'])
const unitTests = readSources('test/unit', ['.ts'])
const bench = readSources('bench', ['.ts'])

const source = (file: string, text: string): SourceFile => ({ path: file, text })
const inFolder = (files: SourceFile[], folder: string) => files.filter((file) => file.path.startsWith(`${folder}/`)).length

describe('the files examined', () => {
  test.each(['lib/cli', 'lib/generation', 'lib/layers', 'lib/models', 'lib/tokenizer'])('%s has some', (folder) => {
    expect(inFolder(library, folder)).toBeGreaterThan(0)
  })

  test.each(['native/addon', 'native/comm', 'native/core', 'native/cpu', 'native/cuda', 'native/tests'])('%s has some', (folder) => {
    expect(inFolder(native, folder)).toBeGreaterThan(0)
  })

  test('imports and includes are found in them', () => {
    expect(library.flatMap(importsOf).length).toBeGreaterThan(library.length)
    expect(native.flatMap(includesOf).length).toBeGreaterThan(native.length)
    expect(unitTests.length).toBeGreaterThan(0)
    expect(bench.length).toBeGreaterThan(0)
  })
})

describe('the dependency rules hold', () => {
  test('in lib/', () => { expect(checkLibrary(library)).toEqual([]) })
  test('in native/', () => { expect(checkNative(native)).toEqual([]) })
  test('in bench/', () => { expect(checkBench(bench)).toEqual([]) })
  test('in test/unit, which needs no addon', () => { expect(checkUnitTests(unitTests, [...library, ...bench])).toEqual([]) })

  test('imports without an extension lead to a file', () => {
    const missing = library.flatMap((file) => importsOf(file)
      .filter((reference) => reference.target.startsWith('.') && file.path.endsWith('.ts'))
      .filter((reference) => !existsSync(`${path.resolve(repositoryRoot, path.dirname(file.path), reference.target)}.ts`))
      .map((reference) => `${file.path}:${reference.line}: ${reference.target}`))
    expect(missing).toEqual([])
  })
})

describe('a violation is found, with file and line', () => {
  test.each([
    ['lib/layers/linear.ts', /^lib\/layers\/linear\.ts:2: layers may not import native/, 
      "import { A } from '../tensor'\nimport { addon } from '../native'"],
    ['lib/layers/linear.ts', /^lib\/layers\/linear\.ts:3: layers may import only types of group/, "import {\n  Group,\n} from '../group'"],
    ['lib/errors.ts', /^lib\/errors\.ts:1: errors may not import shard/, "import { A } from './shard'"],
    ['lib/models/plan.ts', /models may not import generation/, "export { B } from '../generation/engine'"],
    ['lib/models/config.ts', /may not import the package @huggingface\/hub/, "const hub = await import('@huggingface/hub')"],
    ['lib/group.ts', /may not import the package napi/, "const x = require('napi')"],
    ['lib/group.ts', /never index/, "import { B } from './index'"],
    ['lib/surprise.ts', /surprise is no part of lib/, "import { B } from './errors'"],
    ['lib/shard.ts', /lib\/ may not import test/, "import { readSources } from '../test/support/source-files'"],
  ])('%s: %s', (file, problem, text) => {
    expect(checkLibrary([source(file, text)])).toEqual([expect.stringMatching(problem)])
  })

  test('a comment and a type of an allowed part are none', () => {
    const text = "// import { a } from '../native'\nimport type { Group } from '../group'\nimport { type A, type B } from '../group'\n"
    expect(checkLibrary([source('lib/layers/linear.ts', text)])).toEqual([])
  })

  test('a cycle among files', () => {
    const files = [source('lib/models/a.ts', "import { b } from './b'"), source('lib/models/b.ts', "import { a } from './a'")]
    expect(checkLibrary(files)).toEqual(['lib/models/a.ts:1: imports itself over lib/models/b.ts -> lib/models/a.ts'])
  })

  test('a unit test that reaches the addon', () => {
    const files = [source('lib/group.ts', "import { addon } from './native'"), source('lib/native.ts', '')]
    const tests = [source('test/unit/x.test.ts', "import { Group } from '../../lib/group'")]
    expect(checkUnitTests(tests, files)).toEqual(['test/unit/x.test.ts:1: test/unit may not load lib/native.ts'])
    const benchTests = [source('test/unit/x.test.ts', "import { sweep } from '../../bench/support/sweep'")]
    const benchFiles = [source('bench/support/sweep.ts', "import { cudaInfo } from 'heddle'")]
    expect(checkUnitTests(benchTests, benchFiles)).toHaveLength(1)
  })

  test('a bench that looks behind the public face', () => {
    const files = [source('bench/run.ts', "import { Group } from '../lib/group'")]
    expect(checkBench(files)).toEqual(['bench/run.ts:1: bench/ may not import lib/group'])
  })

  const headers = ['core/a.h', 'cpu/a.h', 'comm/nccl/nccl.h', 'cuda/nv_abi.h', 'cuda/backend.h', 'addon/a.h']
    .map((file) => source(`native/${file}`, '#pragma once\n'))

  test.each([
    ['native/core/x.cpp', /^native\/core\/x\.cpp:2: core may not include cpu/, '#include "core/a.h"\n#include "cpu/a.h"\n'],
    ['native/cpu/x.cpp', /^native\/cpu\/x\.cpp:2: may not include napi\.h/, '\n#include <napi.h>\n'],
    ['native/addon/x.cpp', /addon may not include cpu/, '#include "cpu/a.h"\n'],
    ['native/tests/x_test.cpp', /tests may not include addon/, '#include "addon/a.h"\n'],
    ['native/comm/local.cpp', /may not include cuda_runtime_api\.h/, '#include <cuda_runtime_api.h>\n'],
    ['native/comm/nccl/x.cpp', /comm may not include cuda/, '#include "cuda/backend.h"\n'],
    ['native/cuda/x.cpp', /cuda may not include comm/, '#include "comm/nccl/nccl.h"\n'],
    ['native/cuda/x.cu', /^native\/cuda\/x\.cu:1: cuda may not include cpu/, '#include "cpu/a.h"\n'],
    ['native/factory.cpp', /may not include cuda_runtime\.h/, '#include <cuda_runtime.h>\n'],
    ['native/comm/local.cpp', /may not include gloo\/context\.h/, '#include <gloo/context.h>\n'],
    ['native/core/x.cpp', /may not include hwy\/highway\.h/, '#include <hwy/highway.h>\n'],
    ['native/core/x.cpp', /neither a standard header/, '#include <boost/any.hpp>\n'],
    ['native/cpu/x.cpp', /^native\/cpu\/x\.cpp:2: native code knows operations, not models: run_mlp/, 'int a;\nvoid run_mlp();\n'],
    ['native/cpu/x.cpp', /not models: LlamaBlock/, 'struct LlamaBlock {};\n'],
    ['native/cpu/x.cpp', /not models: lmHead/, 'int lmHead = 0;\n'],
    ['native/cpu/x.cpp', /not models: is_qwen3/, 'bool is_qwen3 = false;\n'],
  ])('%s: %s', (file, problem, text) => {
    expect(checkNative([...headers, source(file, text)])).toEqual([expect.stringMatching(problem)])
  })

  test('words that only look like a model are none', () => {
    const text = '// as in llama\nint head_dim, headCount, header, emlpty;\nconst char* name = "mlp";\n#include "cuda/nv_abi.h"\n'
    expect(checkNative([...headers, source('native/comm/nccl/x.cpp', text)])).toEqual([])
    expect(checkNative([...headers, source('native/cuda/entry.cpp', '#include "comm/nccl/nccl.h"\n')])).toEqual([])
  })

  test('headers that include each other, and a second include site of napi.h', () => {
    const files = [
      source('native/core/a.h', '#include "core/b.h"\n'), source('native/core/b.h', '#include "core/a.h"\n'),
      source('native/addon/napi_setup.h', '#include <napi.h>\n'), source('native/addon/x.cpp', '#include <napi.h>\n'),
    ]
    expect(checkNative(files)).toEqual([
      'native/core/a.h:1: includes itself over native/core/b.h -> native/core/a.h',
      'native/addon/x.cpp:1: napi.h has one include site, native/addon/napi_setup.h',
    ])
  })
})
