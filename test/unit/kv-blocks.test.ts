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

describe('blocks that several texts begin with', () => {
  const ids = Array.from({ length: 20 }, (_, index) => index)
  function filled(pool: BlockPool, tokens: number[]): BlockTable {
    const table = new BlockTable(pool)
    table.reuse(tokens)
    table.reserve(tokens.length)
    table.publish(tokens, tokens.length)
    return table
  }

  test('are held by each, and stay until the last gives them back', () => {
    const pool = new BlockPool(8, 4)
    const one = filled(pool, ids)
    const other = new BlockTable(pool)
    expect(other.reuse(ids)).toBe(16) // the last token is always computed
    expect(other.blocks).toEqual(one.blocks.slice(0, 4))
    expect(pool.usedCount).toBe(5)
    one.release()
    expect(pool.usedCount).toBe(4)
    other.release()
    expect(pool.usedCount).toBe(0)
    expect(new BlockTable(pool).reuse([...ids, 20])).toBe(20)
  })

  test('match whole blocks of the same beginning alone', () => {
    const pool = new BlockPool(8, 4)
    filled(pool, ids).release()
    const reused = (tokens: number[]): number => {
      const table = new BlockTable(pool)
      const count = table.reuse(tokens)
      table.release()
      return count
    }
    expect(reused([...ids.slice(0, 10), 99, 98, 97])).toBe(8)
    expect(reused([99, ...ids.slice(1)])).toBe(0)
    expect(reused([...ids.slice(4), 1])).toBe(0) // the same tokens behind another beginning
    expect(reused(ids.slice(0, 4))).toBe(0)
    expect(reused(ids.slice(0, 5))).toBe(4)
  })

  test('are given up when room is needed, the longest unused first, the end of a text before its beginning', () => {
    const pool = new BlockPool(6, 4)
    const [old, recent] = [ids.slice(0, 12), ids.slice(8, 20)]
    filled(pool, old).release()
    filled(pool, recent).release()
    expect(pool.freeCount).toBe(6)
    const taken = pool.take(2)!
    const reused = (tokens: number[]): number => {
      const table = new BlockTable(pool)
      const count = table.reuse([...tokens, 0])
      table.release()
      return count
    }
    expect(reused(old)).toBe(4)
    expect(reused(recent)).toBe(12)
    pool.give(taken)
  })

  test('two that computed the same keep one of them known', () => {
    const pool = new BlockPool(12, 4)
    const tables = [new BlockTable(pool), new BlockTable(pool)]
    for (const table of tables) table.reserve(20)
    for (const table of tables) table.publish(ids, 20)
    for (const table of tables) table.release()
    expect(pool.freeCount).toBe(12)
    const both = new BlockTable(pool)
    expect(both.reuse([...ids, 1])).toBe(20)
    expect(pool.usedCount).toBe(5)
  })

  test('are forgotten all at once, held or not', () => {
    const pool = new BlockPool(12, 4)
    const held = filled(pool, ids)
    filled(pool, ids.slice(4)).release()
    pool.forget()
    expect(new BlockTable(pool).reuse(ids)).toBe(0)
    held.release()
    expect(pool.freeCount).toBe(12)
    expect(pool.take(12)).toHaveLength(12)
  })
})
