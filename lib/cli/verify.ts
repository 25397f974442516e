// `heddle verify`: compares a model at several sizes, module by module. Exit code 0 where nothing departs, else 1.
import { verifyTensorParallel } from '../generation/verify'
import type { Verification } from '../generation/verify'
import { parseFlags, readFlags, UsageError } from './flags'
import { modelName, withDownloadLine } from './loading'
import { jsonFlag, modelFlag, verifyFlags } from './options'

export async function verify(args: string[]): Promise<number> {
  const values = parseFlags(args, modelFlag, verifyFlags, jsonFlag)
  const model = modelName(values)
  const options = readFlags(values, verifyFlags)
  const { sizes = [] } = options
  if (options.sizes && sizes.length < 2) throw new UsageError(`--tp expects at least two sizes such as 1,2,4, got ${sizes.join(',')}`)
  const found = await verifyTensorParallel(model, withDownloadLine(options))
  process.stdout.write(values.json ? `${JSON.stringify(found)}\n` : report(found))
  return found.passed ? 0 : 1
}

function report({ dtype, reproducible, tolerance, tokens, referenceSize, sizes, passed }: Verification): string {
  const bitwise = tolerance === 0
  const lines = sizes.flatMap(({ tpSize, modules, firstDeparture, sameTopToken }) => {
    const worst = modules.reduce((most, one) => (one.difference > most.difference ? one : most))
    const said = firstDeparture
      ? `departs first at ${firstDeparture.module}: ${shown(firstDeparture.difference)} of its size, largest ${shown(firstDeparture.largest)}`
      : bitwise
        ? 'nothing departs: the same bits in every module'
        : `nothing departs; most at ${worst.module}: ${shown(worst.difference)}`
    return [`size ${tpSize}: ${said}; the same likeliest token at ${(100 * sameTopToken).toFixed(1)} % of positions`]
  })
  const passes = bitwise ? 'compared bit for bit' : `relative differences up to ${tolerance} pass`
  const head = `${tokens} tokens, ${dtype}${reproducible ? ', reproducible' : ''}, against size ${referenceSize}, ${passes}`
  return `${[head, ...lines, passed ? 'passed' : 'FAILED'].join('\n')}\n`
}

const shown = (value: number): string => value.toExponential(1)
