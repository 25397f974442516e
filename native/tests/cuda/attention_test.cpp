// Attention of the CUDA backend against the reference: decode, prompts and mixed steps, whatever kernel they come to.
// Rule: after every step the whole cache is compared, and rows that no token owns must still be the NaN they began as.
#include <numeric>

#include "../reference.h"
#include "cuda/attention.h"
#include "on_device.h"

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
  int64_t block_size = 16;
  DType cache = DType::float32;
  DType qkv = DType::float32;
  DType y = DType::float32;
  int64_t padding = 0;                                // tokens and sequences of the bucket beyond those of the step
};

AttentionSpec spec_of(const Case& c, int64_t block_count) {
  AttentionSpec spec;
  spec.head_count = static_cast<int64_t>(c.kv_head_of_query.size());
  spec.kv_head_count = c.kv_head_count;
  spec.head_dim = c.head_dim;
  spec.kv_head_of_query = c.kv_head_of_query;
  spec.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  spec.causal = c.causal;
  spec.sliding_window = c.sliding_window;
  spec.block_size = c.block_size;
  spec.block_count = block_count;
  spec.rope_dim = c.rope_dim;
  spec.rope_scale = c.rope_scale;
  spec.norm_eps = 1e-6f;
  return spec;
}

// Runs steps of several sequences through one cache, and keeps every row for the reference.
class Harness {
 public:
  Harness(const Case& c, int64_t sequences, int64_t max_context, uint64_t seed = 1)
      : case_(c),
        random_(seed),
        device_(0),
        rows_(static_cast<size_t>(sequences)),
        blocks_per_sequence_((max_context + c.block_size - 1) / c.block_size) {
    reference_.spec = spec_of(c, sequences * blocks_per_sequence_ + 1);   // one block belongs to nobody
    reference_.cache_dtype = c.cache;
    for (int64_t i = 0; i < c.rope_dim / 2; ++i) {
      reference_.inverse_frequencies.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(c.rope_dim)));
    }
    if (c.norms) {
      reference_.query_norm = random_.uniform_vector(static_cast<size_t>(c.head_dim), 0.5f, 2);
      reference_.key_norm = random_.uniform_vector(static_cast<size_t>(c.head_dim), 0.5f, 2);
    }
    make_tensors();
  }

  // `counts` new tokens of each sequence; one with 0 is not part of the step.
  void step(const std::vector<int32_t>& counts) {
    const Rows rows = next_rows(counts);
    cuda::StepShape room = cuda::shape_of(rows.step);
    room.tokens += case_.padding;
    room.sequences += case_.padding;
    if (case_.padding > 0) room.longest_context = blocks_per_sequence_ * case_.block_size;
    const StepOnDevice on_device(device_, rows.step, room);
    const Matrix input = input_of(rows, room.tokens);
    const DeviceMatrix x(device_, input, case_.qkv);
    const DeviceMatrix y(device_, room.tokens, output_width(), case_.y);
    attend(on_device.step, room, x, y);
    check_unchanged(x.read("qkv"), input.values);
    check_rows(rows, y.matrix("y"));
    check_cache();
  }

  // One token of every sequence, `steps` times: once submitted, then by replays of one captured graph.
  void decode_by_graph(int steps) {
    const auto sequences = static_cast<int64_t>(rows_.size());
    const cuda::StepShape room = {sequences, sequences, 1, blocks_per_sequence_ * case_.block_size};
    cuda::SlotTokens slots(device_);
    cuda::StepState state(device_, slots, room.tokens, room.sequences);
    DeviceMatrix x(device_, room.tokens, row_width(), case_.qkv);
    const DeviceMatrix y(device_, room.tokens, output_width(), case_.y);
    cuda::GraphExec graph;
    for (int i = 0; i < steps; ++i) {
      const Rows rows = next_rows(std::vector<int32_t>(rows_.size(), 1));
      const cuda::DeviceStep step = state.submit(rows.step, room);
      x.write(input_of(rows, room.tokens).values);
      if (i == 0) {
        attend(step, room, x, y);
        graph = capture([&] { attend(step, room, x, y); });
      } else {
        cuda::check(cudaGraphLaunch(graph.get(), device_.stream()), "test");
      }
      wait_for(device_);
      check_rows(rows, y.matrix("y"));
      check_cache();
    }
  }

 private:
  int64_t row_width() const { return (reference_.spec.head_count + 2 * reference_.spec.kv_head_count) * reference_.spec.head_dim; }
  int64_t output_width() const { return reference_.spec.head_count * reference_.spec.head_dim; }
  int32_t block_of(size_t sequence, int64_t block) const {
    return blocks_[static_cast<size_t>(static_cast<int64_t>(sequence) * blocks_per_sequence_ + block)];
  }

  void make_tensors() {
    const AttentionSpec& spec = reference_.spec;
    const std::vector<int64_t> shape = {2, spec.block_count, spec.kv_head_count, spec.block_size, spec.head_dim};
    const int64_t count = 2 * spec.block_count * spec.kv_head_count * spec.block_size * spec.head_dim;
    cache_ = tensor_on(device_, std::vector<float>(static_cast<size_t>(count), std::nanf("")), shape, case_.cache, TensorRole::cache);
    const auto vector = [&](const std::vector<float>& values) { return tensor_on(device_, values, {static_cast<int64_t>(values.size())}); };
    frequencies_ = vector(reference_.inverse_frequencies.empty() ? std::vector<float>{0} : reference_.inverse_frequencies);
    query_norm_ = vector(case_.norms ? reference_.query_norm : std::vector<float>{0});
    key_norm_ = vector(case_.norms ? reference_.key_norm : std::vector<float>{0});
    tensors_ = {&cache_, case_.rope_dim > 0 ? &frequencies_ : nullptr, case_.norms ? &query_norm_ : nullptr,
                case_.norms ? &key_norm_ : nullptr};
    blocks_.resize(static_cast<size_t>(spec.block_count));
    std::iota(blocks_.begin(), blocks_.end(), 0);
    for (size_t i = blocks_.size(); i > 1; --i) {
      std::swap(blocks_[i - 1], blocks_[static_cast<size_t>(random_.below(static_cast<int64_t>(i)))]);
    }
  }

  // Rounding of the output beside what a result in 16 bits of queries, weights and cache rows costs.
  double tolerance() const {
    const double compute = case_.cache == DType::float32 ? 3e-5 : case_.cache == DType::bfloat16 ? 1.2e-2 : 2e-3;
    return compute + 4 * rounding_of(case_.y);
  }

  // New rows of a step, and which sequence and position each has.
  struct Rows {
    Step step;
    std::vector<float> qkv;
    std::vector<std::pair<size_t, int64_t>> tokens;
  };

  Rows next_rows(const std::vector<int32_t>& counts) {
    Rows rows;
    rows.step.sequence_starts.push_back(0);
    for (size_t sequence = 0; sequence < counts.size(); ++sequence) {
      if (counts[sequence] == 0) continue;
      for (int32_t t = 0; t < counts[sequence]; ++t) {
        const std::vector<float> row = as_held(random_.uniform_vector(static_cast<size_t>(row_width()), -2, 2), case_.qkv);
        rows.step.positions.push_back(static_cast<int32_t>(rows_[sequence].size()));
        rows.step.tokens.push_back(0);
        rows.tokens.emplace_back(sequence, static_cast<int64_t>(rows_[sequence].size()));
        rows_[sequence].push_back(row);
        rows.qkv.insert(rows.qkv.end(), row.begin(), row.end());
      }
      rows.step.sequence_starts.push_back(static_cast<int32_t>(rows.step.positions.size()));
      rows.step.slots.push_back(static_cast<int32_t>(sequence));
      for (int64_t block = 0; block < blocks_per_sequence_; ++block) {
        const bool used = block * case_.block_size < static_cast<int64_t>(rows_[sequence].size());
        rows.step.block_table.push_back(used ? block_of(sequence, block) : -1);
      }
    }
    return rows;
  }

  // Rows of padding are NaN.
  Matrix input_of(const Rows& rows, int64_t count) const {
    Matrix input(count, row_width());
    std::fill(input.values.begin(), input.values.end(), std::nanf(""));
    std::copy(rows.qkv.begin(), rows.qkv.end(), input.values.begin());
    return input;
  }

  void attend(const cuda::DeviceStep& step, const cuda::StepShape& room, const DeviceMatrix& x, const DeviceMatrix& y) {
    cuda::attention(device_, {.step = step, .shape = room, .qkv = x.view(), .tensors = tensors_, .spec = &reference_.spec, .y = y.view()});
  }

  template <class Body>
  cuda::GraphExec capture(const Body& body) const {
    cudaGraph_t graph = nullptr;
    cuda::check(cudaStreamBeginCapture(device_.stream(), cudaStreamCaptureModeThreadLocal), "test");
    body();
    cuda::check(cudaStreamEndCapture(device_.stream(), &graph), "test");
    const cuda::Graph owned(graph);
    cudaGraphExec_t exec = nullptr;
    cuda::check(cudaGraphInstantiate(&exec, graph, 0), "test");
    return cuda::GraphExec(exec);
  }

  void check_rows(const Rows& rows, const Matrix& y) const {
    for (int64_t t = 0; t < y.rows; ++t) {
      if (t < rows.step.token_count()) {
        const auto [sequence, position] = rows.tokens[static_cast<size_t>(t)];
        // The reference is slow: of long prompts some rows stand for all.
        const bool newest = position + 1 == static_cast<int64_t>(rows_[sequence].size());
        if (rows.step.token_count() < 300 || position % 61 == 0 || newest) check_row(y.row(t), sequence, position);
      } else {
        check(std::all_of(y.row(t), y.row(t) + y.width, [](float value) { return std::isnan(value); }), "padding row ", t, " was written");
      }
    }
  }

  void check_unchanged(const std::vector<float>& actual, const std::vector<float>& expected) const {
    bool same = actual.size() == expected.size();
    for (size_t i = 0; same && i < actual.size(); ++i) {
      same = actual[i] == expected[i] || (std::isnan(actual[i]) && std::isnan(expected[i]));
    }
    check(same, "attention changed its input");
  }

  void check_row(const float* actual, size_t sequence, int64_t position) const {
    const std::vector<double> expected = reference_.output(rows_[sequence], position);
    for (size_t i = 0; i < expected.size(); ++i) {
      if (!check_close(actual[i], expected[i], tolerance(), "sequence ", sequence, " position ", position, " element ", i, " head dim ",
                       case_.head_dim, " context ", rows_[sequence].size())) {
        return;
      }
    }
  }

  // Rows that tokens own hold their keys and values, all others what they held at first.
  void check_cache() const {
    const AttentionSpec& spec = reference_.spec;
    const std::vector<float> actual = read_tensor(device_, cache_);
    std::vector<bool> owned(actual.size() / static_cast<size_t>(spec.head_dim));
    for (size_t sequence = 0; sequence < rows_.size(); ++sequence) {
      for (size_t position = 0; position < rows_[sequence].size(); ++position) {
        for (int64_t kv_head = 0; kv_head < spec.kv_head_count; ++kv_head) {
          for (const bool value : {false, true}) check_cache_row(actual, owned, sequence, static_cast<int64_t>(position), kv_head, value);
        }
      }
    }
    for (size_t row = 0; row < owned.size(); ++row) {
      if (owned[row]) continue;
      for (size_t i = 0; i < static_cast<size_t>(spec.head_dim); ++i) {
        const float value = actual[row * static_cast<size_t>(spec.head_dim) + i];
        if (!check(std::isnan(value), "cache row ", row, " was written, which no token owns")) return;
      }
    }
  }

  void check_cache_row(const std::vector<float>& actual, std::vector<bool>& owned, size_t sequence, int64_t position, int64_t kv_head,
                       bool value) const {
    const AttentionSpec& spec = reference_.spec;
    const int64_t plane = (value ? spec.block_count : 0) + block_of(sequence, position / spec.block_size);
    const auto row = static_cast<size_t>((plane * spec.kv_head_count + kv_head) * spec.block_size + position % spec.block_size);
    owned[row] = true;
    const float* source = rows_[sequence][static_cast<size_t>(position)].data() +
                          (spec.head_count + (value ? spec.kv_head_count : 0) + kv_head) * spec.head_dim;
    const std::vector<double> expected =
        value ? std::vector<double>(source, source + spec.head_dim) : reference_.head(source, reference_.key_norm, position);
    for (size_t i = 0; i < expected.size(); ++i) {
      const double tolerance = value ? 0 : std::abs(expected[i]) * 2.01 * rounding_of(case_.cache) + 2e-6;
      if (!check_close(actual[row * expected.size() + i], value ? reference_.cached(expected[i]) : expected[i], tolerance,
                       value ? "value" : "key", " of position ", position, " element ", i)) {
        return;
      }
    }
  }

  Case case_;
  Random random_;
  cuda::Device device_;
  reference::Attention reference_;
  std::vector<std::vector<std::vector<float>>> rows_;  // [sequence][position]
  int64_t blocks_per_sequence_;
  std::vector<int32_t> blocks_;
  Tensor cache_, frequencies_, query_norm_, key_norm_;
  AttentionTensors tensors_;
};

