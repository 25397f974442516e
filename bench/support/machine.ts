// What a figure must never be shown without: the machine, the versions and the load it was measured under.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { availableParallelism, cpus, loadavg, release, totalmem, type } from 'node:os'
import { join } from 'node:path'
import { projectRoot } from './project'

export interface Machine {
  cpu: string
  cores: number
  isa: string[]
  gpus: string[] // name, driver and memory of each
  memoryGigabytes: number
  system: string
  node: string
  heddle: string
  commit: string
  loadAverage: number
  date: string
}

const isaOfInterest = ['avx2', 'fma', 'f16c', 'avx_vnni', 'avx512f', 'avx512bw', 'avx512_vnni', 'avx512_bf16', 'avx512_fp16', 'amx_tile',
  'amx_bf16', 'asimd', 'bf16', 'sve']

export function describeMachine(): Machine {
  const flags = cpuField(/^(?:flags|Features)\s*:(.*)$/m).split(/\s+/)
  const { version } = JSON.parse(readFileSync(join(projectRoot, 'package.json'), 'utf8')) as { version: string }
  const family = [cpuField(/^cpu family\s*:(.*)$/m), cpuField(/^model\s*:(.*)$/m)].filter(Boolean).join('/')
  return {
    cpu: `${cpus()[0]?.model ?? 'unknown'}${family ? ` (family/model ${family})` : ''}`,
    cores: availableParallelism(),
    isa: isaOfInterest.filter((name) => flags.includes(name)),
    gpus: gpus(),
    memoryGigabytes: Math.round(totalmem() / 1e9),
    system: `${type()} ${release()}, ${distribution()}`,
    node: process.version,
    heddle: version,
    commit: commit(),
    loadAverage: loadavg()[0],
    date: new Date().toISOString(),
  }
}

function gpus(): string[] {
  const asked = ['--query-gpu=name,driver_version,memory.total', '--format=csv,noheader']
  const { status, stdout } = spawnSync('nvidia-smi', asked, { encoding: 'utf8', timeout: 20_000 })
  return status === 0 ? stdout.trim().split('\n').filter(Boolean) : []
}

function distribution(): string {
  try {
    return /^PRETTY_NAME="?([^"\n]*)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown'
  } catch {
    return 'unknown'
  }
}

function cpuField(pattern: RegExp): string {
  try {
    return pattern.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1].trim() ?? ''
  } catch {
    return '' // not Linux: the model name alone must do
  }
}

function commit(): string {
  const git = (...args: string[]) => spawnSync('git', ['-C', projectRoot, ...args], { encoding: 'utf8' })
  const head = git('rev-parse', '--short', 'HEAD')
  if (head.status !== 0) return 'unknown'
  const changed = git('status', '--porcelain', '--untracked-files=no').stdout.trim() !== ''
  return `${head.stdout.trim()}${changed ? ' with changes' : ''}`
}
