// Every case of the bench, in the order in which they run: those with large units of work first, so that what they take beyond their share of
// the time comes off cases that can be cut anywhere.
import { type Case } from '../support/case'
import { boundary } from './boundary'
import { allGather, allReduce, reduceScatter, sendReceive } from './collectives'
import { decode } from './decode'
import { gemm } from './gemm'
import { generate } from './generate'
import { gpu } from './gpu'
import { layers } from './layers'
import { load } from './load'
import { peers } from './peers'
import { prefill } from './prefill'
import { reproducible } from './reproducible'

export const defaultCases: Case[] = [decode, prefill, generate, peers, layers, load, boundary, allReduce, allGather, reduceScatter, sendReceive, gemm]

// Only when they are named: one opens every model twice, the other needs a GPU, and as it stands a checkpoint of 16 GB.
export const allCases: Case[] = [...defaultCases, reproducible, gpu]

/** The cases of these names in the order of the list, the default ones for none; throws on a name that no case has. */
export function chosenCases(names: string[]): Case[] {
  const unknown = names.find((name) => !allCases.some((one) => one.name === name))
  if (unknown) throw new Error(`bench: expected cases among ${allCases.map((one) => one.name).join(', ')}, got ${unknown}`)
  return names.length === 0 ? defaultCases : allCases.filter((one) => names.includes(one.name))
}
