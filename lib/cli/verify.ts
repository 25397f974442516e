// `heddle verify`: compares a model at several sizes, module by module. Exit code 0 where nothing departs, else 1.
import { verifyTensorParallel } from '../generation/verify'
import type { Verification } from '../generation/verify'
import { modelArguments, modelOptions, number, numbers, parseOptions, text, UsageError } from './arguments'

export async function verify(args: string[]): Promise<number> {
  const values = parseOptions(args, { ...modelOptions, prompt: { type: 'string' }, tolerance: { type: 'string' }, json: { type: 'boolean' } })
  const sizes = numbers(values, 'tp') ?? [1, 2]
  if (sizes.length < 2) throw new UsageError(`--tp expects at least two sizes such as 1,2,4, got ${sizes.join(',')}`)
  if (values.devices !== undefined) throw new UsageError('--devices is for one size; verify takes the first GPUs')
  const { model, options } = modelArguments({ ...values, tp: undefined })
  const prompt = text(values, 'prompt')
  const tolerance = number(values, 'tolerance')
  const found = await verifyTensorParallel(model, { ...options, sizes, ...(prompt !== undefined && { prompt }), ...(tolerance !== undefined && { tolerance }) })
  process.stdout.write(values.json ? `${JSON.stringify(found)}\n` : report(found))
  return found.passed ? 0 : 1
}

function report({ dtype, tolerance, tokens, referenceSize, sizes, passed }: Verification): string {
  const lines = sizes.flatMap(({ tpSize, modules, firstDeparture, sameTopToken }) => {
    const worst = modules.reduce((most, one) => (one.difference > most.difference ? one : most))
    const said = firstDeparture
      ? `departs first at ${firstDeparture.module}: ${shown(firstDeparture.difference)} of its size, largest ${shown(firstDeparture.largest)}`
      : `nothing departs; most at ${worst.module}: ${shown(worst.difference)}`
    return [`size ${tpSize}: ${said}; the same likeliest token at ${(100 * sameTopToken).toFixed(1)} % of positions`]
  })
  const head = `${tokens} tokens, ${dtype}, against size ${referenceSize}, relative differences up to ${tolerance} pass`
  return `${[head, ...lines, passed ? 'passed' : 'FAILED'].join('\n')}\n`
}

const shown = (value: number): string => value.toExponential(1)