void prefill_then_decode(const Case& c) {
  Harness harness(c, 1, 40);
  harness.step({21});
  for (int i = 0; i < 3; ++i) harness.step({1});
  harness.step({3});
}

// A group of 16-bit activations with a cache of the same type: tensor cores where the head dimension has them.
Case in_16_bits(Case c, DType dtype = DType::bfloat16) {
  c.cache = c.qkv = c.y = dtype;
  return c;
}

std::vector<int32_t> heads_of_one(int64_t count) { return std::vector<int32_t>(static_cast<size_t>(count), 0); }

HEDDLE_TEST(cuda_attention_of_every_head_dimension) {
  for (const int64_t head_dim : {2, 6, 7, 8, 16, 33, 64, 80, 96, 128, 200, 256}) {
    prefill_then_decode({.head_dim = head_dim, .kv_head_of_query = {0, 0}});
    prefill_then_decode(in_16_bits({.head_dim = head_dim, .kv_head_of_query = {0, 0}}));
  }
}

HEDDLE_TEST(cuda_attention_of_mixed_dtypes) {
  for (const DType cache : {DType::float32, DType::bfloat16, DType::float16}) {
    for (const DType activation : {DType::float32, DType::bfloat16, DType::float16}) {
      prefill_then_decode({.head_dim = 64, .kv_head_of_query = {0, 0}, .rope_dim = 64, .cache = cache, .qkv = activation, .y = activation});
    }
    prefill_then_decode({.head_dim = 64, .cache = cache, .qkv = DType::float32, .y = DType::bfloat16});
  }
}

