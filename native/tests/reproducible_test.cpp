// A reproducible backend of the CPU: what a rank gives does not depend on how much of a layer it has. Bit for bit, against one rank that
// has all of it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "cpu/cpu_backend.h"
#include "reference.h"
#include "tensors.h"
#include "test.h"
#include "tree_sum.h"

namespace heddle::test {
namespace {

using cpu::create_backend;

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// ---- experts

struct Mixture {
  int64_t rows, width, inner, experts, per_token;
  DType dtype;
  std::vector<float> x, routing, gate_up, down;

  Mixture(int64_t r, int64_t w, int64_t i, int64_t e, int64_t p, DType d) : rows(r), width(w), inner(i), experts(e), per_token(p), dtype(d) {
    Random random(static_cast<uint64_t>(r * 31 + i));
    x = random.uniform_vector(static_cast<size_t>(rows * width));
    routing = reference::random_routing(rows, experts, per_token, random.uniform_vector(static_cast<size_t>(rows * experts), -3, 3));
    gate_up = random.uniform_vector(static_cast<size_t>(experts * 2 * inner * width));
    down = random.uniform_vector(static_cast<size_t>(experts * width * inner));
  }

  // Rows of gate and of up, and columns of down, [first, first + count) of every expert.
  std::vector<float> inward(int64_t first_expert, int64_t held, int64_t first, int64_t count) const {
    std::vector<float> part;
    for (int64_t half = 2 * first_expert; half < 2 * (first_expert + held); ++half) {
      const auto from = gate_up.begin() + (half * inner + first) * width;
      part.insert(part.end(), from, from + count * width);
    }
    return part;
  }
  std::vector<float> outward(int64_t first_expert, int64_t held, int64_t first, int64_t count) const {
    std::vector<float> part;
    for (int64_t row = first_expert * width; row < (first_expert + held) * width; ++row) {
      part.insert(part.end(), down.begin() + row * inner + first, down.begin() + row * inner + first + count);
    }
    return part;
  }

