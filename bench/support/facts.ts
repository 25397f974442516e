// What a result is about, as data: charts, tables and comparisons choose results by these, never by their names.
// Units of `median`, `low`, `high` are the result's own `unit`.

export type CollectiveName = 'all_reduce' | 'all_gather' | 'reduce_scatter' | 'send_recv'

export type Facts =
  // one linear of a model as a shard of `tp`; unit FLOP/s. Intensity: operations per byte that must move.
  | { metric: 'gemm'; device: string; model: string; linear: string; tp: number; rows: number; intensity: number }
  // measured before the GEMMs; unit FLOP/s or B/s
  | { metric: 'ceiling'; device: string; of: 'arithmetic' | 'memory' }
  // one message size of a collective; unit GB/s (1e9), bus bandwidth as nccl-tests count it
  | { metric: 'busbw'; collective: CollectiveName; communicator: string; ranks: number; bytes: number; graph: boolean }
  // a horizontal line in the chart of bus bandwidths; unit GB/s
  | { metric: 'link'; line: 'line rate' | 'practical limit' | 'NVLS limit' | 'memory bandwidth'; collective: CollectiveName; ranks: number }
  // one layer kind of a model; unit µs
  | { metric: 'layer'; model: string; layer: string; tp: number; rows: number; part: 'compute' | 'communication' | 'total'; modelled: boolean }
  // T1 / (N · TN); unit %
  | { metric: 'efficiency'; model: string; layer: string; tp: number; rows: number; modelled: boolean }
  // unit tok/s
  | { metric: 'rate'; phase: 'decode' | 'prefill' | 'generate'; tp: number; batch: number; tokens: number }
  // one contender of a comparison; unit tok/s
  | { metric: 'peer'; phase: string; contender: string }
  // heddle over one contender; unit x
  | { metric: 'peer ratio'; phase: string; contender: string }

export type FactsOf<M extends Facts['metric']> = Extract<Facts, { metric: M }>