HEDDLE_TEST(cuda_attention_rotates_and_normalizes) {
  for (const Case& c : {Case{.head_dim = 64, .rope_dim = 64}, Case{.head_dim = 64, .rope_dim = 64, .norms = true},
                        Case{.head_dim = 64, .rope_dim = 24, .rope_scale = 1.3f, .norms = true},
                        Case{.head_dim = 10, .rope_dim = 6, .norms = true}}) {
    prefill_then_decode(c);
    prefill_then_decode(in_16_bits(c));
    prefill_then_decode(in_16_bits(c, DType::float16));
  }
}

HEDDLE_TEST(cuda_attention_maps_query_heads_to_kv_heads) {
  const std::vector<Case> cases = {
      {.head_dim = 64, .kv_head_of_query = {0, 0, 1, 1}, .kv_head_count = 2},
      {.head_dim = 64, .kv_head_of_query = {1, 0, 1, 2, 0, 1}, .kv_head_count = 3, .rope_dim = 16},
      {.head_dim = 64, .kv_head_of_query = {2, 2, 2}, .kv_head_count = 4},   // KV heads that nobody reads
      {.head_dim = 64, .kv_head_of_query = heads_of_one(8)},
      {.head_dim = 64, .kv_head_of_query = heads_of_one(12)},                // more than half of an mma's rows
      {.head_dim = 64, .kv_head_of_query = heads_of_one(37)},                // more than one block takes
      {.head_dim = 128, .kv_head_of_query = heads_of_one(11)},
  };
  for (const Case& c : cases) {
    prefill_then_decode(c);
    prefill_then_decode(in_16_bits(c));
  }
  prefill_then_decode({.head_dim = 64, .kv_head_of_query = heads_of_one(12), .cache = DType::bfloat16});  // exact queries in chunks of 8
}

