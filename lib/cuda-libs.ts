// Folders where NVIDIA's libraries may lie, best first: what the user named, active environments, CUDA toolkits, Python's wheels.
// Rule: a pure function of the surroundings; the libraries themselves are opened by native code alone.
import { readdirSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'

export interface Surroundings {
  env: Record<string, string | undefined>
  home: string
  arch: string
  /** names in a folder; none where it cannot be read */
  list(folder: string): string[]
}

/** Layouts of NVIDIA's wheels: CUDA 13 in one folder, CUDA 12 and the others in one each. */
const wheels = ['cu13', 'cublas', 'nccl', 'cudnn']

export function surroundings(): Surroundings {
  const list = (folder: string): string[] => {
    try {
      return readdirSync(folder)
    } catch {
      return []
    }
  }
  return { env: process.env, home: os.homedir(), arch: process.arch, list }
}

/** Absolute folders that hold something, without repeats. */
export function cudaLibraryFolders(around: Surroundings): string[] {
  const folders = [...named(around), ...environments(around), ...toolkits(around), ...pythons(around)]
  return [...new Set(folders)].filter((folder) => path.isAbsolute(folder) && around.list(folder).length > 0)
}

function named({ env }: Surroundings): string[] {
  return (env.HEDDLE_CUDA_LIB_PATH ?? '').split(':').filter(Boolean)
}

function environments(around: Surroundings): string[] {
  const { VIRTUAL_ENV, CONDA_PREFIX } = around.env
  return [VIRTUAL_ENV, CONDA_PREFIX].flatMap((prefix) => {
    const lib = prefix && path.join(prefix, 'lib')
    return lib ? [lib, ...wheelFolders(around, lib)] : []
  })
}

function toolkits(around: Surroundings): string[] {
  const { NCCL_HOME, CUDA_PATH, CUDA_HOME } = around.env
  const versions = around.list('/usr/local').filter((name) => /^cuda-\d/.test(name))
  versions.sort((a, b) => b.localeCompare(a, 'en', { numeric: true })) // newest first
  const roots = [NCCL_HOME, CUDA_PATH, CUDA_HOME, '/usr/local/cuda', ...versions.map((name) => `/usr/local/${name}`), '/opt/cuda']
  const target = around.arch === 'arm64' ? 'sbsa-linux' : 'x86_64-linux'
  return roots.flatMap((root) => (root ? ['lib64', 'lib', `targets/${target}/lib`].map((name) => path.join(root, name)) : []))
}

function pythons(around: Surroundings): string[] {
  const pyenv = path.join(around.home, '.pyenv', 'versions')
  const versions = around.list(pyenv).map((name) => path.join(pyenv, name, 'lib'))
  return [path.join(around.home, '.local', 'lib'), '/usr/local/lib', '/usr/lib', ...versions].flatMap((lib) => wheelFolders(around, lib))
}

/** `python3*` below a lib folder, with the packages that pip or a distribution put there. */
function wheelFolders(around: Surroundings, lib: string): string[] {
  const pythonFolders = around.list(lib).filter((name) => name.startsWith('python3'))
  return pythonFolders.flatMap((python) =>
    ['site-packages', 'dist-packages'].flatMap((packages) =>
      wheels.map((wheel) => path.join(lib, python, packages, 'nvidia', wheel, 'lib'))
    )
  )
}
