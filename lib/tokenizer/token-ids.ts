// Lists of token ids as callers hand them over: `tokenIds` of an answer are a list, those of `Program.run` an Int32Array.

export type TokenIds = readonly number[] | Int32Array

/** Also of another realm, such as that of a worker's or a test runner's context. */
export function isIntegers(value: unknown): value is Int32Array {
  return ArrayBuffer.isView(value) && Object.prototype.toString.call(value) === '[object Int32Array]'
}

/** As a list; what is neither comes back as it is. */
export function listOf(ids: TokenIds): readonly number[] {
  return isIntegers(ids) ? Array.from(ids) : ids
}
