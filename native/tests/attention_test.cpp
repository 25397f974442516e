// Attention of the CPU backend against the reference: ragged steps, chunks, windows, odd sizes, both cache types.
#include <algorithm>
#include <numeric>

#include "cpu/attention_kernels.h"
#include "cpu/cpu_backend.h"
#include "reference.h"
#include "tensors.h"
#include "test.h"

namespace heddle::test {
namespace {

struct Case {
  int64_t head_dim = 16;
  std::vector<int32_t> kv_head_of_query = {0};
  int64_t kv_head_count = 1;
  bool causal = true;
  int64_t sliding_window = 0;
  int64_t rope_dim = 0;
  float rope_scale = 1;
  bool norms = false;
  int64_t block_size = 4;
  DType cache = DType::float32;
};

// Runs steps of several sequences through one cache, and keeps every row for the reference.
class Harness {
 public:
  Harness(const Case& c, int64_t sequences, int64_t max_context, uint64_t seed = 1)
      : random_(seed),
        backend_(cpu::create_backend(DType::float32)),
        rows_(static_cast<size_t>(sequences)),
        blocks_per_sequence_((max_context + c.block_size - 1) / c.block_size) {
    AttentionSpec& spec = reference_.spec;
    spec.head_count = static_cast<int64_t>(c.kv_head_of_query.size());
    spec.kv_head_count = c.kv_head_count;
    spec.head_dim = c.head_dim;
    spec.kv_head_of_query = c.kv_head_of_query;
    spec.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    spec.causal = c.causal;
    spec.sliding_window = c.sliding_window;
    spec.block_size = c.block_size;
    spec.block_count = sequences * blocks_per_sequence_;
    spec.rope_dim = c.rope_dim;
    spec.rope_scale = c.rope_scale;
    spec.norm_eps = 1e-6f;
    reference_.cache_dtype = c.cache;
    for (int64_t i = 0; i < c.rope_dim / 2; ++i) {
      reference_.inverse_frequencies.push_back(
          std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(c.rope_dim)));
    }
    if (c.norms) {
      reference_.query_norm = random_.uniform_vector(static_cast<size_t>(c.head_dim), 0.5f, 2);
      reference_.key_norm = random_.uniform_vector(static_cast<size_t>(c.head_dim), 0.5f, 2);
    }
    make_tensors(c);
  }

  // `counts` new tokens of each sequence; one with 0 is not part of the step. Checks every output row.
  void step(const std::vector<int32_t>& counts) {
    Step step;
    step.sequence_starts.push_back(0);
    std::vector<float> qkv;
    std::vector<std::pair<size_t, int64_t>> tokens;  // sequence and position of each row
    for (size_t sequence = 0; sequence < counts.size(); ++sequence) {
      if (counts[sequence] == 0) continue;
      for (int32_t t = 0; t < counts[sequence]; ++t) {
        const std::vector<float> row = random_.uniform_vector(static_cast<size_t>(row_width()), -2, 2);
        step.positions.push_back(static_cast<int32_t>(rows_[sequence].size()));
        tokens.emplace_back(sequence, step.positions.back());
        rows_[sequence].push_back(row);
        qkv.insert(qkv.end(), row.begin(), row.end());
      }
      step.sequence_starts.push_back(static_cast<int32_t>(step.positions.size()));
      step.slots.push_back(static_cast<int32_t>(sequence));
      const auto row = block_table_.begin() + static_cast<int64_t>(sequence) * blocks_per_sequence_;
      step.block_table.insert(step.block_table.end(), row, row + blocks_per_sequence_);
    }
    run(step, qkv, tokens);
  }

 private:
  int64_t row_width() const {
    return (reference_.spec.head_count + 2 * reference_.spec.kv_head_count) * reference_.spec.head_dim;
  }

