// Quantities as the command shows them.

/** In the largest unit of powers of 1000 that leaves a number from 1, with `digits` behind the point, none for bytes alone. */
export function bytes(count: number, digits: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  const power = count < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(count) / 3))
  return `${(count / 1000 ** power).toFixed(power === 0 ? 0 : digits)} ${units[power]}`
}