HEDDLE_TEST(cuda_attention_slides_its_window) {
  for (const int64_t window : {1, 2, 5, 16, 30, 100}) {
    prefill_then_decode({.kv_head_of_query = {0, 0}, .sliding_window = window, .block_size = 4});
    prefill_then_decode(in_16_bits({.head_dim = 64, .kv_head_of_query = {0, 0}, .sliding_window = window}));
  }
}

HEDDLE_TEST(cuda_attention_slides_its_window_over_tiles_and_splits) {
  for (const int64_t window : {63, 70, 200}) {
    for (const Case& c : {Case{.head_dim = 16, .sliding_window = window}, in_16_bits({.head_dim = 64, .sliding_window = window}),
                          in_16_bits({.head_dim = 128, .sliding_window = window})}) {
      Harness harness(c, 1, 400);
      harness.step({250});
      harness.step({1});
      harness.step({3});
      harness.step({97});
      harness.step({1});
    }
  }
}

HEDDLE_TEST(cuda_attention_without_causality_sees_the_whole_sequence) {
  for (const Case& c : {Case{.head_dim = 64, .kv_head_of_query = {0, 1}, .kv_head_count = 2, .causal = false},
                        Case{.head_dim = 64, .kv_head_of_query = {0, 1}, .kv_head_count = 2, .causal = false, .sliding_window = 6}}) {
    for (const Case& each : {c, in_16_bits(c)}) {
      Harness harness(each, 2, 150);
      harness.step({140, 3});
      harness.step({2, 5});
      harness.step({1, 1});
    }
  }
}

