// What the GPUs' links carry, as NVIDIA's management library tells it on this machine: a table of products would not know what is plugged in.
import { lineRate } from './collective-formulas'
import { LineProcess } from './line-process'
import { buildNativeProgram } from './native-programs'

export interface GpuLinks {
  name: string
  links: { megabytesPerSecond: number; version: number }[] // of the links that are up
}

/** Of every GPU; throws where there is no NVML. `env` may name another library (HEDDLE_NVML_LIB). */
export async function readLinks(env: Record<string, string> = {}): Promise<GpuLinks[]> {
  const child = new LineProcess('link rate', buildNativeProgram('heddle_link_rate'), [], { env })
  try {
    return (await child.ask<{ gpus: GpuLinks[] }>('links')).gpus
  } finally {
    await child.close()
  }
}

export interface LinkRate {
  gigabytesPerSecond: number // of data in one direction; 0: no NVLink
  about: string
}

/** Of the slowest GPU, which is what the others wait for. That every link leads to every peer, by a switch, is taken for granted. */
export function slowestLinks(gpus: readonly GpuLinks[]): LinkRate {
  const [slowest] = gpus.map((gpu) => ({ gpu, rate: lineRate(gpu.links) })).sort((a, b) => a.rate - b.rate)
  if (!slowest || slowest.gpu.links.length === 0) return { gigabytesPerSecond: 0, about: 'no NVLink' }
  if (slowest.rate === 0) return { gigabytesPerSecond: 0, about: `${slowest.gpu.name}: NVLink whose rate NVML does not tell` }
  const { gpu: { name, links }, rate } = slowest
  const reported = [...new Set(links.map((link) => link.megabytesPerSecond / 1000))].join(' and ')
  return { gigabytesPerSecond: rate, about: `${name}: ${links.length} links, NVML reports ${reported} GB/s each: ${rate} GB/s of data` }
}
