// CUDA without a GPU: the CUDA backend compiled for the emulator, with stand-ins of NVIDIA's libraries, in a process of its own.
import { existsSync } from 'node:fs'
import path from 'node:path'
import { root, runScript } from './child'
import type { Ended } from './child'

/** Where the native tests' build leaves its libraries. */
const folders = [path.join(root, 'build-cmake', 'Release'), path.join(root, 'build-cmake')]

function built(name: string): string {
  const file = folders.map((folder) => path.join(folder, name)).find(existsSync)
  if (!file) throw new Error(`${name} is not built: npm test builds it, or node scripts/native-tests.js`)
  return file
}

export const emulatedLibraries = {
  get backend(): string { return built('libheddle_cuda_emulated.so') },
  get cublaslt(): string { return built('libheddle_fake_cublaslt.so') },
  get nccl(): string { return built('libheddle_fake_nccl.so') }
}

export interface EmulatedMachine {
  devices?: number
  /** bytes of each */
  memory?: number
  driver?: number
  peerAccess?: boolean
  /** '' or the path of another file: the library is not there */
  cublaslt?: string
  nccl?: string
}

/** What makes a process see such a machine. */
export function environmentOf(machine: EmulatedMachine): Record<string, string> {
  const { devices = 1, memory = 2 ** 30, driver = 13000, peerAccess = true } = machine
  return {
    HEDDLE_CUDA_BACKEND: emulatedLibraries.backend,
    HEDDLE_CUBLASLT_LIB: machine.cublaslt ?? emulatedLibraries.cublaslt,
    HEDDLE_NCCL_LIB: machine.nccl ?? emulatedLibraries.nccl,
    HEDDLE_CACHE: '',   // nothing is kept from run to run
    HEDDLE_EMULATOR_DEVICES: String(devices),
    HEDDLE_EMULATOR_MEMORY: String(memory),
    HEDDLE_EMULATOR_DRIVER_VERSION: String(driver),
    HEDDLE_EMULATOR_PEER_ACCESS: peerAccess ? '1' : '0'
  }
}

/** Runs a script as `runScript` does, on a machine with emulated GPUs. */
export function runOnEmulator(script: string, machine: EmulatedMachine = {}, timeout = 120_000): Promise<Ended> {
  return runScript(script, { env: environmentOf(machine), timeout })
}
