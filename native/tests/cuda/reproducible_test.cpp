// What a reproducible group needs of the operations of the CUDA backend: a rank's part of a result has the bits that it has in the whole,
// however columns, heads, experts and pieces of contractions are dealt out.
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "../reference.h"
#include "../tree_sum.h"
#include "cuda/attention.h"
#include "cuda/experts.h"
#include "cuda/linear.h"
#include "on_device.h"

namespace heddle::test {
namespace {

using cuda::Device;
using cuda::LinearCall;

// NaN counts as different, and so does -0.
void check_bits(const std::vector<float>& actual, const std::vector<float>& expected, const std::string& what) {
  if (!check(actual.size() == expected.size(), what, ": expected ", expected.size(), " elements, got ", actual.size())) return;
  for (size_t i = 0; i < actual.size(); ++i) {
    const bool same = std::memcmp(&actual[i], &expected[i], sizeof(float)) == 0 && actual[i] == actual[i];
    if (!check(same, what, ": element ", i, ": expected the bits of ", expected[i], ", got ", actual[i])) return;
  }
}

// ---- columns of matrices ----

// Columns [first, first + count).
Matrix columns_of(const Matrix& whole, int64_t first, int64_t count) {
  Matrix part(whole.rows, count);
  for (int64_t row = 0; row < whole.rows; ++row) {
    for (int64_t i = 0; i < count; ++i) part.values[static_cast<size_t>(row * count + i)] = whole.row(row)[first + i];
  }
  return part;
}

Matrix rows_of(const Matrix& whole, int64_t first, int64_t count) {
  const float* begin = whole.row(first);
  return Matrix(count, whole.width, std::vector<float>(begin, begin + count * whole.width));
}

Matrix below(const Matrix& a, const Matrix& b) {
  std::vector<float> values = a.values;
  values.insert(values.end(), b.values.begin(), b.values.end());
  return Matrix(a.rows + b.rows, a.width, std::move(values));
}

// ---- linear ----

struct Types {
  DType x, weight, y;
  bool exact;
};

const std::vector<Types> kTypes = {
    {DType::float32, DType::float32, DType::float32, true},       {DType::float32, DType::bfloat16, DType::float32, true},
    {DType::bfloat16, DType::bfloat16, DType::bfloat16, false},   {DType::float32, DType::bfloat16, DType::float32, false},
    {DType::float16, DType::float16, DType::float32, false},
};

std::string text_of(const Types& types) {
  return std::string(name_of(types.x)) + " x " + name_of(types.weight) + " to " + name_of(types.y) + (types.exact ? ", exact" : "");
}

Matrix random_matrix(Random& random, int64_t rows, int64_t width, DType dtype) {
  return Matrix(rows, width, as_held(random.uniform_vector(static_cast<size_t>(rows * width)), dtype));
}

std::vector<float> product(const Device& device, const Types& types, const Matrix& x, const Matrix& weight, const std::vector<float>& bias,
                           bool gated, const Chunks& chunks) {
  const DeviceMatrix input(device, x, types.x);
  const DeviceMatrix y(device, x.rows, gated ? weight.rows / 2 : weight.rows, types.y);
  const Tensor held = tensor_on(device, weight.values, {weight.rows, weight.width}, types.weight);
  const Tensor added = tensor_on(device, bias, {static_cast<int64_t>(bias.size())});
  LinearCall call;
  call.x = input.view();
  call.weight = &held;
  call.y = y.view();
  call.exact = types.exact;
  call.chunks = &chunks;
  if (!bias.empty()) call.bias = &added;
  if (gated) call.gated = Activation::silu;
  cuda::linear(device, call);
  return y.read("linear");
}

struct Shape {
  int64_t rows, in, out;
};

// Below, at and above what a warp, a tile of rows and one of columns take; contractions that are no whole vectors.
const std::vector<Shape> kShapes = {{1, 264, 70}, {1, 33, 12}, {3, 40, 66}, {4, 520, 24}, {5, 36, 70}, {16, 24, 130}, {17, 264, 12}, {70, 41, 66}};

// The columns [first, first + count) alone, against those of the whole.
void check_columns(const Device& device, const Shape& shape, const Types& types, bool gated) {
  Random random(static_cast<uint64_t>(shape.rows * 1000 + shape.in));
  const Matrix x = random_matrix(random, shape.rows, shape.in, types.x);
  const Matrix weight = random_matrix(random, shape.out, shape.in, types.weight);
  const int64_t width = gated ? shape.out / 2 : shape.out;
  const bool biased = shape.rows <= cuda::kSmallRows;   // beyond, products of 16 bits fold nothing
  const std::vector<float> bias = biased ? random.uniform_vector(static_cast<size_t>(shape.out)) : std::vector<float>();
  const Matrix whole(shape.rows, width, product(device, types, x, weight, bias, gated, {}));
  for (const int64_t parts : {int64_t{2}, int64_t{3}, width}) {
    for (int64_t part = 0; part < parts; part += parts == width ? std::max<int64_t>(5, width / 8) : 1) {
      const int64_t first = width * part / parts, count = width * (part + 1) / parts - first;
      const auto gates_and_ups = [&](const auto& cut) { return gated ? below(cut(first), cut(width + first)) : cut(first); };
      const Matrix of_part = gates_and_ups([&](int64_t row) { return rows_of(weight, row, count); });
      const Matrix bias_of_part = gates_and_ups([&](int64_t row) { return biased ? rows_of(Matrix(shape.out, 1, bias), row, count) : Matrix(0, 1); });
      check_bits(product(device, types, x, of_part, bias_of_part.values, gated, {}), columns_of(whole, first, count).values,
                 text_of(types) + (gated ? ", gated, " : ", ") + std::to_string(shape.rows) + " rows of " + std::to_string(shape.in) + ", columns " +
                     std::to_string(first) + " to " + std::to_string(first + count));
    }
  }
}

HEDDLE_TEST(cuda_reproducible_linear_columns_do_not_know_of_each_other) {
  Device device(0);
  device.reproducible = true;
  for (const Types& types : kTypes) {
    for (const Shape& shape : kShapes) check_columns(device, shape, types, false);
    for (const Shape& shape : {kShapes[0], kShapes[2], kShapes[5]}) check_columns(device, shape, types, true);
  }
  check_columns(device, {3, 264, 2200}, kTypes[4], false);  // more columns than a GPU takes at once
}

double largest_error(const Matrix& x, const Matrix& weight, const std::vector<float>& y, int64_t in) {
  double most = 0;
  for (int64_t row = 0; row < x.rows; ++row) {
    for (int64_t column = 0; column < weight.rows; ++column) {
      double sum = 0;
      for (int64_t k = 0; k < in; ++k) sum += double{x.row(row)[k]} * weight.row(column)[k];
      most = std::max(most, std::abs(sum - y[static_cast<size_t>(row * weight.rows + column)]));
    }
  }
  return most;
}

// What `ranks` that have the pieces in turn give, `part_of(first, count, pieces)` each of `count` elements from `first` on, adds up as a tree to
// `whole`, which one rank gives that has them all.
template <class PartOf>
void check_ranks(const std::vector<float>& whole, const Chunks& pieces, size_t ranks, const std::string& what, PartOf part_of) {
  std::vector<std::vector<float>> parts;
  int64_t first = 0;
  for (size_t rank = 0; rank < ranks; ++rank) {
    const auto begin = pieces.begin() + static_cast<std::ptrdiff_t>(rank * pieces.size() / ranks);
    const Chunks own(begin, begin + static_cast<std::ptrdiff_t>(pieces.size() / ranks));
    int64_t count = 0;
    for (const int64_t piece : own) count += piece;
    parts.push_back(part_of(first, count, own));
    first += count;
  }
  std::vector<float> sum(whole.size()), terms(ranks);
  for (size_t i = 0; i < sum.size(); ++i) {
    for (size_t rank = 0; rank < ranks; ++rank) terms[rank] = parts[rank][i];
    sum[i] = tree_sum(terms);
  }
  check_bits(sum, whole, what + " on " + std::to_string(ranks) + " ranks");
}

// Ranks that have some of the eight pieces each, against one rank that has them all.
void check_pieces(const Device& device, const Types& types, int64_t rows, const Chunks& chunks, int64_t padding) {
  const std::string what = text_of(types) + ", " + std::to_string(rows) + " rows, pieces from " + std::to_string(chunks.front());
  Random random(static_cast<uint64_t>(rows));
  int64_t in = padding, counted = 0;
  for (const int64_t chunk : chunks) counted += chunk;
  in += counted;
  const Matrix x = random_matrix(random, rows, in, types.exact ? types.x : types.weight), weight = random_matrix(random, 37, in, types.weight);
  const std::vector<float> whole = product(device, types, x, weight, {}, false, chunks);
  check(largest_error(x, weight, whole, counted) < 1e-4, what, ": expected the product, got an error of ", largest_error(x, weight, whole, counted));
  for (const size_t ranks : {size_t{2}, size_t{4}, size_t{8}}) {
    check_ranks(whole, chunks, ranks, what, [&](int64_t first, int64_t count, const Chunks& own) {
      const int64_t held = std::max<int64_t>(1, count), from = std::min(first, in - held);  // no tensor is empty
      return product(device, types, columns_of(x, from, held), columns_of(weight, from, held), {}, false, own);
    });
  }
}

HEDDLE_TEST(cuda_reproducible_linear_pieces_add_up_as_a_tree_wherever_they_lie) {
  Device device(0);
  device.reproducible = true;
  for (Types types : kTypes) {
    types.y = DType::float32;
    for (const int64_t rows : {1, 4, 6, 65}) {
      check_pieces(device, types, rows, {48, 48, 48, 48, 32, 32, 32, 32}, 0);
      check_pieces(device, types, rows, {7, 7, 7, 5, 5, 5, 5, 3}, 0);           // odd addresses everywhere
      check_pieces(device, types, rows, {16, 16, 8, 8, 8, 0, 0, 0}, 1);         // pieces without elements, and padding
      check_pieces(device, types, rows, {300, 300, 300, 300, 300, 300, 300, 296}, 0);
    }
  }
}

HEDDLE_TEST(cuda_reproducible_linear_refuses_more_pieces_than_it_adds) {
  Device device(0);
  const Matrix x(1, 16), weight(4, 16);
  check_throws(ErrorCode::invalid_argument, [&] { product(device, kTypes[0], x, weight, {}, false, Chunks(9, 1)); });
  check_throws(ErrorCode::invalid_argument, [&] { product(device, kTypes[0], x, weight, {}, true, Chunks(2, 8)); });
}

// ---- experts ----

struct Mixture {
  int64_t width, inner, experts, per_token;
  Matrix x, routing, gates, ups, down;                // of the whole; gates and ups [experts * inner, width], down [experts * width, inner]
};

Mixture random_mixture(Random& random, int64_t rows, int64_t width, int64_t inner, int64_t experts, const Types& types) {
  Mixture mixture{width, inner, experts, 2, random_matrix(random, rows, width, types.exact ? types.x : types.weight), Matrix(0, experts),
                  random_matrix(random, experts * inner, width, types.weight), random_matrix(random, experts * inner, width, types.weight),
                  random_matrix(random, experts * width, inner, types.weight)};
  const auto logits = static_cast<size_t>(rows * experts);
  mixture.routing = Matrix(rows, experts, reference::random_routing(rows, experts, mixture.per_token, random.uniform_vector(logits, -3, 3)));
  return mixture;
}

// Which part of it a rank has, and in which pieces.
struct Share {
  int64_t first_expert, experts, first_inner, inner;
  Chunks chunks, expert_chunks;
};

std::vector<float> sum_of_experts(const Device& device, const Types& types, const Mixture& whole, const Share& share) {
  Matrix gate_up(0, whole.width), down(0, share.inner);
  for (int64_t expert = share.first_expert; expert < share.first_expert + share.experts; ++expert) {
    for (const Matrix* matrix : {&whole.gates, &whole.ups}) {
      gate_up = below(gate_up, rows_of(*matrix, expert * whole.inner + share.first_inner, share.inner));
    }
    down = below(down, columns_of(rows_of(whole.down, expert * whole.width, whole.width), share.first_inner, share.inner));
  }
  const Tensor held_gate_up = tensor_on(device, gate_up.values, {gate_up.rows, gate_up.width}, types.weight);
  const Tensor held_down = tensor_on(device, down.values, {down.rows, down.width}, types.weight);
  const DeviceMatrix x(device, whole.x, types.x), routing(device, whole.routing), y(device, whole.x.rows, whole.width, types.y);
  const ExpertsSpec spec = {share.first_expert, whole.per_token, Activation::silu, share.chunks, share.expert_chunks};
  cuda::experts(device, {x.view(), routing.view(), &held_gate_up, &held_down, &spec, y.view(), types.exact});
  return y.read("experts");
}

void check_against_reference(const Types& types, const Mixture& mixture, const std::vector<float>& actual, const std::string& what) {
  reference::Experts expected = {mixture.x.rows, mixture.width, mixture.inner, mixture.experts, mixture.experts, {0, mixture.per_token, Activation::silu},
                                 mixture.x.values, mixture.routing.values, {}, mixture.down.values};
  for (int64_t expert = 0; expert < mixture.experts; ++expert) {
    for (const Matrix* matrix : {&mixture.gates, &mixture.ups}) {
      const Matrix part = rows_of(*matrix, expert * mixture.inner, mixture.inner);
      expected.gate_up.insert(expected.gate_up.end(), part.values.begin(), part.values.end());
    }
  }
  std::vector<double> y, sizes;
  expected.run(y, sizes);
  const double error = types.exact ? 4e-6 : rounding_of(types.weight);
  for (size_t i = 0; i < y.size(); ++i) {
    if (!check_close(actual[i], y[i], error * (sizes[i] + 1e-3), what, ", element ", i)) return;
  }
}

// Shares of ranks, each with as many of the pieces, against the one that has them all.
void check_shares(const Device& device, const Types& types, const Mixture& mixture, const Chunks& pieces, bool of_experts) {
  const std::string what = std::string(of_experts ? "whole experts of " : "parts of experts of ") + text_of(types) + ", " + std::to_string(mixture.x.rows) + " rows";
  Share all{0, mixture.experts, 0, mixture.inner, {}, {}};
  (of_experts ? all.expert_chunks : all.chunks) = pieces;
  const std::vector<float> whole = sum_of_experts(device, types, mixture, all);
  check_against_reference(types, mixture, whole, what);
  for (size_t ranks = 2; ranks <= pieces.size(); ranks *= 2) {
    check_ranks(whole, pieces, ranks, what, [&](int64_t first, int64_t count, const Chunks& own) {
      const Share share = of_experts ? Share{first, count, 0, mixture.inner, {}, own} : Share{0, mixture.experts, first, count, own, {}};
      return sum_of_experts(device, types, mixture, share);
    });
  }
}

HEDDLE_TEST(cuda_reproducible_experts_add_up_as_a_tree_however_they_are_dealt_out) {
  Device device(0);
  device.reproducible = true;
  for (Types types : kTypes) {
    types.y = DType::float32;
    for (const int64_t rows : {1, 5, 20, 131}) {       // the last: more than go at once
      Random random(static_cast<uint64_t>(rows));
      check_shares(device, types, random_mixture(random, rows, 24, 44, 4, types), {7, 7, 5, 5, 5, 5, 5, 5}, false);
      check_shares(device, types, random_mixture(random, rows, 16, 12, 9, types), {2, 1, 1, 1, 1, 1, 1, 1}, true);
      check_shares(device, types, random_mixture(random, rows, 16, 12, 3, types), {2, 1}, true);
    }
  }
}

// ---- attention ----

struct Heads {
  int64_t query_heads, kv_heads, head_dim;
  DType cache, values;

