#!/usr/bin/env node
'use strict'
// Fetches what the CUDA backend compiles cuDNN's attention with, headers alone: `node scripts/cudnn-headers.js FOLDER`. A wheel on PyPI is a
// zip file, of which a server gives any part: its list of files, then the headers, a few MB of the 500.
// Rule: leaves a whole folder or none; says in one line what it did or why not; exit status 0 only where the headers are there.
const fs = require('node:fs')
const path = require('node:path')
const { crc32, inflateRawSync } = require('node:zlib')

const limit = 60_000   // milliseconds, for all of it
const wheels = [
  { name: 'nvidia-cudnn-frontend', version: '1.18.0', folder: 'include/', file: 'include/cudnn_frontend.h' },
  { name: 'nvidia-cudnn-cu13', version: '9.28.0.42', folder: 'nvidia/cudnn/include/', file: 'include/cudnn.h' },
]

async function get(url, options = {}) {
  const response = await fetch(url, options)
  if (!response.ok) throw new Error(`${url}: status ${response.status}`)
  return response
}

/** Bytes `from` to `to`, both included, or with `from` alone: the last of the file. */
async function part(url, from, to) {
  const response = await get(url, { headers: { Range: to === undefined ? `bytes=-${from}` : `bytes=${from}-${to}` } })
  if (response.status !== 206) throw new Error(`${url}: expected a part, got the whole file`)
  const [, first, total] = /bytes (\d+)-\d+\/(\d+)/.exec(response.headers.get('content-range') ?? '') ?? []
  return { bytes: Buffer.from(await response.arrayBuffer()), first: Number(first), total: Number(total) }
}

/** The wheel of that version for this kind of machine, by the index that pip reads (PEP 503). */
async function wheelUrl({ name, version }) {
  const index = `https://pypi.org/simple/${name}/`
  const links = [...(await (await get(index)).text()).matchAll(/href="([^"#]+)/g)].map(([, link]) => new URL(link, index).href)
  const start = `/${name.replaceAll('-', '_')}-${version}-`
  const machine = process.arch === 'arm64' ? 'aarch64' : 'x86_64'
  const found = links.find((link) => link.includes(start) && link.endsWith(`${machine}.whl`))
  if (!found) throw new Error(`${index}: expected a wheel of version ${version} for Linux ${machine}, got none`)
  return found
}

/** Names, places and sizes of a zip file's entries, by its central directory (APPNOTE.TXT 4.3.12 and 4.3.16). */
async function entriesOf(url) {
  let { bytes, first, total } = await part(url, 65_536)
  const end = bytes.lastIndexOf(Buffer.from('PK\x05\x06', 'latin1'))
  if (end < 0) throw new Error(`${url}: expected a zip file`)
  const size = bytes.readUInt32LE(end + 12)
  const start = bytes.readUInt32LE(end + 16)
  if (start < first) ({ bytes, first } = await part(url, start, total - 1))
  const entries = []
  for (let at = start - first; at < start - first + size; ) {
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((field) => bytes.readUInt16LE(at + field))
    entries.push({
      name: bytes.toString('utf8', at + 46, at + 46 + nameLength),
      method: bytes.readUInt16LE(at + 10),
      crc: bytes.readUInt32LE(at + 16),
      packed: bytes.readUInt32LE(at + 20),
      start: bytes.readUInt32LE(at + 42),
    })
    at += 46 + nameLength + extraLength + commentLength
  }
  return entries
}

function contentOf(entry, bytes, at) {
  const data = at + 30 + bytes.readUInt16LE(at + 26) + bytes.readUInt16LE(at + 28)
  const packed = bytes.subarray(data, data + entry.packed)
  const content = entry.method === 0 ? packed : inflateRawSync(packed)
  if (crc32 && crc32(content) !== entry.crc) throw new Error(`${entry.name}: damaged on the way`)   // from Node 22.2 on
  return content
}

/** Headers lie side by side in a wheel, so that one part has them all, with little between. */
async function unpackHeaders(wheel, target) {
  const url = await wheelUrl(wheel)
  const headers = (await entriesOf(url)).filter(({ name }) => name.startsWith(wheel.folder) && /\.(h|hpp)$/.test(name))
  if (headers.length === 0) throw new Error(`${url}: expected headers in ${wheel.folder}, got none`)
  const first = Math.min(...headers.map(({ start }) => start))
  const last = Math.max(...headers.map(({ start, packed }) => start + packed)) + 65_536   // names and extra fields before the data
  if (last - first > 64 * 2 ** 20) throw new Error(`${url}: expected headers side by side, got them ${last - first} bytes apart`)
  const { bytes } = await part(url, first, last)
  for (const entry of headers) {
    const file = path.join(target, 'include', path.normalize(entry.name.slice(wheel.folder.length)))
    if (!file.startsWith(path.join(target, 'include') + path.sep)) throw new Error(`${entry.name}: leaves its folder`)
    fs.mkdirSync(path.dirname(file), { recursive: true })
    fs.writeFileSync(file, contentOf(entry, bytes, entry.start - first))
  }
}

async function fetchHeaders(folder) {
  if (wheels.every(({ file }) => fs.existsSync(path.join(folder, file)))) return 'are there already'
  const fresh = `${folder}.${process.pid}`
  try {
    for (const wheel of wheels) await unpackHeaders(wheel, fresh)
    fs.rmSync(folder, { recursive: true, force: true })
    fs.renameSync(fresh, folder)
  } finally {
    fs.rmSync(fresh, { recursive: true, force: true })
  }
  return `fetched (${wheels.map(({ name, version }) => `${name} ${version}`).join(', ')})`
}

async function main([folder]) {
  if (!folder) throw new Error('expected the folder to put them in')
  setTimeout(() => fail(new Error(`no answer within ${limit / 1000} s`)), limit).unref()
  console.log(`heddle: cuDNN's headers ${await fetchHeaders(path.resolve(folder))}: ${path.resolve(folder)}`)
}

function fail(error) {
  console.log(`heddle: cuDNN's headers are not to be had: ${error.cause?.message ?? error.message}`)
  process.exit(1)
}

main(process.argv.slice(2)).catch(fail)