  void make_tensors(const Case& c) {
    const AttentionSpec& spec = reference_.spec;
    const std::vector<int64_t> shape = {2, spec.block_count, spec.kv_head_count, spec.block_size, spec.head_dim};
    const int64_t count = 2 * spec.block_count * spec.kv_head_count * spec.block_size * spec.head_dim;
    // Stale contents of a block must not show.
    cache_ = tensor_of(random_.uniform_vector(static_cast<size_t>(count), -50, 50), shape, c.cache);
    frequencies_ = tensor_of(reference_.inverse_frequencies, {spec.rope_dim / 2});
    query_norm_ = tensor_of(reference_.query_norm, {spec.head_dim});
    key_norm_ = tensor_of(reference_.key_norm, {spec.head_dim});
    tensors_ = {&cache_, c.rope_dim > 0 ? &frequencies_ : nullptr, c.norms ? &query_norm_ : nullptr,
                c.norms ? &key_norm_ : nullptr};
    block_table_.resize(static_cast<size_t>(spec.block_count));
    std::iota(block_table_.begin(), block_table_.end(), 0);
    for (size_t i = block_table_.size(); i > 1; --i)
      std::swap(block_table_[i - 1], block_table_[static_cast<size_t>(random_.below(static_cast<int64_t>(i)))]);
  }

  void run(const Step& step, const std::vector<float>& qkv, const std::vector<std::pair<size_t, int64_t>>& tokens) {
    const AttentionSpec& spec = reference_.spec;
    Matrix x(step.token_count(), row_width(), qkv);
    Matrix y(step.token_count(), spec.head_count * spec.head_dim);
    backend_->attention(backend_->begin_step(step), x.view(), tensors_, spec, y.view());
    check(x.values == qkv, "attention changed its input");
    // bfloat16: the float32 of the kernel and the double of the reference may round to neighbours.
    const double tolerance = reference_.cache_dtype == DType::float32 ? 2e-5 : 1e-2;
    for (int64_t t = 0; t < y.rows; ++t) {
      const auto [sequence, position] = tokens[static_cast<size_t>(t)];
      const std::vector<double> expected = reference_.output(rows_[sequence], position);
      for (size_t i = 0; i < expected.size(); ++i) {
        check_close(y.row(t)[i], expected[i], tolerance, "sequence ", sequence, " position ", position, " element ", i,
                    " head dim ", spec.head_dim);
      }
    }
  }

