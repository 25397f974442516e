// Attention of the CUDA backend against the reference: decode, prompts and mixed steps, whatever kernel they come to.
// Rule: after every step the whole cache is compared, and rows that no token owns must still be the NaN they began as.
#pragma once
#include <numeric>

#include "../reference.h"
#include "cuda/attention.h"
#include "on_device.h"

namespace heddle::test {

struct AttentionCase {
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

inline AttentionSpec spec_of(const AttentionCase& c, int64_t block_count) {
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
class AttentionHarness {
 public:
  AttentionHarness(const AttentionCase& c, int64_t sequences, int64_t max_context, uint64_t seed = 1)
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

  // Prompts go to that library, which outlives this; null: to the own kernels.
  void use(cuda::PromptLibrary* library) { device_.prompts = library; }
  const cuda::Device& device() const { return device_; }
  cudaStream_t stream() const { return device_.stream(); }

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

  AttentionCase case_;
  Random random_;
  cuda::Device device_;
  reference::Attention reference_;
  std::vector<std::vector<std::vector<float>>> rows_;  // [sequence][position]
  int64_t blocks_per_sequence_;
  std::vector<int32_t> blocks_;
  Tensor cache_, frequencies_, query_norm_, key_norm_;
  AttentionTensors tensors_;
};

// A group of 16-bit activations with a cache of the same type: tensor cores where the head dimension has them.
inline AttentionCase in_16_bits(AttentionCase c, DType dtype = DType::bfloat16) {
  c.cache = c.qkv = c.y = dtype;
  return c;
}

inline std::vector<int32_t> heads_of_one(int64_t count) { return std::vector<int32_t>(static_cast<size_t>(count), 0); }

}  // namespace heddle::test
