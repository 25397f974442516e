// The addon is looked for at its first use alone, and its absence is explained.
import { HeddleError } from '../../lib/errors'

afterEach(() => { jest.resetModules(); jest.dontMock('node-gyp-build') })

function withLoader(loader: (root: string) => unknown): typeof import('../../lib/group') {
  jest.resetModules()
  jest.doMock('node-gyp-build', () => loader)
  return require('../../lib/group') as typeof import('../../lib/group')
}

test('importing loads nothing, the first group loads it once', async () => {
  const real = jest.requireActual('node-gyp-build') as (root: string) => unknown
  const roots: string[] = []
  const { openGroup } = withLoader((root) => { roots.push(root); return real(root) })
  expect(roots).toEqual([])
  const groups = await Promise.all([openGroup({ size: 1 }), openGroup({ size: 2 })])
  expect(roots).toEqual([require('node:path').resolve(__dirname, '..', '..')])
  await Promise.all(groups.map((group) => group.close()))
})

test('a missing binary is unavailable, with the platform and what to do; the next attempt looks again', async () => {
  const cause = new Error('No native build was found')
  let attempts = 0
  const { openGroup } = withLoader(() => { attempts++; throw cause })
  for (const attempt of [1, 2]) {
    const error = await openGroup({ size: 1 }).then(() => undefined, (thrown: HeddleError) => thrown)
    expect(error).toMatchObject({ name: 'HeddleError', code: 'unavailable', cause, details: { platform: process.platform, arch: process.arch } })
    expect(error!.message).toContain(`${process.platform}-${process.arch}`)
    expect(error!.message).toContain('No native build was found. If install scripts were blocked run: npm rebuild heddle, or: npx heddle-build')
    expect(attempts).toBe(attempt)
  }
})

test('bad options are found without the binary', async () => {
  const { openGroup } = withLoader(() => { throw new Error('not reached') })
  await expect(openGroup({ size: 0 })).rejects.toMatchObject({ code: 'invalid_argument' })
})