  Random random_;
  std::unique_ptr<Backend> backend_;
  reference::Attention reference_;
  std::vector<std::vector<std::vector<float>>> rows_;  // [sequence][position]
  int64_t blocks_per_sequence_;
  std::vector<int32_t> block_table_;
  Tensor cache_, frequencies_, query_norm_, key_norm_;
  AttentionTensors tensors_;
};

void prefill_then_decode(const Case& c) {
  Harness harness(c, 1, 40);
  harness.step({21});
  for (int i = 0; i < 5; ++i) harness.step({1});
  harness.step({3});
}

HEDDLE_TEST(attention_of_every_head_dimension) {
  for (const int64_t head_dim : {2, 6, 8, 16, 20, 40, 64, 80, 96, 128, 160})
    prefill_then_decode({.head_dim = head_dim});
}

HEDDLE_TEST(attention_rotates_and_normalizes) {
  prefill_then_decode({.head_dim = 32, .rope_dim = 32});
  prefill_then_decode({.head_dim = 32, .rope_dim = 32, .norms = true});
  prefill_then_decode({.head_dim = 32, .rope_dim = 12, .rope_scale = 1.3f, .norms = true});
  prefill_then_decode({.head_dim = 10, .rope_dim = 6, .norms = true});
}

HEDDLE_TEST(attention_maps_query_heads_to_kv_heads) {
  prefill_then_decode({.kv_head_of_query = {0, 0, 1, 1}, .kv_head_count = 2});
  prefill_then_decode({.kv_head_of_query = {1, 0, 1, 2, 0, 1}, .kv_head_count = 3, .rope_dim = 16});
  prefill_then_decode({.kv_head_of_query = {2, 2, 2}, .kv_head_count = 4});  // KV heads that nobody reads
  prefill_then_decode(
      {.kv_head_of_query = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, .kv_head_count = 1});  // rows past the direct limit
}

HEDDLE_TEST(attention_slides_its_window) {
  for (const int64_t window : {1, 2, 5, 16, 30, 100}) {
    prefill_then_decode({.kv_head_of_query = {0, 0}, .sliding_window = window});
    prefill_then_decode({.kv_head_of_query = {0, 0}, .sliding_window = window, .block_size = 16});
  }
}

HEDDLE_TEST(attention_slides_its_window_over_several_tiles) {
  Harness harness({.kv_head_of_query = {0, 0}, .sliding_window = 70, .block_size = 16}, 1, 300);
  harness.step({200});
  harness.step({3});
  harness.step({97});
}

HEDDLE_TEST(attention_without_causality_sees_the_whole_sequence) {
  Harness harness({.kv_head_of_query = {0, 1}, .kv_head_count = 2, .causal = false}, 2, 80);
  harness.step({70, 3});
  harness.step({2, 5});
  Harness windowed({.causal = false, .sliding_window = 6}, 1, 80);
  windowed.step({70});
  windowed.step({2});
}

HEDDLE_TEST(attention_of_a_bfloat16_cache) {
  for (const int64_t head_dim : {16, 20, 64, 128}) {
    prefill_then_decode(
        {.head_dim = head_dim, .kv_head_of_query = {0, 0}, .rope_dim = 4, .norms = true, .cache = DType::bfloat16});
  }
}

HEDDLE_TEST(attention_crosses_block_boundaries) {
  for (const int64_t block_size : {1, 2, 3, 16, 64}) {
    Harness harness({.kv_head_of_query = {0, 0}, .block_size = block_size}, 1, 70);
    for (const int32_t count : {1, 15, 1, 14, 1, 1, 30, 1, 1, 1}) harness.step({count});
  }
}

HEDDLE_TEST(attention_mixes_prefill_and_decode_in_one_step) {
  Harness harness({.head_dim = 32, .kv_head_of_query = {0, 0, 1, 1}, .kv_head_count = 2, .rope_dim = 32, .norms = true},
                  4, 150);
  harness.step({9, 0, 1, 0});
  harness.step({1, 130, 1, 0});
  harness.step({1, 1, 4, 17});
  harness.step({12, 1, 0, 1});
}

HEDDLE_TEST(attention_blocks_many_queries) {
  Harness harness({.kv_head_of_query = {0, 0, 0}, .rope_dim = 16, .block_size = 16}, 1, 460);
  harness.step({301});
  harness.step({1});
  harness.step({2});
  harness.step({150});
}

HEDDLE_TEST(attention_decodes_over_several_spans) {
  for (const DType cache : {DType::float32, DType::bfloat16}) {
    Harness harness({.kv_head_of_query = {0, 0}, .block_size = 16, .cache = cache}, 2, 700);
    harness.step({600, 257});
    for (int i = 0; i < 3; ++i) harness.step({1, 1});
    harness.step({4, 2});
  }
}

// The kernels of every instruction set, against loops.
struct Operands {
  std::vector<float> values;
  int64_t stride;
  cpu::Rows rows() { return {values.data(), stride}; }
};

Operands operands(Random& random, int64_t rows, int64_t stride) {
  return {random.uniform_vector(static_cast<size_t>(rows * stride)), stride};
}

HEDDLE_TEST(attention_kernels_multiply_on_every_instruction_set) {
  Random random(7);
  for (const cpu::Isa isa : cpu::supported_isas()) {
    for (int64_t rows = 1; rows <= 14; ++rows) {
      for (const int64_t width : {16, 48, 80, 128}) {
        const int64_t depth = 1 + random.below(40);
        Operands a = operands(random, rows, depth + 3), b = operands(random, depth, width + 16),
                 c = operands(random, rows, width);
        for (const bool accumulate : {false, true}) {
          Operands result = c;
          cpu::attention_kernels(isa).multiply(a.rows(), rows, depth, b.rows(), width, result.rows(), accumulate);
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t i = 0; i < width; ++i) {
              double expected = accumulate ? c.rows().row(r)[i] : 0;
              for (int64_t k = 0; k < depth; ++k) expected += double{a.rows().row(r)[k]} * b.rows().row(k)[i];
              check_close(result.rows().row(r)[i], expected, 1e-5, cpu::name_of(isa), " multiply ", rows, " x ", depth,
                          " x ", width);
            }
          }
        }
      }
    }
  }
}

