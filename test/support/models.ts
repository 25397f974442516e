// The checkpoints that tests load: reference cases, the demo model, and copies of them with something changed.
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { AutoModelForCausalLM } from '../../lib/causal-lm'
import type { CausalLM } from '../../lib/causal-lm'
import type { PretrainedOptions } from '../../lib/generation/load-model'

export const repository = path.join(__dirname, '../..')
export const tinyModel = path.join(repository, 'models/heddle-tiny')
export const golden = (name: string): string => path.join(repository, 'test/golden', name)

export async function withModel<T>(folder: string, options: PretrainedOptions, use: (model: CausalLM) => Promise<T>): Promise<T> {
  const model = await AutoModelForCausalLM.fromPretrained(folder, { device: 'cpu', ...options })
  try {
    return await use(model)
  } finally {
    await model.close()
  }
}

/** A copy of a checkpoint in a folder of its own, which `change` may damage; removed afterwards. */
export async function withCopy<T>(folder: string, change: (copy: string) => Promise<void>, use: (copy: string) => Promise<T>): Promise<T> {
  const copy = await mkdtemp(path.join(os.tmpdir(), 'heddle-copy-'))
  try {
    await cp(folder, copy, { recursive: true })
    await change(copy)
    return await use(copy)
  } finally {
    await rm(copy, { recursive: true })
  }
}

export async function editJson(file: string, change: (json: Record<string, any>) => void): Promise<void> {
  const json = JSON.parse(await readFile(file, 'utf8')) as Record<string, any>
  change(json)
  await writeFile(file, JSON.stringify(json))
}

export interface Chat {
  messages: { role: string; content: string }[]
  input_ids: number[]
  output_ids: number[]
  text: string
  answer: string
  right: boolean
}

export async function tinyChats(): Promise<Chat[]> {
  return (JSON.parse(await readFile(golden('heddle-tiny.json'), 'utf8')) as { chat: Chat[] }).chat
}