HEDDLE_TEST(cuda_attention_of_odd_blocks) {
  for (const int64_t block_size : {1, 16, 33}) {
    for (const Case& c : {Case{.kv_head_of_query = {0, 0}, .block_size = block_size},
                          in_16_bits({.head_dim = 64, .kv_head_of_query = {0, 0}, .block_size = block_size})}) {
      Harness harness(c, 1, 90);
      for (const int32_t count : {1, 15, 1, 14, 1, 1, 30, 1, 1, 1}) harness.step({count});
    }
  }
}

// Contexts on both sides of every border: tiles of 16 and 64 keys, splits of 64, blocks of 16.
HEDDLE_TEST(cuda_attention_decodes_around_borders) {
  for (const Case& c : {Case{.head_dim = 16, .kv_head_of_query = {0, 0}},
                        in_16_bits({.head_dim = 64, .kv_head_of_query = heads_of_one(4), .rope_dim = 64})}) {
    for (const int32_t first : {14, 62, 127, 190}) {
      Harness harness(c, 1, 200);
      harness.step({first});
      for (int i = 0; i < 4; ++i) harness.step({1});
    }
  }
}

HEDDLE_TEST(cuda_attention_decodes_long_contexts_in_many_parts) {
  for (const Case& c : {Case{.head_dim = 16, .kv_head_of_query = {0, 0}}, in_16_bits({.head_dim = 64, .kv_head_of_query = heads_of_one(4)}),
                        in_16_bits({.head_dim = 128, .kv_head_of_query = heads_of_one(9), .rope_dim = 128, .norms = true})}) {
    Harness harness(c, 3, 1100);
    harness.step({1000, 257, 1});
    for (int i = 0; i < 2; ++i) harness.step({1, 1, 1});
  }
}