HEDDLE_TEST(attention_kernels_read_the_cache_on_every_instruction_set) {
  Random random(8);
  for (const cpu::Isa isa : cpu::supported_isas()) {
    const cpu::AttentionKernels& kernels = cpu::attention_kernels(isa);
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      for (const int64_t count : {1, 3, 4, 7, 16}) {
        const int64_t rows = 1 + random.below(9), width = 48;
        std::vector<float> keys = random.uniform_vector(static_cast<size_t>(count * width));
        const Tensor cache = tensor_of(keys, {count, width}, dtype);
        convert(cache.buffer.data(), dtype, keys.data(), DType::float32, keys.size());
        Operands queries = operands(random, rows, width), scores = operands(random, rows, 16),
                 transposed = operands(random, width, 16);
        kernels.transpose_keys(cache.buffer.data(), dtype, count, width, transposed.rows());
        Operands values = operands(random, rows, width);
        Operands sums = values;
        kernels.add_values(scores.rows(), rows, count, cache.buffer.data(), dtype, width, sums.rows());
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t i = 0; i < width; ++i) {
            double expected = values.rows().row(r)[i];
            for (int64_t k = 0; k < count; ++k)
              expected += double{scores.rows().row(r)[k]} * keys[static_cast<size_t>(k * width + i)];
            check_close(sums.rows().row(r)[i], expected, 1e-5, cpu::name_of(isa), " add_values of ", count, " ",
                        name_of(dtype));
          }
        }
        kernels.dot_keys(queries.rows(), rows, cache.buffer.data(), dtype, count, width, scores.rows());
        for (int64_t k = 0; k < count; ++k) {
          for (int64_t r = 0; r < rows; ++r) {
            double expected = 0;
            for (int64_t i = 0; i < width; ++i)
              expected += double{queries.rows().row(r)[i]} * keys[static_cast<size_t>(k * width + i)];
            check_close(scores.rows().row(r)[k], expected, 1e-5, cpu::name_of(isa), " dot_keys of ", count, " ",
                        name_of(dtype));
          }
          for (int64_t i = 0; i < width; ++i) {
            check(transposed.rows().row(i)[k] == keys[static_cast<size_t>(k * width + i)], cpu::name_of(isa),
                  " transpose_keys");
          }
        }
      }
    }
  }
}

HEDDLE_TEST(attention_kernels_exponentials_are_exact_enough) {
  Random random(9);
  for (const cpu::Isa isa : cpu::supported_isas()) {
    for (const int64_t count : {1, 5, 16, 40, 64}) {
      const std::vector<float> x = random.uniform_vector(static_cast<size_t>(count), -90, 5);
      std::vector<float> y = x;
      float maximum = -3, sum = 2;
      const float factor = cpu::attention_kernels(isa).exponentials(y.data(), count, &maximum, &sum);
      const float largest = std::max(-3.0f, *std::max_element(x.begin(), x.end()));
      check(maximum == largest, cpu::name_of(isa), " new maximum");
      check_close(factor, std::exp(-3.0 - largest), 1e-6, cpu::name_of(isa), " factor");
      double total = 2 * std::exp(-3.0 - largest);
      for (size_t i = 0; i < x.size(); ++i) {
        const double expected = std::exp(double{x[i] - largest});
        total += expected;
        check_close(y[i], expected, 1e-6 * expected + 1e-37, cpu::name_of(isa), " exponential of ", x[i] - largest);
      }
      check_close(sum, total, 1e-6 * total, cpu::name_of(isa), " sum");
    }
  }
}

}  // namespace
}  // namespace heddle::test
