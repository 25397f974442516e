// The linear layer against a plain double-precision reference: every instruction set of this CPU, every weight dtype,
// odd shapes. Operands end where an inaccessible page begins, so that reading or writing one element too many ends the
// run.
#include "cpu/linear.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "cpu/cpu_features.h"
#include "tests/test.h"

namespace heddle::cpu {
namespace {

using test::check;
using test::check_close;
using test::check_throws;
using test::Random;

// `count` elements of memory that end at a page boundary; the page after it cannot be touched.
template <typename T>
class Guarded {
 public:
  explicit Guarded(size_t count) : count_(count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = count * sizeof(T);
    const size_t usable = (bytes + page - 1) / page * page;
    mapped_ = usable + page;
    base_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(base_ + usable, page, PROT_NONE);
    data_ = reinterpret_cast<T*>(base_ + usable - bytes);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, mapped_); }
  T* data() { return data_; }
  size_t size() const { return count_; }

 private:
  size_t count_;
  size_t mapped_;
  char* base_;
  T* data_;
};

struct Shape {
  int64_t rows, in, out;
};

std::string describe(const Shape& shape, DType dtype, bool round, Isa isa) {
  return std::string("linear ") + name_of(isa) + " " + heddle::name_of(dtype) + (round ? " rounded" : "") + " rows " +
         std::to_string(shape.rows) + " in " + std::to_string(shape.in) + " out " + std::to_string(shape.out);
}

struct Problem {
  Shape shape;
  DType dtype;
  bool round;
  Guarded<float> x;
  Guarded<std::byte> weight;
  std::vector<float> weight_values;  // the weights after rounding to their dtype

  Problem(const Shape& s, DType d, bool r, uint64_t seed)
      : shape(s),
        dtype(d),
        round(r),
        x(static_cast<size_t>(s.rows * s.in)),
        weight(static_cast<size_t>(s.in * s.out) * size_of(d)) {
    Random random(seed);
    for (size_t i = 0; i < x.size(); ++i) x.data()[i] = random.uniform();
    weight_values = random.uniform_vector(static_cast<size_t>(s.in * s.out));
    convert(weight_values.data(), DType::float32, weight.data(), dtype, weight_values.size());
    convert(weight.data(), dtype, weight_values.data(), DType::float32, weight_values.size());
  }

  float x_value(int64_t row, int64_t k) {
    const float value = x.data()[row * shape.in + k];
    const bool rounded = round && dtype != DType::float16;
    return rounded ? bfloat16_to_float(float_to_bfloat16(value)) : value;
  }
};

struct Expected {
  std::vector<double> value;
  std::vector<double> magnitude;  // sum of |x * w|: the scale of the error of a sum
};

Expected reference(Problem& problem) {
  const Shape& shape = problem.shape;
  const size_t count = static_cast<size_t>(shape.rows * shape.out);
  Expected expected{std::vector<double>(count), std::vector<double>(count)};
  std::vector<double> row(static_cast<size_t>(shape.in));
  for (int64_t m = 0; m < shape.rows; ++m) {
    for (int64_t k = 0; k < shape.in; ++k) row[static_cast<size_t>(k)] = problem.x_value(m, k);
    for (int64_t n = 0; n < shape.out; ++n) {
      const float* weight = problem.weight_values.data() + n * shape.in;
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < shape.in; ++k) {
        const double product = row[static_cast<size_t>(k)] * weight[k];
        sum += product;
        magnitude += std::abs(product);
      }
      expected.value[static_cast<size_t>(m * shape.out + n)] = sum;
      expected.magnitude[static_cast<size_t>(m * shape.out + n)] = magnitude;
    }
  }
  return expected;
}

void run(Problem& problem, float* y, LinearScratch& scratch, Isa isa) {
  linear({problem.x.data(), problem.weight.data(), problem.dtype, y, problem.shape.rows, problem.shape.in,
          problem.shape.out, problem.round},
         scratch, isa);
}

void check_problem(Problem& problem, LinearScratch& scratch) {
  const Expected expected = reference(problem);
  const Shape& shape = problem.shape;
  for (const Isa isa : supported_isas()) {
    Guarded<float> y(expected.value.size());
    std::fill(y.data(), y.data() + y.size(), std::numeric_limits<float>::quiet_NaN());
    run(problem, y.data(), scratch, isa);
    for (size_t i = 0; i < y.size(); ++i) {
      const double tolerance = 2e-6 * expected.magnitude[i];
      if (std::abs(y.data()[i] - expected.value[i]) <= tolerance) continue;
      check_close(y.data()[i], expected.value[i], tolerance, describe(shape, problem.dtype, problem.round, isa),
                  " at [", static_cast<int64_t>(i) / shape.out, ", ", static_cast<int64_t>(i) % shape.out, "]");
      break;
    }
  }
}