  // KV head of a query head, in the whole.
  int64_t kv_of(int64_t head) const { return head * kv_heads / query_heads; }
};

// The outputs of query heads [first, last) of a rank that has these and the KV heads that they read: after a prompt of each of two sequences,
// then after steps of one token, alone and beside a longer one.
std::vector<Matrix> attend(const Device& device, const Heads& heads, int64_t first, int64_t last) {
  constexpr int64_t kBlock = 16, kBlocks = 16;
  const int64_t first_kv = heads.kv_of(first), kv_count = heads.kv_of(last - 1) + 1 - first_kv, dim = heads.head_dim;
  AttentionSpec spec;
  spec.head_count = last - first;
  spec.kv_head_count = kv_count;
  spec.head_dim = spec.rope_dim = dim;
  for (int64_t head = first; head < last; ++head) spec.kv_head_of_query.push_back(static_cast<int32_t>(heads.kv_of(head) - first_kv));
  spec.scale = 0.2f;
  spec.norm_eps = 1e-6f;
  spec.block_size = kBlock;
  spec.block_count = 2 * kBlocks;
  const auto cache_count = static_cast<size_t>(2 * spec.block_count * kv_count * kBlock * dim);
  Tensor cache = tensor_on(device, std::vector<float>(cache_count), {2, spec.block_count, kv_count, kBlock, dim}, heads.cache, TensorRole::cache);
  Random random(11);                                  // the same whoever asks
  const Tensor frequencies = tensor_on(device, random.uniform_vector(static_cast<size_t>(dim / 2), 0, 1), {dim / 2});
  const Tensor norm = tensor_on(device, random.uniform_vector(static_cast<size_t>(dim), 0.5f, 2), {dim});
  std::vector<int32_t> lengths(2);
  std::vector<Matrix> outputs;
  for (const std::vector<int32_t>& counts : {std::vector<int32_t>{150, 70}, {1, 1}, {1, 9}, {1, 0}}) {
    Step step;
    step.sequence_starts.push_back(0);
    for (size_t sequence = 0; sequence < counts.size(); ++sequence) {
      if (counts[sequence] == 0) continue;
      for (int32_t i = 0; i < counts[sequence]; ++i) step.positions.push_back(lengths[sequence]++);
      step.tokens.resize(step.positions.size());
      step.sequence_starts.push_back(static_cast<int32_t>(step.positions.size()));
      step.slots.push_back(static_cast<int32_t>(sequence));
      for (int64_t block = 0; block < kBlocks; ++block) step.block_table.push_back(static_cast<int32_t>(static_cast<int64_t>(sequence) * kBlocks + block));
    }
    const int64_t all_heads = heads.query_heads + 2 * heads.kv_heads;
    const Matrix whole = random_matrix(random, step.token_count(), all_heads * dim, heads.values);
    Matrix qkv = columns_of(whole, first * dim, (last - first) * dim);
    const auto beside = [&](int64_t from) {           // more columns
      const Matrix more = columns_of(whole, (from + first_kv) * dim, kv_count * dim);
      Matrix both(qkv.rows, qkv.width + more.width);
      for (int64_t row = 0; row < qkv.rows; ++row) {
        std::copy_n(qkv.row(row), qkv.width, both.values.begin() + row * both.width);
        std::copy_n(more.row(row), more.width, both.values.begin() + row * both.width + qkv.width);
      }
      qkv = both;
    };
    beside(heads.query_heads);
    beside(heads.query_heads + heads.kv_heads);
    const StepOnDevice on_device(device, step);
    const DeviceMatrix x(device, qkv, heads.values), y(device, step.token_count(), (last - first) * dim, heads.values);
    cuda::attention(device, {on_device.step, on_device.shape, x.view(), {&cache, &frequencies, &norm, &norm}, &spec, y.view()});
    outputs.push_back(y.matrix("attention"));
  }
  return outputs;
}

HEDDLE_TEST(cuda_reproducible_attention_heads_do_not_know_of_each_other) {
  Device device(0);
  device.reproducible = true;
  const DType f = DType::float32, b = DType::bfloat16;
  for (const Heads& heads : {Heads{8, 8, 16, f, f}, {8, 2, 64, b, b}, {24, 2, 64, b, b}, {24, 1, 64, b, f}, {8, 1, 20, b, b}, {16, 4, 128, b, b}}) {
    const std::vector<Matrix> whole = attend(device, heads, 0, heads.query_heads);
    for (const int64_t ranks : {2, 4, 8}) {
      const int64_t count = heads.query_heads / ranks;
      for (const int64_t rank : {int64_t{0}, ranks / 2, ranks - 1}) {
        const std::vector<Matrix> part = attend(device, heads, rank * count, (rank + 1) * count);
        for (size_t step = 0; step < whole.size(); ++step) {
          check_bits(part[step].values, columns_of(whole[step], rank * count * heads.head_dim, count * heads.head_dim).values,
                     std::to_string(heads.query_heads) + " heads on " + std::to_string(heads.kv_heads) + ", rank " + std::to_string(rank) + " of " +
                         std::to_string(ranks) + ", step " + std::to_string(step));
        }
      }
    }
  }
}

}  // namespace
}  // namespace heddle::test
