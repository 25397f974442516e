// What makes results independent of the number of ranks: a column of the linear layer has the same bits whatever columns are computed
// with it, and pieces of the contraction are added by the tree. Bit for bit, on every instruction set of this CPU.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "cpu/cpu_features.h"
#include "cpu/linear.h"
#include "tests/test.h"
#include "tests/tree_sum.h"

namespace heddle::cpu {
namespace {

using test::check;
using test::check_close;
using test::Random;
using test::tree_sum;

struct Kind {
  DType dtype;
  bool round;
};
constexpr Kind kKinds[] = {{DType::float32, false}, {DType::float32, true}, {DType::bfloat16, false}, {DType::bfloat16, true}, {DType::float16, false}};

struct Problem {
  Kind kind;
  int64_t rows, in, out;
  std::vector<float> x;
  std::vector<std::byte> weight;

  Problem(Kind k, int64_t r, int64_t i, int64_t o) : kind(k), rows(r), in(i), out(o) {
    Random random(static_cast<uint64_t>(r * 7919 + i * 131 + o));
    x = random.uniform_vector(static_cast<size_t>(rows * in));
    const std::vector<float> values = random.uniform_vector(static_cast<size_t>(in * out));
    weight.resize(values.size() * size_of(kind.dtype));
    convert(values.data(), DType::float32, weight.data(), kind.dtype, values.size());
  }

  int64_t element() const { return static_cast<int64_t>(size_of(kind.dtype)); }
  LinearArgs args(float* y) const { return {x.data(), weight.data(), kind.dtype, y, rows, in, out, kind.round}; }
  std::string text(Isa isa) const {
    return std::string(name_of(isa)) + " " + heddle::name_of(kind.dtype) + (kind.round ? " rounded" : "") + " rows " + std::to_string(rows) +
           " in " + std::to_string(in) + " out " + std::to_string(out);
  }

