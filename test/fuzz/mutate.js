'use strict'
// Damaged copies of JSON texts and of safetensors headers, each from a seed alone: what a careless tool, a broken disk or an attacker makes.

/** Numbers from 0 up to but not including `limit`: xorshift, seeded well enough that neighbouring seeds differ. */
function randomFrom(seed) {
  let state = (Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ (seed >>> 13)) >>> 0 || 1
  return (limit) => {
    state ^= state << 13
    state ^= state >>> 17
    state = (state ^ (state << 5)) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  }
}

const numbers = [0, -0, -1, 1, 2, 3, 7, 8, 15, 16, 63, 64, 255, 256, 65535, 65536, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53 - 1, 2 ** 53, 2 ** 63, 1e19,
  1e300, 0.5, -0.5, 1e-300, 1.0000001]
const texts = ['', '\0', '../x', '/etc/passwd', 'a'.repeat(300), '\ud800', 'Ünï😀', 'F32', 'BF16', 'F99', '__proto__', 'constructor', 'toString', 'null', 'NaN', '{{',
  'silu', 'gelu_new', 'qwen3', 'llama', 'linear', 'llama3', 'yarn', 'dynamic', 'full_attention', 'sliding_attention', 'float16', 'model.safetensors']
const tokens = ['{', '}', '[', ']', ',', ':', '"', '\\', 'null', 'true', '-', '1e999', '0x1', '01', '\u0000', '\ufeff', '"\\ud800"', '18446744073709551615',
  '9007199254740993', '{"a":', '[[[[[[[[[[[[[[[[', 'NaN', 'Infinity', '/**/', '\n\n', 'e', '.5', '+1']

const pick = (random, list) => list[random(list.length)]

/** Any value that JSON can hold. */
function anyValue(random, depth = 0) {
  const kind = random(depth > 2 ? 5 : 8)
  if (kind < 2) return pick(random, numbers)
  if (kind === 2) return random(1000)
  if (kind === 3) return pick(random, texts)
  if (kind === 4) return pick(random, [null, true, false])
  if (kind === 5) return Array.from({ length: random(4) }, () => anyValue(random, depth + 1))
  if (kind === 6) return Object.fromEntries(Array.from({ length: random(4) }, () => [pick(random, texts), anyValue(random, depth + 1)]))
  return Array.from({ length: random(12) }).reduce((inner) => [inner], 1)
}

/** All places of a value: [holder, key]. */
function places(value, found = []) {
  if (typeof value !== 'object' || value === null) return found
  for (const key of Object.keys(value)) {
    found.push([value, key])
    places(value[key], found)
  }
  return found
}

/** Changes one place of a value: another value, a number nearby, gone, renamed, or what stands elsewhere. */
function changeValue(random, root) {
  const all = places(root)
  if (all.length === 0) return
  const [holder, key] = pick(random, all)
  const value = holder[key]
  switch (random(6)) {
    case 0: delete holder[key]; break
    case 1: holder[key] = anyValue(random); break
    case 2: holder[key] = typeof value === 'number' ? value + pick(random, [-1, 1, -8, 8, 2 ** 32, 0.5]) : anyValue(random); break
    case 3: holder[key] = typeof value === 'number' ? pick(random, numbers) : typeof value === 'string' ? pick(random, texts) : value; break
    case 4: {
      const [from, other] = pick(random, all)
      holder[key] = structuredClone(from[other])
      break
    }
    default:
      delete holder[key]
      holder[pick(random, [...texts, ...all.map(([, name]) => String(name))])] = value
  }
}

/** Changes a text a little, wherever: the JSON may no longer be any. */
function changeBytes(random, bytes) {
  const at = random(bytes.length + 1)
  const length = random(Math.min(40, bytes.length - at + 1))
  const before = bytes.subarray(0, at)
  switch (random(6)) {
    case 0: return Buffer.concat([before, bytes.subarray(at + length)])
    case 1: return Buffer.concat([before, Buffer.from(pick(random, tokens)), bytes.subarray(at)])
    case 2: return Buffer.concat([before, Buffer.from(pick(random, tokens)), bytes.subarray(at + length)])
    case 3: return Buffer.concat([before, bytes.subarray(at, at + length), bytes.subarray(at)])
    case 4: return before
    default: {
      const changed = Buffer.from(bytes)
      if (changed.length > 0) changed[random(changed.length)] ^= 1 << random(8)
      return changed
    }
  }
}

/** A JSON text with one to four changes. */
function mutateJson(random, text) {
  const value = JSON.parse(text)
  const structural = random(4) > 0
  for (let changes = 1 + random(3); structural && changes > 0; changes--) changeValue(random, value)
  const bytes = Buffer.from(structural ? JSON.stringify(value) : text)
  return structural && random(5) > 0 ? bytes : changeBytes(random, bytes)
}

const widths = { F32: 4, I32: 4, U32: 4, F64: 8, I64: 8, BF16: 2, F16: 2, I16: 2, U8: 1, I8: 1, BOOL: 1 }

/** Changes that leave a header sound, so that what comes after it is reached: other names, shapes and types of the same bytes, tensors that swap places. */
function changeSoundly(random, header) {
  const names = Object.keys(header).filter((name) => name !== '__metadata__')
  const name = pick(random, names)
  const tensor = header[name]
  switch (random(5)) {
    case 0: tensor.shape.reverse(); break
    case 1: tensor.shape = [tensor.shape.reduce((product, length) => product * length, 1)]; break
    case 2: tensor.dtype = pick(random, Object.keys(widths).filter((type) => widths[type] === widths[tensor.dtype])); break
    case 3: {
      const other = header[pick(random, names)]
      const same = names.filter((one) => header[one].data_offsets[1] - header[one].data_offsets[0] === other.data_offsets[1] - other.data_offsets[0])
      const partner = header[pick(random, same)]
      const offsets = partner.data_offsets
      partner.data_offsets = other.data_offsets
      other.data_offsets = offsets
      break
    }
    default:
      delete header[name]
      header[pick(random, ['renamed', 'lm_head.weight', 'model.norm.weight', `${name}.`, name.toUpperCase()])] = tensor
  }
}

function mutateHeader(random, text) {
  if (random(3) > 0) return mutateJson(random, text)
  const header = JSON.parse(text)
  for (let changes = 1 + random(3); changes > 0; changes--) changeSoundly(random, header)
  return Buffer.from(JSON.stringify(header))
}

/** The first bytes of a safetensors file, and the size that the file has: header length, header, and as many bytes of data as it should have. */
function mutateSafetensors(random, bytes) {
  const headerBytes = Number(bytes.readBigUInt64LE(0))
  const dataBytes = bytes.length - 8 - headerBytes
  const header = mutateHeader(random, bytes.subarray(8, 8 + headerBytes).toString())
  const length = Buffer.alloc(8)
  const said = [header.length, header.length, header.length, header.length + 1, headerBytes, 2 ** 40, 0][random(7)]
  length.writeBigUInt64LE(random(50) === 0 ? 2n ** 64n - 1n : BigInt(said))
  const data = random(8) === 0 ? random(2 * dataBytes + 1) : dataBytes
  const changed = Buffer.concat([length, header])
  return { start: random(40) === 0 ? changed.subarray(0, random(changed.length)) : changed, dataBytes: data }
}

module.exports = { randomFrom, mutateJson, mutateSafetensors, pick }
