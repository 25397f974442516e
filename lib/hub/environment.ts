// What the environment says of the Hugging Face hub and its cache, by the variables that all of Hugging Face's libraries obey.
// Source: https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
import { readFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { HeddleError } from '../errors'

export interface HubEnvironment {
  /** where the hub answers, without a slash at the end: HF_ENDPOINT */
  endpoint: string
  /** the folder of `models--…` folders: HF_HUB_CACHE, else `hub` in HF_HOME */
  cacheFolder: string
  /** never use the network: HF_HUB_OFFLINE */
  offline: boolean
  /** HF_TOKEN, else the file that `hf auth login` writes */
  token?: string
}

type Variables = Record<string, string | undefined>

/** Throws `invalid_argument` for an endpoint that is no http(s) address. */
export function hubEnvironment(variables: Variables = process.env): HubEnvironment {
  const set = (name: string): string | undefined => variables[name]?.trim() || undefined
  const home = expandHome(set('HF_HOME') ?? path.join(set('XDG_CACHE_HOME') ?? path.join(os.homedir(), '.cache'), 'huggingface'))
  const token = set('HF_TOKEN') ?? readToken(expandHome(set('HF_TOKEN_PATH') ?? path.join(home, 'token')))
  return {
    endpoint: checkEndpoint(set('HF_ENDPOINT') ?? 'https://huggingface.co'),
    cacheFolder: expandHome(set('HF_HUB_CACHE') ?? set('HUGGINGFACE_HUB_CACHE') ?? path.join(home, 'hub')),
    offline: /^(1|on|yes|true)$/i.test(set('HF_HUB_OFFLINE') ?? ''),
    ...(token && { token })
  }
}

function checkEndpoint(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url && /^https?:$/.test(url.protocol)) return text.replace(/\/+$/, '')
  throw new HeddleError('invalid_argument', `HF_ENDPOINT: expected an http(s) address, got ${JSON.stringify(text.slice(0, 100))}`)
}

function expandHome(folder: string): string {
  return folder === '~' || folder.startsWith('~/') ? path.join(os.homedir(), folder.slice(1)) : path.resolve(folder)
}

function readToken(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8').trim() || undefined
  } catch {
    return undefined // nobody has logged in
  }
}
