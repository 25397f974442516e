// The queries of one sequence that read one KV head, and their online softmax over its keys and values.
// Rule: all rows of a block share every pass over the cache.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "core/backend.h"
#include "cpu/attention.h"
#include "cpu/attention_kernels.h"
#include "cpu/head_preparation.h"
#include "cpu/paged_cache.h"

namespace heddle::cpu {

struct KeyRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// The keys that are read after those of a group.
struct NextKeys {
  int64_t sequence = 0;
  int64_t kv_head = 0;
  KeyRange keys;       // empty: none
};

// Row t * group + g is query head heads[g] of token first + t.
struct QueryGroup {
  int64_t sequence = 0;
  int64_t kv_head = 0;
  int64_t first = 0;                                  // token of the step
  int64_t tokens = 0;
  int64_t context = 0;                                // keys of the sequence after this step
  const std::vector<int64_t>& heads;
  NextKeys next;

  int64_t group() const { return static_cast<int64_t>(heads.size()); }
  int64_t rows() const { return tokens * group(); }
};

class AttentionBlock {
 public:
  AttentionBlock(const AttentionArgs& args, const HeadPreparation& query, const PagedCache& cache,
                 AttentionScratch& scratch)
      : step_(args.step),
        qkv_(args.qkv),
        spec_(args.spec),
        y_(args.y),
        query_(query),
        cache_(cache),
        scratch_(scratch),
        kernels_(attention_kernels()),
        width_(padded(args.spec.head_dim)),
        reproducible_(args.reproducible) {}

  void attend(const QueryGroup& group);

  // What tokens [first, first + tokens) of a sequence of `context` keys see, all together.
  KeyRange seen(int64_t first, int64_t tokens, int64_t context) const;

 private:
  KeyRange visible(int64_t token, int64_t context) const;
  void load_queries(const QueryGroup& group);
  void store_outputs(const QueryGroup& group);
  void attend_tile(const QueryGroup& group, KeyRange tile, KeyRange next);
  void request(const QueryGroup& group, KeyRange range, PagedCache::Part part) const;
  bool reads_in_place(const QueryGroup& group) const;
  void attend_in_place(const QueryGroup& group, KeyRange span, int64_t limit);
  void soften(const QueryGroup& group, int64_t begin, int64_t end, KeyRange tile, Rows scores);
  std::pair<int64_t, int64_t> rows_that_see(const QueryGroup& group, KeyRange tile) const;
  void load_tile(const QueryGroup& group, KeyRange tile);
  void load_values(const void* values, int64_t offset, int64_t count);
  template <class Visit>
  void for_each_run(const QueryGroup& group, KeyRange range, PagedCache::Part part, Visit visit) const;
  template <class Visit>
  void for_each_piece(const QueryGroup& group, KeyRange span, int64_t limit, PagedCache::Part part, Visit visit) const;
  const char* ahead_of(const QueryGroup& group, KeyRange span, int64_t limit, PagedCache::Part part, int64_t key) const;

  Rows queries(int64_t row) const { return {scratch_.queries.data() + row * width_, width_}; }
  float* outputs(int64_t row) const { return scratch_.outputs.data() + row * width_; }
  Rows scores_of(int64_t rows, int64_t keys) const;

  const StepView& step_;
  View qkv_;
  const AttentionSpec& spec_;
  View y_;
  const HeadPreparation& query_;
  const PagedCache& cache_;
  AttentionScratch& scratch_;
  const AttentionKernels& kernels_;
  int64_t width_;                                     // padded head dimension
  bool reproducible_;
};

}  // namespace heddle::cpu