  std::vector<float> run(Backend& backend, int64_t first_expert, int64_t held, int64_t first, int64_t count, const Chunks& chunks,
                         const Chunks& expert_chunks) const {
    Matrix values(rows, width, x), weights(rows, experts, routing), y(rows, width, std::vector<float>(x.size(), 9.0f));
    const ExpertsSpec spec = {first_expert, per_token, Activation::silu, chunks, expert_chunks};
    backend.experts(values.view(), weights.view(), tensor_of(inward(first_expert, held, first, count), {held * 2 * count, width}, dtype),
                    tensor_of(outward(first_expert, held, first, count), {held * width, count}, dtype), spec, y.view());
    return y.values;
  }
};

std::vector<float> added(const std::vector<std::vector<float>>& parts) {
  std::vector<float> sum;
  for (size_t i = 0; i < parts[0].size(); ++i) {
    std::vector<float> terms;
    for (const auto& part : parts) terms.push_back(part[i]);
    sum.push_back(tree_sum(terms));
  }
  return sum;
}

void check_mixture(const Mixture& mixture, const Chunks& chunks) {
  const auto backend = create_backend(mixture.dtype == DType::bfloat16 ? DType::bfloat16 : DType::float32, true);
  const std::vector<float> one = mixture.run(*backend, 0, mixture.experts, 0, mixture.inner, chunks, {});
  const std::vector<float> plain = mixture.run(*backend, 0, mixture.experts, 0, mixture.inner, {}, {});
  for (size_t i = 0; i < one.size(); ++i) {
    if (!check_close(one[i], plain[i], 1e-4 * (1 + std::abs(plain[i])), "pieces of experts against the whole, element ", i)) return;
  }
  for (size_t ranks = 2; ranks <= chunks.size(); ranks *= 2) {
    std::vector<std::vector<float>> parts;
    const size_t own = chunks.size() / ranks;
    int64_t first = 0;
    for (size_t rank = 0; rank < ranks; ++rank) {
      const Chunks mine(chunks.begin() + static_cast<int64_t>(rank * own), chunks.begin() + static_cast<int64_t>((rank + 1) * own));
      const int64_t count = std::accumulate(mine.begin(), mine.end(), int64_t{0});
      parts.push_back(mixture.run(*backend, 0, mixture.experts, first, count, mine, {}));
      first += count;
    }
    check(same_bits(added(parts), one), name_of(mixture.dtype), " ", mixture.rows, " rows: inner width over ", ranks, " ranks");
  }
}

HEDDLE_TEST(reproducible_experts_in_pieces_of_the_inner_width_add_up_alike) {
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    for (const int64_t rows : {1, 3, 40, 300}) check_mixture(Mixture(rows, 24, 80, 5, 2, dtype), {16, 8, 16, 8, 8, 8, 8, 8});
  }
}

HEDDLE_TEST(reproducible_experts_in_ranges_add_up_alike) {
  const auto backend = create_backend(DType::float32, true);
  for (const int64_t rows : {1, 7, 60}) {
    const Mixture mixture(rows, 24, 20, 5, 2, DType::float32);
    const std::vector<float> one = mixture.run(*backend, 0, 5, 0, 20, {}, {1, 1, 1, 1, 1, 0, 0, 0});
    const std::vector<float> left = mixture.run(*backend, 0, 4, 0, 20, {}, {1, 1, 1, 1});
    const std::vector<float> right = mixture.run(*backend, 4, 1, 0, 20, {}, {1, 0, 0, 0});
    check(same_bits(added({left, right}), one), rows, " rows: experts over 2 ranks");
    const std::vector<float> none = mixture.run(*backend, 0, 1, 0, 1, {}, {0});
    check(same_bits(none, std::vector<float>(none.size(), 0.0f)), "a rank without experts adds +0");
  }
}

// ---- attention

// One sequence: steps of some tokens, of which this rank has the query heads [first, first + count) of eight that share two KV heads.
std::vector<float> attention_of(bool reproducible, int64_t first, int64_t count, int64_t head_dim, int64_t window, const std::vector<int32_t>& steps) {
  constexpr int64_t kHeads = 8, kGroup = 4, kBlocks = 40, kBlockSize = 4;
  const auto backend = create_backend(DType::float32, reproducible);
  AttentionSpec spec;
  const int64_t first_kv = first / kGroup;
  spec.head_count = count;
  spec.kv_head_count = (first + count - 1) / kGroup + 1 - first_kv;
  spec.head_dim = head_dim;
  for (int64_t head = first; head < first + count; ++head) spec.kv_head_of_query.push_back(static_cast<int32_t>(head / kGroup - first_kv));
  spec.scale = 0.2f;
  spec.sliding_window = window;
  spec.block_size = kBlockSize;
  spec.block_count = kBlocks;
  const std::vector<int64_t> shape = {2, kBlocks, spec.kv_head_count, kBlockSize, head_dim};
  Tensor cache = tensor_of(std::vector<float>(static_cast<size_t>(2 * kBlocks * spec.kv_head_count * kBlockSize * head_dim)), shape);
  Random random(5);
  std::vector<float> outputs;
  int32_t position = 0;
  for (const int32_t tokens : steps) {
    Step step = step_of({tokens}, position);
    step.block_table.resize(kBlocks);
    std::iota(step.block_table.begin(), step.block_table.end(), 0);
    std::vector<float> qkv;
    const auto take = [&](const std::vector<float>& row, int64_t head, int64_t heads) {
      qkv.insert(qkv.end(), row.begin() + head * head_dim, row.begin() + (head + heads) * head_dim);
    };
    for (int32_t token = 0; token < tokens; ++token) {
      const std::vector<float> row = random.uniform_vector(static_cast<size_t>((kHeads + 4) * head_dim), -2, 2);
      take(row, first, count);
      take(row, kHeads + first_kv, spec.kv_head_count);
      take(row, kHeads + 2 + first_kv, spec.kv_head_count);
    }
    Matrix x(tokens, (count + 2 * spec.kv_head_count) * head_dim, qkv), y(tokens, count * head_dim);
    backend->attention(backend->begin_step(step), x.view(), {&cache, nullptr, nullptr, nullptr}, spec, y.view());
    outputs.insert(outputs.end(), y.values.begin(), y.values.end());
    position += tokens;
  }
  return outputs;
}

// The same from ranks with `count` heads each, put side by side.
std::vector<float> attention_on_ranks(bool reproducible, int64_t count, int64_t head_dim, int64_t window, const std::vector<int32_t>& steps) {
  std::vector<float> y(static_cast<size_t>(std::accumulate(steps.begin(), steps.end(), 0) * 8 * head_dim));
  for (int64_t first = 0; first < 8; first += count) {
    const std::vector<float> part = attention_of(reproducible, first, count, head_dim, window, steps);
    const int64_t width = count * head_dim, rows = static_cast<int64_t>(part.size()) / width;
    for (int64_t row = 0; row < rows; ++row) std::copy_n(part.begin() + row * width, width, y.begin() + row * 8 * head_dim + first * head_dim);
  }
  return y;
}

HEDDLE_TEST(reproducible_attention_of_a_head_does_not_depend_on_the_other_heads) {
  const std::vector<int32_t> steps = {5, 1, 1, 2, 3, 70, 1, 9};
  for (const int64_t head_dim : {8, 16, 20, 64}) {
    for (const int64_t window : {0, 7}) {
      const std::vector<float> one = attention_on_ranks(true, 8, head_dim, window, steps);
      for (const int64_t count : {4, 2, 1}) {
        check(same_bits(attention_on_ranks(true, count, head_dim, window, steps), one), "head dim ", head_dim, ", window ", window, ", ranks with ",
              count, " heads");
      }
    }
  }
  const bool differs = !same_bits(attention_on_ranks(false, 1, 64, 0, steps), attention_on_ranks(false, 8, 64, 0, steps));
  check(differs, "without the mode no bit differs: this test would show nothing");
}

// ---- embed

HEDDLE_TEST(reproducible_embed_gives_no_negative_zero) {
  const Tensor table = tensor_of({-0.0f, 1, -0.0f, 2}, {2, 2});
  Step step = step_of({3});
  step.tokens = {0, 1, 5};
  for (const float scale : {1.0f, 0.5f}) {
    for (const bool reproducible : {false, true}) {
      const auto backend = create_backend(DType::float32, reproducible);
      Matrix y(3, 2, std::vector<float>(6, 9.0f));
      backend->embed(backend->begin_step(step), table, {0, false, scale}, y.view());
      check(y.values == std::vector<float>{0, scale, 0, 2 * scale, 0, 0}, "rows of the table");
      check(std::signbit(y.values[0]) == !reproducible, "the sign of zero");
    }
  }
}

}  // namespace
}  // namespace heddle::test
