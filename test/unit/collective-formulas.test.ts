// The formulas of the collective bench against values worked out by hand.
import { algorithmBandwidth, busBandwidth, busFactor, dataRate, lineRate, memoryFactor, memoryLimit, nvlsLimit, practicalShare }
  from '../../bench/support/collective-formulas'
import { type CollectiveName } from '../../bench/support/facts'
import { slowestLinks } from '../../bench/support/link-rate'

const collectives: CollectiveName[] = ['all_reduce', 'all_gather', 'reduce_scatter', 'send_recv']
const links = (count: number, megabytesPerSecond: number) => Array.from({ length: count }, () => ({ megabytesPerSecond }))

describe('algbw and busbw', () => {
  test('algbw is bytes by time, in 10^9 bytes', () => {
    expect(algorithmBandwidth(1_000_000, 0.001)).toBeCloseTo(1, 12) // 1 MB in 1 ms
    expect(algorithmBandwidth(2 ** 30, 0.5)).toBeCloseTo(2.147483648, 12)
  })

  // 2(n-1)/n, (n-1)/n, (n-1)/n, 1
  test.each([
    [2, [1, 0.5, 0.5, 1]],
    [3, [4 / 3, 2 / 3, 2 / 3, 1]],
    [4, [1.5, 0.75, 0.75, 1]],
    [8, [1.75, 0.875, 0.875, 1]],
  ])('the factors of %i ranks', (ranks, factors) => {
    collectives.forEach((collective, i) => expect(busFactor(collective, ranks)).toBeCloseTo(factors[i], 12))
  })

  test('busbw is algbw by the factor', () => {
    // 128 MiB among 8 in 561 µs: algbw 134217728 / 561e-6 s = 239.2473 GB/s, busbw 1.75 times that
    expect(algorithmBandwidth(134217728, 561e-6)).toBeCloseTo(239.2473, 3)
    expect(busBandwidth('all_reduce', 8, 134217728, 561e-6)).toBeCloseTo(418.6829, 3)
    // 4 ranks, 1 MB in 10 µs: 100 GB/s
    expect(busBandwidth('all_gather', 4, 1e6, 1e-5)).toBeCloseTo(75, 9)
    expect(busBandwidth('reduce_scatter', 4, 1e6, 1e-5)).toBeCloseTo(75, 9)
    expect(busBandwidth('send_recv', 4, 1e6, 1e-5)).toBeCloseTo(100, 9)
  })
})

describe('NVLink', () => {
  test.each([
    [26562, 25], // NVLink 4: 106.25 Gbit/s on two lanes, 100 of data on each
    [53125, 50], // NVLink 5
    [25781, 25], // NVLink 2 and 3 as older drivers count: 33/32
    [25000, 25],
    [20000, 20],
    [12345, 12.345], // no encoding leads to a multiple of 5 GB/s: as reported
  ])('%i MB/s as reported is %p GB/s of data', (reported, data) => {
    expect(dataRate(reported)).toBeCloseTo(data, 9)
  })

  test('the line rate is links by data rate', () => {
    expect(lineRate(links(18, 26562))).toBeCloseTo(450, 9) // H100, H200
    expect(lineRate(links(12, 25000))).toBeCloseTo(300, 9) // A100
    expect(lineRate(links(6, 25781))).toBeCloseTo(150, 9) // V100
    expect(lineRate(links(18, 53125))).toBeCloseTo(900, 9) // B200
    expect(lineRate([])).toBe(0)
  })

  test('the practical limit of Hopper is 370 GB/s', () => { expect(450 * practicalShare).toBeCloseTo(370, 9) })

  test.each([[2, 300], [4, 540], [8, 700]])('the NVLS limit of an all-reduce among %i at 450 GB/s is %i', (ranks, limit) => {
    expect(nvlsLimit('all_reduce', ranks, 450)).toBeCloseTo(limit, 9)
  })

  test('the others have no limit of their own in the switch', () => {
    expect(collectives.slice(1).map((collective) => nvlsLimit(collective, 8, 450))).toEqual([undefined, undefined, undefined])
  })
})

describe('the links of a machine', () => {
  const gpu = (name: string, count: number, speed: number) => ({ name, links: links(count, speed).map((link) => ({ ...link, version: 6 })) })

  test('the slowest GPU counts', () => {
    const { gigabytesPerSecond, about } = slowestLinks([gpu('A', 18, 26562), gpu('B', 16, 26562)])
    expect(gigabytesPerSecond).toBeCloseTo(400, 9)
    expect(about).toBe('B: 16 links, NVML reports 26.562 GB/s each: 400 GB/s of data')
  })

  test('none, and none that are known', () => {
    expect(slowestLinks([])).toEqual({ gigabytesPerSecond: 0, about: 'no NVLink' })
    expect(slowestLinks([gpu('A', 18, 26562), gpu('B', 0, 0)])).toEqual({ gigabytesPerSecond: 0, about: 'no NVLink' })
    expect(slowestLinks([gpu('A', 18, 0)]).about).toBe('A: NVLink whose rate NVML does not tell')
  })
})

describe('memory', () => {
  test('bytes that must move for each byte of the array', () => {
    expect(collectives.map((collective) => memoryFactor(collective, 2))).toEqual([4, 3, 3, 4])
    expect(collectives.map((collective) => memoryFactor(collective, 4))).toEqual([8, 5, 5, 8])
  })

  test('the bus bandwidth that memory allows', () => {
    // 40 GB/s, two ranks: an all-reduce of S moves 4 S, so S / t = 10 and busbw = 10; an all-gather 3 S: 13.33, busbw half of it
    expect(memoryLimit('all_reduce', 2, 40)).toBeCloseTo(10, 9)
    expect(memoryLimit('all_gather', 2, 40)).toBeCloseTo(20 / 3, 9)
    expect(memoryLimit('reduce_scatter', 2, 40)).toBeCloseTo(20 / 3, 9)
    expect(memoryLimit('send_recv', 2, 40)).toBeCloseTo(10, 9)
    // four ranks: 8 S, busbw 1.5 algbw
    expect(memoryLimit('all_reduce', 4, 40)).toBeCloseTo(7.5, 9)
  })
})
