// What is computed from measurements: the formulas behind shares and efficiencies. docs/performance.md derives them.

/** Roofline (Williams et al. 2009): FLOP/s that `intensity` operations a byte allow: arithmetic or the bytes it needs, whichever ends first. */
export function attainable(intensity: number, operationsPerSecond: number, bytesPerSecond: number): number {
  return Math.min(operationsPerSecond, intensity * bytesPerSecond)
}

/** Percent of the speed-up that `ranks` ranks could give: T1 / (N · TN). */
export function efficiency(secondsOfOne: number, ranks: number, seconds: number): number {
  return 100 * (secondsOfOne / (ranks * seconds))
}

/**
 * Percent that attention takes of a decode step behind `longContext` tokens, from steps of `short` and `long` seconds: only attention grows
 * with the context, and in proportion, so it takes (long - short) · longContext / (longContext - shortContext) of the long step.
 */
export function attentionShare(short: number, long: number, shortContext: number, longContext: number): number {
  return (100 * (((long - short) * longContext) / (longContext - shortContext))) / long
}
