// The model families that the one decoder serves: what sets each apart beyond its config.json.
import { HeddleError } from '../errors'
import type { ConfigFields } from './config-fields'

export interface FamilyTraits {
  architecture: string
  /** RMS norm of every query and key head before the rotation */
  queryKeyNorm: boolean
  /** whether config.json's `mlp_bias` has a meaning */
  mlpBias: boolean
}

const families = new Map<string, FamilyTraits>([
  ['llama', { architecture: 'LlamaForCausalLM', queryKeyNorm: false, mlpBias: true }],
  ['qwen3', { architecture: 'Qwen3ForCausalLM', queryKeyNorm: true, mlpBias: false }]
])

/** Both `model_type` and `architectures` must name the same known family: a checkpoint that names another head is another model. */
export function familyOf(fields: ConfigFields): { modelType: string; traits: FamilyTraits } {
  const modelType = fields.text('model_type')
  const traits = modelType === undefined ? undefined : families.get(modelType)
  const architecture = readArchitecture(fields)
  if (!modelType || !traits || (architecture !== undefined && architecture !== traits.architecture)) {
    const named = [
      architecture && `architecture ${architecture.slice(0, 100)}`,
      modelType && `model_type ${modelType.slice(0, 100)}`
    ].filter(Boolean)
    throw new HeddleError(
      'unsupported_model',
      `${fields.where}: ${named.join(', ') || 'a config without model_type'} is not supported; ` +
        `supported: ${[...families].map(([type, { architecture: name }]) => `${name} (${type})`).join(', ')}`,
      { details: { modelType, architecture } }
    )
  }
  return { modelType, traits }
}

function readArchitecture(fields: ConfigFields): string | undefined {
  const value = fields.value('architectures')
  if (value === undefined) return undefined
  if (!Array.isArray(value) || !value.every((name) => typeof name === 'string'))
    throw fields.wrong('architectures', 'a list of texts', value)
  return value[0]
}
