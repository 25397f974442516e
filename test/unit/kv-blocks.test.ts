// Cache blocks have one owner each, come back whole, and are handed to those who wait in order.
import { HeddleError } from '../../lib/errors'
import { BlockPool, BlockTable } from '../../lib/generation/kv-blocks'
import { Random } from '../support/random'

test('a table takes the blocks that its positions need, all or none', () => {
  const pool = new BlockPool(4, 16)
  const table = new BlockTable(pool)
  expect(table.reserve(16)).toBe(true)
  expect(table.blocks).toHaveLength(1)
  expect(table.reserve(17)).toBe(true)
  expect(table.blocks).toHaveLength(2)
  expect(table.reserve(3)).toBe(true)
  expect(table.blocks).toHaveLength(2)
  const other = new BlockTable(pool)
  expect(other.reserve(33)).toBe(false)
  expect(other.blocks).toHaveLength(0)
  expect(pool.freeCount).toBe(2)
  table.release()
  table.release()
  expect(pool.usedCount).toBe(0)
})

test('acquire waits in order, and a large request is not overtaken', async () => {
  const pool = new BlockPool(4, 16)
  const held = await pool.acquire(3)
  const order: string[] = []
  const large = pool.acquire(4).then((blocks) => {
    order.push('large')
    return blocks
  })
  const small = pool.acquire(1).then((blocks) => {
    order.push('small')
    return blocks
  })
  expect(pool.hasWaiters).toBe(true)
  await Promise.resolve()
  expect(order).toEqual([])
  pool.give(held)
  pool.give(await large)
  pool.give(await small)
  expect(order).toEqual(['large', 'small'])
  expect(pool.usedCount).toBe(0)
})

test('more than there is can never be had, and closing ends the waiting', async () => {
  const pool = new BlockPool(4, 16)
  await expect(pool.acquire(5)).rejects.toMatchObject({ code: 'invalid_argument', message: expect.stringMatching(/at most 64 tokens/) })
  await pool.acquire(4)
  const waiting = pool.acquire(1)
  pool.close(new HeddleError('closed', 'over'))
  await expect(waiting).rejects.toMatchObject({ code: 'closed' })
  await expect(pool.acquire(1)).rejects.toMatchObject({ code: 'closed' })
})

test('no block has two owners, whatever happens', () => {
  const random = new Random(3)
  const pool = new BlockPool(64, 4)
  const tables = Array.from({ length: 8 }, () => new BlockTable(pool))
  for (let step = 0; step < 5000; step++) {
    const table = tables[random.integer(tables.length)]!
    if (random.integer(4) === 0) table.release()
    else table.reserve(random.integer(60))
    const owned = tables.flatMap(({ blocks }) => blocks)
    expect(new Set(owned).size).toBe(owned.length)
    expect(pool.usedCount).toBe(owned.length)
  }
  for (const table of tables) table.release()
  expect(pool.freeCount).toBe(64)
})
