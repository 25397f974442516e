// What heddle's process as a contender is told and answers, a line of JSON each: the words that both ends share.
import { type ModelInfo } from 'heddle'

/** Where the ranks of a group run; several may share a GPU. */
export interface Placement { device: 'cpu' | 'cuda'; devices?: number[] }

export interface LoadAnswer {
  seconds: number
  info: ModelInfo
  /** most memory that this process has held so far; none where the system does not say */
  peakBytes?: number
}

export interface LogitsAnswer {
  seconds: number
  /** of every bit of the logits */
  digest: string
}

export interface DecodeAnswer {
  secondsPerToken: number
  /** seconds between each token and the one before */
  gaps: number[]
  /** of the whole answer */
  tokenIds: number[]
}

export interface GenerateAnswer {
  /** from the call to the first token, for each sequence */
  firstTokenSeconds: number[]
  /** between tokens of one sequence, over all of them */
  gaps: number[]
  /** from the calls to the last token */
  seconds: number
  /** how late the event loop was meanwhile, in milliseconds */
  loopDelay: LoopDelay
}

export interface LoopDelay { p50: number; p99: number; most: number }
