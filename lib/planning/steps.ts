// What one token costs a rank, read from the nodes that it would be told: bytes of weights, operations, collectives.
import type { NodeSpec, TensorSpec } from '../group'
import type { ModelConfig } from '../models/config'
import { elementBytes } from '../shard'

export interface TokenCost {
  /** of weights that a step with one sequence reads */
  weightBytesRead: number
  /** floating-point operations of the weights for one token, two for each multiplication and addition; the head, once a sequence, apart */
  operations: number
  headOperations: number
  /** widths of the all-reduces, in elements of one token */
  allReduceWidths: number[]
  /** of all-gathers, and of the exchange that sampling makes */
  otherCollectives: number
}

export function tokenCost(nodes: readonly NodeSpec[], rank: number, tensors: ReadonlyMap<number, TensorSpec[]>, config: ModelConfig): TokenCost {
  const cost: TokenCost = { weightBytesRead: 0, operations: 0, headOperations: 0, allReduceWidths: [], otherCollectives: 0 }
  const { expertsPerToken = 1, expertCount = 1 } = config.experts ?? {}
  let afterLastRows = false
  for (const { op, tensors: ids, width } of nodes) {
    if (op === 'lastRows') afterLastRows = true
    if (op === 'allReduce') cost.allReduceWidths.push(width)
    if (op === 'allGather' || op === 'sample') cost.otherCollectives += 1
    if (op === 'embed' || op === 'attention') continue // a row of the table; the cache is counted apart
    const chosen = op === 'experts' ? expertsPerToken / expertCount : 1 // of all experts, those that a token goes to
    for (const id of ids) {
      const spec = tensors.get(id)?.[rank]
      if (!spec || spec.role !== 'weight') continue
      const elements = spec.shape.reduce((product, length) => product * length, 1)
      cost.weightBytesRead += chosen * elements * elementBytes(spec.dtype)
      if (op !== 'linear' && op !== 'experts' && op !== 'route') continue
      cost[afterLastRows ? 'headOperations' : 'operations'] += 2 * chosen * elements
    }
  }
  return cost
}
