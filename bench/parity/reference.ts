// transformers in its process (bench/peers/transformers/reference.py), with types.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Message } from 'heddle'
import { peerPython } from '../support/contenders'
import { LineProcess } from '../support/line-process'
import { projectRoot } from '../support/project'
import { type Answer, type ParityDType } from './differences'

export interface Versions { transformers: string; torch: string }
export interface OpenModel { modelType: string; vocabSize: number; headCount: number; context: number }
export interface EncodedText { ids: number[]; plainIds: number[]; text: string; wholeText: string }
export interface RenderedChat { text: string; ids: number[] }

/** transformers was asked and did not answer. */
export class TransformersError extends Error {}

export class Reference {
  private readonly child: LineProcess
  private readonly folder = mkdtempSync(join(tmpdir(), 'heddle-parity-'))

  /** Throws an error that names the command which installs it, where it is not installed. */
  constructor() {
    this.child = new LineProcess('transformers', peerPython(), [join(projectRoot, 'bench', 'peers', 'transformers', 'reference.py')])
  }

  about(): Promise<Versions> {
    return this.ask({ do: 'about' })
  }

  open(folder: string, dtype: ParityDType): Promise<OpenModel> {
    return this.ask({ do: 'open', folder, dtype })
  }

  /** [positions, vocabSize], by the model, or by its weights in float32 */
  async logits(row: readonly number[], exact: boolean): Promise<Float32Array> {
    const file = join(this.folder, 'logits')
    const { positions, vocabSize } = await this.ask<{ positions: number; vocabSize: number }>({ do: 'logits', row, exact, file })
    const { buffer, byteOffset } = readFileSync(file)
    return new Float32Array(buffer.slice(byteOffset, byteOffset + 4 * positions * vocabSize))
  }

  greedy(row: readonly number[], count: number): Promise<Answer & { margins: number[] }> {
    return this.ask({ do: 'greedy', row, count })
  }

  openTokenizer(folder: string): Promise<{ hasChatTemplate: boolean }> {
    return this.ask({ do: 'open_tokenizer', folder })
  }

  encode(text: string): Promise<EncodedText> {
    return this.ask({ do: 'encode', text })
  }

  chat(messages: readonly Message[], addGenerationPrompt: boolean): Promise<RenderedChat> {
    return this.ask({ do: 'chat', messages, addGenerationPrompt })
  }

  /** Writes a checkpoint that `seed` alone decides; the configuration's fields. */
  randomModel(family: string, seed: string, folder: string): Promise<{ fields: Record<string, unknown>; fileType: string }> {
    return this.ask({ do: 'random_model', family, seed, folder })
  }

  private async ask<T>(command: object): Promise<T> {
    try {
      return await this.child.ask<T>(command)
    } catch (error) {
      throw new TransformersError((error as Error).message)
    }
  }

  async close(): Promise<void> {
    await this.child.close()
    rmSync(this.folder, { recursive: true, force: true })
  }
}
