#include "cpu/attention_block.h"

#include <algorithm>
#include <limits>

namespace heddle::cpu {

namespace {

constexpr int64_t kTileKeys = 64;   // keys of a tile, transposed once for all rows of a query block
constexpr int64_t kSpanKeys = 512;  // keys between two softmax updates where keys are read in place
constexpr int64_t kDirectRows =
    16;  // up to here keys are read in place: transposing them would cost more than it saves

constexpr int64_t kDirectTokens = 2;  // the same where heads may not count

constexpr int64_t kBlocksAhead = 4;  // asked for while keys are read in place: nearer and further were slower
constexpr int64_t kPieceRows = 4;    // of a block asked for at once

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

void prefetch(const char* from, size_t bytes) {
  constexpr size_t kLineBytes = 64;
  for (size_t offset = 0; offset < bytes; offset += kLineBytes) __builtin_prefetch(from + offset);
}

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

// Calls visit(rows, offset from range.begin, count) for every run of rows that lie together in the cache.
template <class Visit>
void AttentionBlock::for_each_run(const QueryGroup& group, KeyRange range, PagedCache::Part part, Visit visit) const {
  for (int64_t key = range.begin; key < range.end;) {
    const int64_t count = cache_.contiguous_rows(key, range.end);
    visit(cache_.row(part, group.sequence, key, group.kv_head), key - range.begin, count);
    key += count;
  }
}

// The row that is read kBlocksAhead blocks after `key`: spans are read keys first, then values, and after the last span
// come the keys of the next KV head or sequence. Null where nothing is known to come.
const char* AttentionBlock::ahead_of(const QueryGroup& group, KeyRange span, int64_t limit, PagedCache::Part part,
                                     int64_t key) const {
  int64_t ahead = key + kBlocksAhead * spec_.block_size;
  while (ahead >= span.end) {
    const int64_t beyond = ahead - round_up(span.end, spec_.block_size);
    if (beyond < 0) return nullptr;  // no block begins there
    if (part == PagedCache::keys) {
      part = PagedCache::values;
    } else if (span.end < limit) {
      part = PagedCache::keys;
      span = {span.end, std::min(span.end + kSpanKeys, limit)};
    } else {
      const NextKeys& next = group.next;
      const int64_t at = next.keys.begin + beyond;
      if (at >= next.keys.end) return nullptr;
      return static_cast<const char*>(cache_.row(PagedCache::keys, next.sequence, at, next.kv_head));
    }
    ahead = span.begin + beyond;
  }
  return static_cast<const char*>(cache_.row(part, group.sequence, ahead, group.kv_head));
}

// Runs in pieces, each behind a request for a piece that is read some blocks later. Blocks lie apart, so the processor's
// own prefetching stops at the end of each; and asked for a block at a time, the memory would rest while the core
// computes.
template <class Visit>
void AttentionBlock::for_each_piece(const QueryGroup& group, KeyRange span, int64_t limit, PagedCache::Part part,
                                    Visit visit) const {
  const auto row_bytes = static_cast<size_t>(spec_.head_dim) * size_of(cache_.dtype());
  for_each_run(group, span, part, [&](const void* rows, int64_t offset, int64_t count) {
    const char* next = ahead_of(group, span, limit, part, span.begin + offset);
    for (int64_t done = 0; done < count; done += kPieceRows) {
      const auto skipped = static_cast<size_t>(done) * row_bytes;
      const int64_t taken = std::min(kPieceRows, count - done);
      if (next) prefetch(next + skipped, static_cast<size_t>(taken) * row_bytes);
      visit(static_cast<const char*>(rows) + skipped, offset + done, taken);
    }
  });
}

void AttentionBlock::request(const QueryGroup& group, KeyRange range, PagedCache::Part part) const {
  const auto row_bytes = static_cast<size_t>(spec_.head_dim) * size_of(cache_.dtype());
  for_each_run(group, range, part, [&](const void* rows, int64_t, int64_t count) {
    prefetch(static_cast<const char*>(rows), static_cast<size_t>(count) * row_bytes);
  });
}

// The two ways add in another order, so in a reproducible group tokens alone decide: few, since they may have many heads.
bool AttentionBlock::reads_in_place(const QueryGroup& group) const {
  if (spec_.head_dim % kPadding != 0) return false;
  return reproducible_ ? group.tokens <= kDirectTokens : group.rows() <= kDirectRows;
}

// One query block: online softmax over the keys, tile by tile.
void AttentionBlock::attend(const QueryGroup& group) {
  load_queries(group);
  const KeyRange all = seen(group.first, group.tokens, group.context);
  if (reads_in_place(group)) {
    for (int64_t key = all.begin; key < all.end; key += kSpanKeys) {
      attend_in_place(group, {key, std::min(key + kSpanKeys, all.end)}, all.end);
    }
  } else {
    for (int64_t key = all.begin; key < all.end; key += kTileKeys) {
      attend_tile(group, {key, std::min(key + kTileKeys, all.end)},
                  {std::min(key + kTileKeys, all.end), std::min(key + 2 * kTileKeys, all.end)});
    }
  }
  store_outputs(group);
}

// The keys that a token sees. Both ends never fall from one token to the next.
KeyRange AttentionBlock::visible(int64_t token, int64_t context) const {
  const int64_t position = step_.positions[token];
  const int64_t begin = spec_.sliding_window > 0 ? std::max<int64_t>(0, position - spec_.sliding_window + 1) : 0;
  return {begin, spec_.causal ? position + 1 : context};
}

KeyRange AttentionBlock::seen(int64_t first, int64_t tokens, int64_t context) const {
  return {visible(first, context).begin, visible(first + tokens - 1, context).end};
}

void AttentionBlock::load_queries(const QueryGroup& group) {
  const auto count = static_cast<size_t>(group.rows() * width_);
  scratch_.queries.assign(count, 0.0f);
  scratch_.outputs.assign(count, 0.0f);
  scratch_.maxima.assign(static_cast<size_t>(group.rows()), kMinusInfinity);
  scratch_.sums.assign(static_cast<size_t>(group.rows()), 0.0f);
  float* target = scratch_.queries.data();
  for (int64_t token = group.first; token < group.first + group.tokens; ++token) {
    for (const int64_t head : group.heads) {
      query_.prepare(qkv_.floats() + token * qkv_.width + head * spec_.head_dim, token, target);
      kernels_.scale(target, spec_.scale, spec_.head_dim, target);
      target += width_;
    }
  }
}

void AttentionBlock::store_outputs(const QueryGroup& group) {
  int64_t row = 0;
  for (int64_t token = group.first; token < group.first + group.tokens; ++token) {
    for (const int64_t head : group.heads) {
      float* target = y_.floats() + token * y_.width + head * spec_.head_dim;
      kernels_.scale(outputs(row), 1.0f / scratch_.sums[static_cast<size_t>(row)], spec_.head_dim, target);
      ++row;
    }
  }
}

// Many rows: the tile's keys and values become float32 once and serve all of them. Those of the next tile are on their
// way meanwhile: else each would be waited for, line by line.
void AttentionBlock::attend_tile(const QueryGroup& group, KeyRange tile, KeyRange next) {
  const auto [begin, end] = rows_that_see(group, tile);
  if (begin == end) return;
  load_tile(group, tile);
  const int64_t count = tile.end - tile.begin;
  const Rows scores = scores_of(end - begin, kTileKeys);
  request(group, next, PagedCache::keys);
  kernels_.multiply(queries(begin), end - begin, spec_.head_dim, {scratch_.keys.data(), kTileKeys}, padded(count),
                    scores, false);
  soften(group, begin, end, tile, scores);
  request(group, next, PagedCache::values);
  kernels_.multiply(scores, end - begin, count, {scratch_.values.data(), width_}, width_, {outputs(begin), width_},
                    true);
}

// Few rows: the keys and values are read where they are. `limit` is where the last span ends.
void AttentionBlock::attend_in_place(const QueryGroup& group, KeyRange span, int64_t limit) {
  const int64_t rows = group.rows();
  const Rows scores = scores_of(rows, kSpanKeys);
  for_each_piece(group, span, limit, PagedCache::keys, [&](const void* keys, int64_t offset, int64_t count) {
    kernels_.dot_keys(queries(0), rows, keys, cache_.dtype(), count, spec_.head_dim,
                      {scores.data + offset, scores.stride});
  });
  soften(group, 0, rows, span, scores);
  for_each_piece(group, span, limit, PagedCache::values, [&](const void* values, int64_t offset, int64_t count) {
    kernels_.add_values({scores.data + offset, scores.stride}, rows, count, values, cache_.dtype(), width_,
                        {outputs(0), width_});
  });
}

// Scores become exp(score - maximum), zero where a row does not see the key; earlier outputs follow a new maximum.
void AttentionBlock::soften(const QueryGroup& group, int64_t begin, int64_t end, KeyRange tile, Rows scores) {
  for (int64_t row = begin; row < end; ++row) {
    float* x = scores.row(row - begin);
    const KeyRange seen = visible(group.first + row / group.group(), group.context);
    const int64_t from = std::max(seen.begin, tile.begin) - tile.begin;
    const int64_t to = std::min(seen.end, tile.end) - tile.begin;
    if (from >= to) {  // possible only in place, where every row takes part in every span
      std::fill_n(x, tile.end - tile.begin, 0.0f);
      continue;
    }
    std::fill_n(x, from, 0.0f);
    std::fill(x + to, x + (tile.end - tile.begin), 0.0f);
    const auto index = static_cast<size_t>(row);
    const float factor = kernels_.exponentials(x + from, to - from, &scratch_.maxima[index], &scratch_.sums[index]);
    if (factor != 1.0f) kernels_.scale(outputs(row), factor, width_, outputs(row));
  }
}

// Rows [begin, end) of the group that see a key of the tile.
std::pair<int64_t, int64_t> AttentionBlock::rows_that_see(const QueryGroup& group, KeyRange tile) const {
  int64_t begin = 0;
  int64_t end = group.tokens;
  while (begin < end && visible(group.first + begin, group.context).end <= tile.begin) ++begin;
  while (end > begin && visible(group.first + end - 1, group.context).begin >= tile.end) --end;
  return {begin * group.group(), end * group.group()};
}

void AttentionBlock::load_tile(const QueryGroup& group, KeyRange tile) {
  scratch_.keys.resize(static_cast<size_t>(spec_.head_dim * kTileKeys));
  scratch_.values.resize(static_cast<size_t>(kTileKeys * width_));
  for_each_run(group, tile, PagedCache::keys, [&](const void* keys, int64_t offset, int64_t count) {
    kernels_.transpose_keys(keys, cache_.dtype(), count, spec_.head_dim, {scratch_.keys.data() + offset, kTileKeys});
  });
  for_each_run(group, tile, PagedCache::values,
               [&](const void* values, int64_t offset, int64_t count) { load_values(values, offset, count); });
}

void AttentionBlock::load_values(const void* values, int64_t offset, int64_t count) {
  float* target = scratch_.values.data() + offset * width_;
  if (width_ == spec_.head_dim) return kernels_.widen(values, cache_.dtype(), count * width_, target);
  const auto* source = static_cast<const char*>(values);
  for (int64_t key = 0; key < count; ++key, target += width_) {
    kernels_.widen(source, cache_.dtype(), spec_.head_dim, target);
    std::fill(target + spec_.head_dim, target + width_, 0.0f);
    source += static_cast<size_t>(spec_.head_dim) * size_of(cache_.dtype());
  }
}

Rows AttentionBlock::scores_of(int64_t rows, int64_t keys) const {
  if (const auto count = static_cast<size_t>(rows * keys); scratch_.scores.size() < count)
    scratch_.scores.resize(count);
  return {scratch_.scores.data(), keys};
}

}  // namespace heddle::cpu