// Every number of rows meets several depths and widths around the sizes of vectors, tiles, panels and blocks.
std::vector<Shape> odd_shapes() {
  const std::vector<int64_t> rows = {1,  2,  3,  4,  5,  6,  7,  8,  9,  11, 12, 13, 16,
                                     17, 24, 25, 31, 32, 33, 40, 47, 48, 49, 63, 64, 65};
  const std::vector<int64_t> depths = {1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 129, 255, 257};
  const std::vector<int64_t> widths = {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 15, 23, 24, 25, 31, 32, 33, 50, 64, 65, 95};
  std::vector<Shape> shapes;
  size_t i = 0, j = 0;
  for (const int64_t row : rows) {
    for (int repeat = 0; repeat < 6; ++repeat)
      shapes.push_back({row, depths[i++ % depths.size()], widths[j++ % widths.size()]});
    i += 1;
  }
  return shapes;
}

// Across the bounds of depth blocks, weight row blocks and blocks of rows of x.
std::vector<Shape> large_shapes() {
  return {{1, 4097, 33},  {3, 2049, 17},  {20, 511, 13},  {20, 513, 250}, {33, 1024, 241}, {34, 1025, 40},
          {40, 1031, 14}, {70, 2050, 27}, {100, 600, 99}, {128, 96, 500}, {255, 40, 241},  {256, 33, 12},
          {257, 65, 25},  {300, 70, 245}, {513, 34, 30},  {600, 17, 7},   {96, 3073, 30},  {17, 1537, 260},
          {9, 4096, 35},  {30, 2048, 50}, {50, 4096, 25}, {140, 2048, 24},
          // several rows in one pass, and results that gather by the line
          {7, 1023, 64},  {8, 1024, 131}, {10, 95, 201},  {11, 64, 259},  {12, 1000, 77}, {5, 1537, 70},  {16, 992, 190},
          {6, 3000, 66},  {17, 1025, 69}};
}

void check_shapes(DType dtype, bool round) {
  LinearScratch scratch;
  uint64_t seed = 1;
  for (const auto& shapes : {odd_shapes(), large_shapes()}) {
    for (const Shape& shape : shapes) {
      Problem problem(shape, dtype, round, seed++);
      check_problem(problem, scratch);
    }
  }
}

}  // namespace

HEDDLE_TEST(linear_float32_equals_reference) { check_shapes(DType::float32, false); }
HEDDLE_TEST(linear_float32_rounded_equals_reference) { check_shapes(DType::float32, true); }
HEDDLE_TEST(linear_bfloat16_equals_reference) { check_shapes(DType::bfloat16, false); }
HEDDLE_TEST(linear_bfloat16_rounded_equals_reference) { check_shapes(DType::bfloat16, true); }
HEDDLE_TEST(linear_float16_equals_reference) { check_shapes(DType::float16, false); }
HEDDLE_TEST(linear_float16_is_never_rounded) { check_shapes(DType::float16, true); }

// Integers this small are exact in bfloat16 and in every partial sum: all instruction sets must agree to the last bit.
HEDDLE_TEST(linear_exact_integers_are_exact) {
  LinearScratch scratch;
  for (const Shape& shape : {Shape{1, 100, 30}, Shape{7, 333, 41}, Shape{37, 700, 65}, Shape{130, 1100, 37}}) {
    for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
      Problem problem(shape, dtype, true, 5);
      Random random(6);
      for (size_t i = 0; i < problem.x.size(); ++i) problem.x.data()[i] = static_cast<float>(random.below(9) - 4);
      for (float& value : problem.weight_values) value = static_cast<float>(random.below(9) - 4);
      convert(problem.weight_values.data(), DType::float32, problem.weight.data(), dtype, problem.weight_values.size());
      const Expected expected = reference(problem);
      for (const Isa isa : supported_isas()) {
        std::vector<float> y(expected.value.size());
        run(problem, y.data(), scratch, isa);
        size_t wrong = 0;
        for (size_t i = 0; i < y.size(); ++i) wrong += y[i] != expected.value[i];
        check(wrong == 0, describe(shape, dtype, true, isa), ": ", wrong, " of ", y.size(), " are not exact");
      }
    }
  }
}

