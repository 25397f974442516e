// Where NVIDIA's libraries are looked for, on machines that are described here.
import { cudaLibraryFolders } from '../../lib/cuda-libs'
import type { Surroundings } from '../../lib/cuda-libs'

/** A machine that has these files and no others. */
function machine(files: string[], env: Surroundings['env'] = {}, arch = 'x64'): Surroundings {
  const list = (folder: string): string[] => {
    const below = files.filter((file) => file.startsWith(`${folder}/`)).map((file) => file.slice(folder.length + 1).split('/')[0]!)
    return [...new Set(below)]
  }
  return { env, home: '/home/me', arch, list }
}

const wheel = (lib: string, name: string, python = 'python3.12/site-packages') => `${lib}/${python}/nvidia/${name}/lib`

test('nothing on a machine without them', () => {
  expect(cudaLibraryFolders(machine([]))).toEqual([])
  expect(cudaLibraryFolders(machine(['/usr/lib/python3/dist-packages/numpy/__init__.py']))).toEqual([])
})

test('what the user named comes first, then environments, toolkits, wheels', () => {
  const folders = [
    '/opt/mine',
    '/opt/other',
    '/venv/lib',
    wheel('/venv/lib', 'cu13'),
    '/conda/lib',
    wheel('/conda/lib', 'nccl'),
    '/opt/nccl/lib',
    '/usr/local/cuda/lib64',
    '/usr/local/cuda-13.10/targets/x86_64-linux/lib',
    '/usr/local/cuda-13.2/lib64',
    '/usr/local/cuda-12.6/lib64',
    '/opt/cuda/lib',
    wheel('/home/me/.local/lib', 'cublas'),
    wheel('/usr/local/lib', 'cudnn', 'python3.11/dist-packages'),
    wheel('/usr/lib', 'cu13', 'python3/dist-packages'),
    wheel('/home/me/.pyenv/versions/3.13.1/lib', 'nccl')
  ]
  const files = [...folders].reverse().map((folder) => `${folder}/libsomething.so`)
  const env = { HEDDLE_CUDA_LIB_PATH: '/opt/mine:/opt/other', VIRTUAL_ENV: '/venv', CONDA_PREFIX: '/conda', NCCL_HOME: '/opt/nccl' }
  expect(cudaLibraryFolders(machine(files, env))).toEqual(folders)
})

test('folders that are not there, empty or relative are left out, and none comes twice', () => {
  const env = { HEDDLE_CUDA_LIB_PATH: ':/there::/missing:there:/there', CUDA_HOME: '/usr/local/cuda', CUDA_PATH: '' }
  const files = ['/there/a.so', 'there/b.so', '/usr/local/cuda/lib64/c.so']
  expect(cudaLibraryFolders(machine(files, env))).toEqual(['/there', '/usr/local/cuda/lib64'])
})

test("an arm64 server's toolkit has folders of its own name", () => {
  const files = ['/usr/local/cuda/targets/sbsa-linux/lib/a.so', '/usr/local/cuda/targets/x86_64-linux/lib/a.so']
  expect(cudaLibraryFolders(machine(files, {}, 'arm64'))).toEqual(['/usr/local/cuda/targets/sbsa-linux/lib'])
})
