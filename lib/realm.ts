// What native code makes belongs to Node's main realm. Where this code runs in another (in jest, or a context of `vm`), it is made anew, so
// that `instanceof` means there what it says.

const typedArrays = { Float32Array, Int32Array, Float64Array, Uint8Array } as const

/** The value itself where it is of this realm, as it is in any plain program; else a copy of its objects around the same memory. */
export function ofThisRealm<T>(value: T): T {
  if (typeof value !== 'object' || value === null || value instanceof Object) return value
  return made(value) as T
}

function made(value: object): unknown {
  if (ArrayBuffer.isView(value)) return madeView(value)
  if (Array.isArray(value)) return value.map((item: unknown) => ofThisRealm(item))
  return Object.fromEntries(Object.entries(value).map(([name, item]: [string, unknown]) => [name, ofThisRealm(item)]))
}

function madeView(view: ArrayBufferView): ArrayBufferView {
  const name = Object.prototype.toString.call(view).slice(8, -1)
  if (!Object.hasOwn(typedArrays, name)) return view
  const Own = typedArrays[name as keyof typeof typedArrays]
  return new Own(view.buffer as ArrayBuffer, view.byteOffset, (view as Float32Array).length)
}
