// A server of this machine that speaks the hub's API: model and tree questions, `resolve` with ranges. Large files are backed by Xet, as all new
// ones on the hub are: whoever does not ask for chunks is redirected to a bridge on another origin, which serves ranges. Tests read what was
// asked, and make it fail.
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface HubRequest {
  server: 'hub' | 'storage'
  path: string
  range?: string
  token?: string
  accept?: string
  acceptEncoding?: string
}

/** Ends the request in its own way (true), or leaves it to the server. */
export type Fault = (request: HubRequest, response: ServerResponse, content: Buffer | undefined) => boolean

export interface HubModel {
  files: Record<string, Buffer | string>
  commit?: string
  /** what the tree says instead of the truth */
  tree?: (entries: TreeEntry[]) => TreeEntry[]
  token?: string
  /** everybody may ask about it, only who has this token may read files */
  gate?: string
}

interface TreeEntry {
  type: 'file' | 'directory'
  path: string
  size: number
  oid: string
  lfs?: { oid: string; size: number; pointerSize: number }
}

const largeBytes = 10_000 // from here on a file is a large one
const pageEntries = 3 // so that every listing has several pages

export class HubServer implements AsyncDisposable {
  readonly requests: HubRequest[] = []
  readonly models = new Map<string, HubModel>()
  faults: Fault[] = []
  endpoint = ''
  readonly #hub: Server
  readonly #storage: Server

  private constructor() {
    this.#hub = createServer((request, response) => this.#answer('hub', request, response))
    this.#storage = createServer((request, response) => this.#answer('storage', request, response))
  }

  static async start(): Promise<HubServer> {
    const server = new HubServer()
    for (const one of [server.#hub, server.#storage]) await new Promise<void>((resolve) => one.listen(0, '127.0.0.1', resolve))
    server.endpoint = address(server.#hub)
    return server
  }

  /** Requests for the content of a file. */
  reads(file: string): HubRequest[] {
    return this.requests.filter(({ path }) => path.includes('/resolve/') && path.endsWith(`/${file}`))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const one of [this.#hub, this.#storage]) {
      const closed = new Promise((resolve) => one.close(resolve))
      one.closeAllConnections()
      await closed
    }
  }

  #answer(server: HubRequest['server'], incoming: IncomingMessage, response: ServerResponse): void {
    const url = new URL(incoming.url!, 'http://localhost')
    const { range, authorization, accept, 'accept-encoding': acceptEncoding } = incoming.headers
    const token = authorization?.replace('Bearer ', '')
    const asked = { ...(range && { range }), ...(token && { token }), ...(accept && { accept }), ...(acceptEncoding && { acceptEncoding: String(acceptEncoding) }) }
    const request: HubRequest = { server, path: decodeURIComponent(url.pathname), ...asked }
    this.requests.push(request)
    const content = server === 'storage' ? this.#blob(request.path.slice(1)) : this.#file(request.path)
    if (this.faults.some((fault) => fault(request, response, content))) return
    if (server === 'storage') return sendContent(request, response, content)
    const question = /^\/api\/models\/(.+?)\/(revision|tree)\/(.+)$/.exec(request.path)
    const name = question?.[1] ?? /^\/(.+?)\/resolve\//.exec(request.path)?.[1]
    const model = name === undefined ? undefined : this.models.get(name)
    if (!model) return sendJson(response, 401, { error: 'Invalid username or password.' }) // what the hub says of unknown models
    if (model.token !== undefined && model.token !== token) return sendJson(response, 403, { error: 'gated' })
    if (question?.[2] === 'revision') return this.#sendModel(name!, question[3]!, model, response)
    if (question?.[2] === 'tree') return this.#sendTree(model, url, response)
    if (model.gate !== undefined && model.gate !== token) return sendGate(name!, token, response)
    if (content && content.length >= largeBytes) return this.#sendXet(request, name!, content, response)
    sendContent(request, response, content)
  }

  /** What the hub says of a file in its Xet storage. No server here speaks that storage's own protocol. */
  #sendXet({ accept = '' }: HubRequest, name: string, content: Buffer, response: ServerResponse): void {
    const hash = sha256(content)
    const links = [`<${this.endpoint}/api/models/${name}/xet-read-token/${defaultCommit}>; rel="xet-auth"`, `<http://127.0.0.1:9/reconstructions/${hash}>; rel="xet-reconstruction-info"`]
    const headers = { 'x-repo-commit': defaultCommit, 'x-linked-size': content.length, 'x-linked-etag': `"${hash}"`, 'x-xet-hash': hash, link: links.join(', ') }
    if (accept.includes('application/vnd.xet-fileinfo+json')) {
      response.writeHead(200, { ...headers, 'content-type': 'application/vnd.xet-fileinfo+json; charset=utf-8', etag: `"${hash}"` }).end(JSON.stringify({ hash }))
      return
    }
    response.writeHead(302, { ...headers, location: `${address(this.#storage)}/${hash}`, vary: 'Origin, Accept' })
    response.end(`Found. Redirecting to ${address(this.#storage)}/${hash}`)
  }

  #sendModel(name: string, revision: string, { commit = defaultCommit }: HubModel, response: ServerResponse): void {
    if (revision !== 'main' && revision !== commit) return sendJson(response, 404, { error: 'Invalid rev id' })
    sendJson(response, 200, { _id: '1', id: name, sha: commit, private: false, gated: false, downloads: 0, likes: 0, lastModified: '2026-01-01' })
  }