  // The elements [first, first + width) of the contraction, with memory of their own.
  Problem piece(int64_t first, int64_t width) const {
    Problem part(kind, rows, width, out);
    for (int64_t row = 0; row < rows; ++row) std::copy_n(x.begin() + row * in + first, width, part.x.begin() + row * width);
    for (int64_t row = 0; row < out; ++row) {
      std::copy_n(weight.begin() + (row * in + first) * element(), width * element(), part.weight.begin() + row * width * element());
    }
    return part;
  }
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<float> result_of(const Problem& problem, Isa isa) {
  static LinearScratch scratch;
  std::vector<float> y(static_cast<size_t>(problem.rows * problem.out), NAN);
  linear(problem.args(y.data()), scratch, isa);
  return y;
}

// The same product, `columns` weight rows at a time, as ranks would have them.
std::vector<float> in_shards(const Problem& problem, int64_t columns, Isa isa) {
  static LinearScratch scratch;
  std::vector<float> y(static_cast<size_t>(problem.rows * problem.out), NAN);
  for (int64_t first = 0; first < problem.out; first += columns) {
    const int64_t count = std::min(columns, problem.out - first);
    std::vector<float> part(static_cast<size_t>(problem.rows * count), NAN);
    LinearArgs args = problem.args(part.data());
    args.weight = problem.weight.data() + first * problem.in * problem.element();
    args.out = count;
    linear(args, scratch, isa);
    for (int64_t row = 0; row < problem.rows; ++row) std::copy_n(part.begin() + row * count, count, y.begin() + row * problem.out + first);
  }
  return y;
}

void check_shards(const Problem& problem) {
  for (const Isa isa : supported_isas()) {
    const std::vector<float> whole = result_of(problem, isa);
    for (const int64_t columns : {(problem.out + 1) / 2, problem.out / 3, int64_t{7}, int64_t{1}}) {
      check(same_bits(in_shards(problem, columns, isa), whole), problem.text(isa), ": other bits in shards of ", columns, " columns");
    }
  }
}

// Pieces of the contraction from the slow and plain side: each a product of its own, in memory of its own, then element by element.
std::vector<float> by_the_tree(const Problem& problem, const Chunks& chunks, Isa isa) {
  std::vector<std::vector<float>> pieces;
  int64_t first = 0;
  for (const int64_t width : chunks) {
    const size_t count = static_cast<size_t>(problem.rows * problem.out);
    pieces.push_back(width == 0 ? std::vector<float>(count, 0.0f) : result_of(problem.piece(first, width), isa));
    first += width;
  }
  std::vector<float> y;
  for (size_t i = 0; i < pieces[0].size(); ++i) {
    std::vector<float> terms;
    for (const auto& piece : pieces) terms.push_back(piece[i]);
    y.push_back(tree_sum(terms));
  }
  return y;
}

std::vector<float> in_chunks(const Problem& problem, const Chunks& chunks, Isa isa) {
  static LinearScratch scratch;
  std::vector<float> y(static_cast<size_t>(problem.rows * problem.out), NAN);
  linear_chunks(problem.args(y.data()), chunks, scratch, isa);
  return y;
}

void check_chunks(const Problem& problem, const Chunks& chunks) {
  for (const Isa isa : supported_isas()) {
    check(same_bits(in_chunks(problem, chunks, isa), by_the_tree(problem, chunks, isa)), problem.text(isa), " in ", chunks.size(), " pieces");
  }
}

}  // namespace

HEDDLE_TEST(linear_gives_a_column_the_same_bits_in_any_shard) {
  for (const Kind kind : kKinds) {
    for (const int64_t rows : {1, 2, 3, 5, 6, 7, 8, 12, 13, 16, 24, 25, 40}) {
      for (const int64_t in : {1, 33, 384, 1537, 3000}) check_shards(Problem(kind, rows, in, 47));
    }
    check_shards(Problem(kind, 257, 1030, 250));
    check_shards(Problem(kind, 1, 4097, 300));
  }
}

HEDDLE_TEST(linear_chunks_equal_the_tree_of_their_products) {
  for (const Kind kind : kKinds) {
    for (const int64_t rows : {1, 2, 7, 13, 24, 25}) {
      check_chunks(Problem(kind, rows, 96, 21), {12, 12, 12, 12, 12, 12, 12, 12});
      check_chunks(Problem(kind, rows, 200, 35), {48, 32, 48, 32, 40});
      check_chunks(Problem(kind, rows, 5, 9), {1, 1, 1, 0, 0, 0, 0, 0});  // two columns of padding
      check_chunks(Problem(kind, rows, 1, 9), {0, 0});
      check_chunks(Problem(kind, rows, 700, 9), {700});
    }
    check_chunks(Problem(kind, 1, 8192, 100), {1024, 1024, 1024, 1024, 1024, 1024, 1024, 1024});  // several blocks of columns
    check_chunks(Problem(kind, 300, 96, 500), {48, 48});                                           // and of rows
  }
}

HEDDLE_TEST(linear_chunks_of_ranks_add_up_to_those_of_one) {
  const Problem whole({DType::bfloat16, true}, 3, 200, 19);
  for (const Isa isa : supported_isas()) {
    const std::vector<float> expected = in_chunks(whole, {32, 16, 32, 16, 32, 16, 32, 24}, isa);
    const std::vector<float> first = in_chunks(whole.piece(0, 96), {32, 16, 32, 16}, isa);
    const std::vector<float> second = in_chunks(whole.piece(96, 104), {32, 16, 32, 24}, isa);
    std::vector<float> sum;
    for (size_t i = 0; i < first.size(); ++i) sum.push_back(first[i] + second[i]);
    check(same_bits(sum, expected), name_of(isa), ": two ranks differ from one");
    const std::vector<float> plain = result_of(whole, isa);
    for (size_t i = 0; i < plain.size(); ++i) check_close(expected[i], plain[i], 1e-4, "pieces differ from the whole at ", i);
    check(!same_bits(plain, expected), "pieces change no bit: this test would show nothing");
  }
}

}  // namespace heddle::cpu