// A NaN in one row of x and an infinity in one row of the weights reach their own results and no others, padding
// included.
HEDDLE_TEST(linear_keeps_nan_and_infinity_in_their_places) {
  LinearScratch scratch;
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (const Shape& shape : {Shape{1, 37, 9}, Shape{5, 37, 9}, Shape{19, 70, 31}, Shape{66, 45, 40}}) {
    for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
      for (const bool round : {false, true}) {
        Problem problem(shape, dtype, round, 9);
        const int64_t bad_row = shape.rows - 1, bad_column = shape.out / 2;
        problem.x.data()[bad_row * shape.in + shape.in - 1] = nan;
        problem.weight_values[static_cast<size_t>(bad_column * shape.in)] = infinity;
        convert(problem.weight_values.data(), DType::float32, problem.weight.data(), dtype,
                problem.weight_values.size());
        for (const Isa isa : supported_isas()) {
          std::vector<float> y(static_cast<size_t>(shape.rows * shape.out));
          run(problem, y.data(), scratch, isa);
          size_t wrong = 0;
          for (int64_t m = 0; m < shape.rows; ++m) {
            for (int64_t n = 0; n < shape.out; ++n) {
              const float value = y[static_cast<size_t>(m * shape.out + n)];
              const bool right = m == bad_row      ? std::isnan(value)
                                 : n == bad_column ? std::isinf(value)
                                                   : std::isfinite(value);
              wrong += !right;
            }
          }
          check(wrong == 0, describe(shape, dtype, round, isa), ": ", wrong,
                " results are finite, infinite or NaN wrongly");
        }
      }
    }
  }
}

HEDDLE_TEST(linear_repeats_itself_bit_by_bit) {
  LinearScratch fresh, used;
  Problem warm({90, 800, 70}, DType::float32, false, 2);
  std::vector<float> ignored(90 * 70);
  for (const Isa isa : supported_isas()) {
    for (const int64_t rows : {1, 7, 50}) {
      Problem problem({rows, 301, 77}, DType::bfloat16, true, 3);
      std::vector<float> first(static_cast<size_t>(rows * 77)), second(first.size());
      run(warm, ignored.data(), used, isa);
      run(problem, first.data(), fresh, isa);
      run(problem, second.data(), used, isa);
      check(std::memcmp(first.data(), second.data(), first.size() * sizeof(float)) == 0,
            describe(problem.shape, DType::bfloat16, true, isa),
            ": expected the same bits whatever the scratch memory held before");
    }
  }
}

HEDDLE_TEST(linear_refuses_impossible_shapes) {
  LinearScratch scratch;
  float x = 1, weight = 1, y = 7;
  for (const Shape& shape : {Shape{-1, 1, 1}, Shape{1, 0, 1}, Shape{1, 1, 0}}) {
    check_throws(
        ErrorCode::invalid_argument,
        [&] {
          linear({&x, &weight, DType::float32, &y, shape.rows, shape.in, shape.out, false}, scratch);
        },
        "linear rows ", shape.rows, " in ", shape.in, " out ", shape.out);
  }
  linear({&x, &weight, DType::float32, &y, 0, 1, 1, false}, scratch);
  check(y == 7, "linear with no rows: expected y untouched, got ", y);
}

HEDDLE_TEST(linear_scratch_grows_and_never_shrinks) {
  LinearScratch scratch;
  std::byte* small = scratch.reserve(100);
  check(reinterpret_cast<uintptr_t>(small) % 64 == 0, "scratch: expected 64-byte alignment");
  check(scratch.reserve(50) == small, "scratch: expected the same memory for less");
  scratch.reserve(100000);
  check(scratch.capacity() >= 100000, "scratch: expected at least 100000 bytes, got ", scratch.capacity());
  scratch.reserve(10);
  check(scratch.capacity() >= 100000, "scratch: expected no shrinking, got ", scratch.capacity());
  check_throws(
      ErrorCode::out_of_memory, [&] { scratch.reserve(size_t{1} << 62); }, "scratch of 4 EB");
}

HEDDLE_TEST(cpu_isa_follows_the_request) {
  const std::vector<Isa>& supported = supported_isas();
  check(!supported.empty() && supported.front() == Isa::portable, "supported_isas: expected portable first");
  check(choose_isa(nullptr) == supported.back(), "choose_isa: expected the highest level without a request");
  check(choose_isa("") == supported.back(), "choose_isa: expected the highest level for an empty request");
  check_throws(
      ErrorCode::invalid_argument, [] { choose_isa("avx1024"); }, "choose_isa(avx1024)");
  const std::set<Isa> has(supported.begin(), supported.end());
  for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::amx}) {
    if (has.count(isa)) {
      check(choose_isa(name_of(isa)) == isa, "choose_isa: expected ", name_of(isa));
    } else {
      check_throws(
          ErrorCode::unavailable, [&] { choose_isa(name_of(isa)); }, "choose_isa(", name_of(isa), ")");
    }
  }
}

}  // namespace heddle::cpu
