// HeddleError: one class, a code, a text of the form "where: expected, got".
import { HeddleError, describe as shown, heddleErrorCodes, invalidArgument, isHeddleErrorCode, messageOf } from '../../lib/errors'

describe('HeddleError', () => {
  test('carries name, code, text, cause and details', () => {
    const cause = new Error('disk')
    const error = new HeddleError('corrupt_file', 'model.safetensors: bad header', { cause, details: { file: 'model.safetensors' } })
    expect(error).toBeInstanceOf(Error)
    expect(error).toMatchObject({ name: 'HeddleError', code: 'corrupt_file', message: 'model.safetensors: bad header', cause })
    expect(error.details).toEqual({ file: 'model.safetensors' })
    expect(String(error)).toBe('HeddleError: model.safetensors: bad header')
    expect(error.stack).toContain('errors.test.ts')
  })

  test('has no cause of its own making', () => {
    expect('cause' in new HeddleError('closed', 'Model: closed')).toBe(false)
  })

  test('knows its codes', () => {
    expect(heddleErrorCodes).toHaveLength(12)
    expect(isHeddleErrorCode('timeout')).toBe(true)
    expect(isHeddleErrorCode('toString')).toBe(false)
    expect(isHeddleErrorCode(undefined)).toBe(false)
  })
})

describe('invalidArgument', () => {
  test('says where, what was expected and what came', () => {
    const error = invalidArgument('openGroup: size', 'a whole number of at least 1', -2)
    expect(error.code).toBe('invalid_argument')
    expect(error.message).toBe('openGroup: size: expected a whole number of at least 1, got -2')
  })

  test.each([
    [undefined, 'undefined'],
    [null, 'null'],
    [NaN, 'NaN'],
    [10n, '10n'],
    [Symbol('x'), 'Symbol(x)'],
    ['hi', '"hi"'],
    ['x'.repeat(1000), `"${'x'.repeat(60)}…"`],
    [[], 'an empty array'],
    [new Array(5), 'an array of 5'],
    [new Float32Array(3), 'Float32Array of 12 bytes'],
    [() => 1, 'a function'],
    [Object.create(null), 'an object'],
    [
      {
        toString: () => {
          throw new Error('no')
        }
      },
      'an object'
    ]
  ])('shows %p in a few words', (value, text) => {
    expect(shown(value)).toBe(text)
  })
})

test('messageOf reads anything thrown', () => {
  expect(messageOf(new TypeError('bad'))).toBe('bad')
  expect(messageOf({ message: 'from another realm' })).toBe('from another realm')
  expect(messageOf('text')).toBe('text')
  expect(messageOf(undefined)).toBe('undefined')
})