HEDDLE_TEST(cuda_attention_mixes_prefill_and_decode_in_one_step) {
  for (const Case& c :
       {Case{.head_dim = 32, .kv_head_of_query = {0, 0, 1, 1}, .kv_head_count = 2, .rope_dim = 32, .norms = true},
        in_16_bits({.head_dim = 64, .kv_head_of_query = {0, 0, 1, 1}, .kv_head_count = 2, .rope_dim = 32, .norms = true}),
        in_16_bits({.head_dim = 128, .kv_head_of_query = {1, 0}, .kv_head_count = 2, .rope_dim = 128}, DType::float16)}) {
    Harness harness(c, 4, 160);
    harness.step({9, 0, 1, 0});
    harness.step({1, 130, 1, 0});
    harness.step({1, 1, 4, 17});
    harness.step({12, 1, 0, 1});
  }
}

HEDDLE_TEST(cuda_attention_of_prompts_beyond_one_tile_of_queries) {
  for (const int64_t head_dim : {64, 96, 128, 256}) {
    Harness harness(in_16_bits({.head_dim = head_dim, .kv_head_of_query = {0, 0}, .rope_dim = 16}), 1, 400);
    harness.step({201});
    harness.step({2});
    harness.step({150});
  }
  Harness plain({.kv_head_of_query = {0, 0, 0}, .rope_dim = 16}, 1, 400);
  plain.step({201});
  plain.step({150});
}

HEDDLE_TEST(cuda_attention_skips_the_padding_of_a_bucket) {
  for (const Case& c : {Case{.head_dim = 16, .padding = 3}, in_16_bits({.head_dim = 64, .kv_head_of_query = {0, 0}, .padding = 3})}) {
    Harness harness(c, 2, 120);
    harness.step({20, 70});
    harness.step({1, 1});
    harness.step({1, 0});
    harness.step({1, 2});
  }
}

HEDDLE_TEST(cuda_attention_replays_one_graph_at_growing_contexts) {
  for (const Case& c : {Case{.head_dim = 16, .kv_head_of_query = {0, 0}},
                        in_16_bits({.head_dim = 64, .kv_head_of_query = {0, 0, 1}, .kv_head_count = 2, .rope_dim = 64})}) {
    Harness harness(c, 2, 200);
    harness.step({60, 125});                          // on the way one more part of the keys comes into use
    harness.decode_by_graph(9);
  }
}

HEDDLE_TEST(cuda_attention_refuses_what_it_has_no_room_for) {
  const cuda::Device device(0);
  const auto attend = [&](int64_t head_dim, int64_t heads) {
    const AttentionSpec spec = spec_of({.head_dim = head_dim, .kv_head_of_query = heads_of_one(heads)}, 1);
    Tensor cache{DType::float32, {2, 1, 1, 16, head_dim}, TensorRole::cache, {}};
    cuda::attention(device, {.step = {}, .shape = {1, 1, 1, 1}, .qkv = {}, .tensors = {.cache = &cache}, .spec = &spec, .y = {}});
  };
  check_throws(ErrorCode::invalid_argument, [&] { attend(258, 1); }, "a head dimension of 258");
  check_throws(ErrorCode::invalid_argument, [&] { attend(64, 257); }, "257 heads");
}

}  // namespace
}  // namespace heddle::test