  #sendTree(model: HubModel, url: URL, response: ServerResponse): void {
    const truth = Object.entries(model.files).map(([path, text]): TreeEntry => {
      const content = Buffer.from(text)
      const lfs = { oid: sha256(content), size: content.length, pointerSize: 130 }
      return { type: 'file', path, size: content.length, oid: gitHash(content), ...(content.length >= largeBytes && { lfs }) }
    })
    const entries = model.tree?.(truth) ?? truth
    const from = Number(url.searchParams.get('cursor') ?? 0)
    url.searchParams.set('cursor', String(from + pageEntries))
    const next = `<${this.endpoint}${url.pathname}${url.search}>; rel="next"`
    sendJson(response, 200, entries.slice(from, from + pageEntries), from + pageEntries < entries.length ? { link: next } : {})
  }

  #file(path: string): Buffer | undefined {
    const [, name, file] = /^\/(.+?)\/resolve\/[^/]+\/(.+)$/.exec(path) ?? []
    const content = name === undefined ? undefined : this.models.get(name)?.files[file!]
    return content === undefined ? undefined : Buffer.from(content)
  }

  #blob(hash: string): Buffer | undefined {
    const all = [...this.models.values()].flatMap(({ files }) => Object.values(files)).map((content) => Buffer.from(content))
    return all.find((content) => sha256(content) === hash)
  }
}

export const defaultCommit = 'c'.repeat(40)
export const sha256 = (content: Buffer): string => createHash('sha256').update(content).digest('hex')
export const gitHash = (content: Buffer): string => createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex')

const address = (server: Server): string => `http://127.0.0.1:${(server.address() as AddressInfo).port}`

function sendJson(response: ServerResponse, status: number, value: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers })
  response.end(JSON.stringify(value))
}

function sendGate(name: string, token: string | undefined, response: ServerResponse): void {
  const said = `Access to model ${name} is restricted.`
  response.writeHead(token === undefined ? 401 : 403, { 'content-type': 'text/plain', 'x-error-code': 'GatedRepo', 'x-error-message': said }).end(said)
}

export function sendContent({ range }: HubRequest, response: ServerResponse, content: Buffer | undefined): void {
  if (!content) return sendJson(response, 404, { error: 'Entry not found' }, { 'x-error-code': 'EntryNotFound' })
  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(range ?? '') ?? []
  const headers = { etag: `"${gitHash(content)}"`, 'content-type': 'application/octet-stream' }
  if (first === undefined) {
    response.writeHead(200, { ...headers, 'content-length': content.length })
    response.end(content)
    return
  }
  const part = content.subarray(Number(first), last ? Number(last) + 1 : undefined)
  const contentRange = `bytes ${first}-${Number(first) + part.length - 1}/${content.length}`
  response.writeHead(206, { ...headers, 'content-range': contentRange, 'content-length': part.length })
  response.end(part)
}
