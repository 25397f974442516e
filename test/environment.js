// Typed arrays made by native code belong to node's main realm; jest's vm context has its own constructors.
// Rule: every test sees the main realm's, so that instanceof and toEqual mean what they mean in a user's program.
const { TestEnvironment } = require('jest-environment-node')

const names = [
  'ArrayBuffer', 'SharedArrayBuffer', 'DataView', 'Uint8ClampedArray', 'BigInt64Array', 'BigUint64Array',
  'Int8Array', 'Uint8Array', 'Int16Array', 'Uint16Array', 'Int32Array', 'Uint32Array', 'Float32Array', 'Float64Array',
]

module.exports = class extends TestEnvironment {
  constructor(config, context) {
    super(config, context)
    for (const name of names) this.global[name] = globalThis[name]
  }
}
