// Whether two series of samples differ beyond their spread: the rank-sum test of Mann and Whitney (Annals of Mathematical Statistics 18,
// 1947), which assumes no shape of noise. docs/performance.md derives it.

/** From so many samples on, the exact distribution gives way to its normal approximation. */
const exactUpTo = 60

/**
 * Two-sided p: how often series drawn from one distribution fall at least as far apart as these. Ties share their mean rank, and the
 * distribution is then that of these very ranks.
 */
export function rankSumP(a: readonly number[], b: readonly number[]): number {
  const ranks = doubledRanks([...a, ...b])
  const sum = ranks.slice(0, a.length).reduce((total, rank) => total + rank, 0)
  return a.length + b.length <= exactUpTo ? exactP(ranks, a.length, sum) : normalP(ranks, a.length, sum)
}

/** The smallest p that series of these lengths can give: 2 / C(n + m, n), when they do not overlap at all. */
export function leastP(n: number, m: number): number {
  let orders = 1
  for (let i = 1; i <= n; i++) orders *= (m + i) / i
  return Math.min(1, 2 / orders)
}

/**
 * The interval of b / a at confidence 1 - alpha, by Hodges and Lehmann: the ratios of all pairs, sorted, without the outermost ones that the
 * test would let pass. undefined where there are too few samples for that confidence. Samples are positive.
 */
export function ratioInterval(a: readonly number[], b: readonly number[], alpha: number): [number, number] | undefined {
  const ratios = a.flatMap((x) => b.map((y) => y / x)).sort((x, y) => x - y)
  const outer = outerPairs(a.length, b.length, alpha)
  return outer === 0 ? undefined : [ratios[outer - 1], ratios[ratios.length - outer]]
}

// The largest k for which P(U < k) is at most alpha / 2.
function outerPairs(n: number, m: number, alpha: number): number {
  if (n + m > exactUpTo) {
    const deviation = Math.sqrt((n * m * (n + m + 1)) / 12)
    return Math.max(0, Math.floor((n * m) / 2 - normalQuantile(1 - alpha / 2) * deviation))
  }
  const ranks = Array.from({ length: n + m }, (_, i) => 2 * (i + 1))
  const ways = waysBySum(ranks, n)
  const all = total(ways)
  let below = 0
  for (let u = 0; ; u++) {
    below += ways[n * (n + 1) + 2 * u] // U = (rank sum) - n (n + 1) / 2, and the ranks are doubled
    if (below / all > alpha / 2) return u
  }
}

// Twice the rank of each value, whole numbers even where ties share a mean rank.
function doubledRanks(values: readonly number[]): number[] {
  const order = values.map((_, i) => i).sort((i, j) => values[i] - values[j])
  const ranks = new Array<number>(values.length)
  for (let first = 0; first < order.length; ) {
    let end = first + 1
    while (end < order.length && values[order[end]] === values[order[first]]) end++
    for (let i = first; i < end; i++) ranks[order[i]] = first + 1 + end
    first = end
  }
  return ranks
}

function exactP(ranks: readonly number[], n: number, sum: number): number {
  const ways = waysBySum(ranks, n)
  const mean = (n * (ranks.length + 1)) // of doubled ranks
  const distance = Math.abs(sum - mean)
  return total(ways.filter((_, s) => Math.abs(s - mean) >= distance)) / total(ways)
}

// How many choices of n ranks have each sum.
function waysBySum(ranks: readonly number[], n: number): number[] {
  const largest = ranks.reduce((all, rank) => all + rank, 0)
  const ways = Array.from({ length: n + 1 }, () => new Array<number>(largest + 1).fill(0))
  ways[0][0] = 1
  for (const rank of ranks) {
    for (let count = n; count > 0; count--) {
      for (let s = largest; s >= rank; s--) ways[count][s] += ways[count - 1][s - rank]
    }
  }
  return ways[n]
}

function normalP(ranks: readonly number[], n: number, sum: number): number {
  const all = ranks.length
  const mean = n * (all + 1)
  // the variance of a sum of n ranks drawn without putting back; ties make it smaller by themselves
  const spread = ranks.reduce((squares, rank) => squares + (rank - (all + 1)) ** 2, 0) / all
  const deviation = Math.sqrt((n * (all - n) * spread) / (all - 1))
  if (deviation === 0) return 1
  return 2 * (1 - normalBelow(Math.max(0, Math.abs(sum - mean) - 1) / deviation))
}

// The normal distribution function by Abramowitz and Stegun 7.1.26; the error is below 1e-7.
function normalBelow(z: number): number {
  const t = 1 / (1 + 0.3275911 * (Math.abs(z) / Math.SQRT2))
  const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * Math.exp(-z * z / 2)
  return z >= 0 ? 1 - tail / 2 : tail / 2
}

function normalQuantile(p: number): number {
  let low = -10
  let high = 10
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2
    if (normalBelow(middle) < p) low = middle
    else high = middle
  }
  return (low + high) / 2
}

function total(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0)
}
