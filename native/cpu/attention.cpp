// Attention of one rank, sequence by sequence: append to the cache, then attend for each KV head and block of queries.
// Rule: all keys and values of a sequence are in the cache before any of its queries is answered.
#include "cpu/attention.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "cpu/attention_block.h"

namespace heddle::cpu {

namespace {

constexpr int64_t kBlockRows = 256;   // rows of a query block: their queries and sums stay in the cache of the core
constexpr int64_t kBlockTokens = 64;  // of a query block where it may not depend on the heads

class Attention {
 public:
  Attention(const AttentionArgs& args, const RotaryTable& rotary, AttentionScratch& scratch)
      : step_(args.step),
        qkv_(args.qkv),
        spec_(args.spec),
        scratch_(scratch),
        cache_(*args.tensors.cache, args.step, args.spec),
        query_(args.tensors.query_norm, rotary, args.spec),
        key_(args.tensors.key_norm, rotary, args.spec),
        block_(args, query_, cache_, scratch),
        reproducible_(args.reproducible) {}

  void run() {
    group_heads();
    for (int64_t sequence = 0; sequence < step_.sequence_count; ++sequence) {
      const int64_t begin = step_.sequence_starts[sequence];
      const int64_t end = step_.sequence_starts[sequence + 1];
      for (int64_t token = begin; token < end; ++token) append(sequence, token);
      for (int64_t kv_head = 0; kv_head < spec_.kv_head_count; ++kv_head) {
        attend_kv_head(sequence, kv_head, begin, end);
      }
    }
  }

 private:
  void group_heads() {
    scratch_.heads_of_kv.resize(static_cast<size_t>(spec_.kv_head_count));
    for (auto& heads : scratch_.heads_of_kv) heads.clear();
    for (int64_t head = 0; head < spec_.head_count; ++head) {
      scratch_.heads_of_kv[static_cast<size_t>(spec_.kv_head_of_query[static_cast<size_t>(head)])].push_back(head);
    }
  }

  // Writes the token's keys and values of every KV head into the cache.
  void append(int64_t sequence, int64_t token) {
    const int64_t position = step_.positions[token];
    const float* keys = qkv_.floats() + token * qkv_.width + spec_.head_count * spec_.head_dim;
    const float* values = keys + spec_.kv_head_count * spec_.head_dim;
    scratch_.head.resize(static_cast<size_t>(spec_.head_dim));
    for (int64_t kv_head = 0; kv_head < spec_.kv_head_count; ++kv_head) {
      const int64_t offset = kv_head * spec_.head_dim;
      key_.prepare(keys + offset, token, scratch_.head.data());
      store(scratch_.head.data(), cache_.row(PagedCache::keys, sequence, position, kv_head));
      store(values + offset, cache_.row(PagedCache::values, sequence, position, kv_head));
    }
  }

  void store(const float* head, void* row) const {
    attention_kernels().narrow(head, spec_.head_dim, row, cache_.dtype());
  }

  void attend_kv_head(int64_t sequence, int64_t kv_head, int64_t begin, int64_t end) {
    const std::vector<int64_t>& heads = scratch_.heads_of_kv[static_cast<size_t>(kv_head)];
    if (heads.empty() || begin == end) return;
    const int64_t context = step_.positions[end - 1] + 1;
    const int64_t tokens = reproducible_ ? kBlockTokens : std::max<int64_t>(1, kBlockRows / static_cast<int64_t>(heads.size()));
    for (int64_t first = begin; first < end; first += tokens) {
      const bool last = first + tokens >= end;
      block_.attend({sequence, kv_head, first, std::min(tokens, end - first), context, heads,
                     last ? keys_after(sequence, kv_head) : NextKeys()});
    }
  }

  // What is read next: the next KV head of the sequence, or the first one of the sequence after it.
  NextKeys keys_after(int64_t sequence, int64_t kv_head) const {
    const bool same = kv_head + 1 < spec_.kv_head_count;
    const int64_t next = same ? sequence : sequence + 1;
    if (next == step_.sequence_count) return {};
    const int64_t begin = step_.sequence_starts[next], end = step_.sequence_starts[next + 1];
    if (begin == end) return {};
    return {next, same ? kv_head + 1 : 0, block_.seen(begin, end - begin, step_.positions[end - 1] + 1)};
  }

  const StepView& step_;
  View qkv_;
  const AttentionSpec& spec_;
  AttentionScratch& scratch_;
  PagedCache cache_;
  HeadPreparation query_;
  HeadPreparation key_;
  AttentionBlock block_;
  bool reproducible_;
};

void expect_cache_dtype(DType dtype) {
  if (dtype == DType::float32 || dtype == DType::bfloat16) return;
  throw Error(ErrorCode::invalid_argument,
              std::string("attention: expected a float32 or bfloat16 cache, got ") + name_of(dtype));
}

}  // namespace

void attention(const AttentionArgs& args, RotaryCache& rotary, AttentionScratch& scratch) {
  expect_cache_dtype(args.tensors.cache->dtype);
  const RotaryTable table = rotary.table(args.step, args.tensors.inverse_frequencies, args.spec);
  Attention(args, table, scratch).run();
}

}  // namespace heddle::cpu
