// The linear layer of the CUDA backend against double precision: every kernel that `linear` may choose, all dtypes, odd shapes, every
// fold alone and together. Outputs start as NaN between guards.
#include "cuda/linear.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cuda/dynlib.h"
#include "cuda/linear_lt.h"
#include "on_device.h"
#include "../reference.h"

namespace heddle::test {
namespace {

using cuda::Device;
using cuda::LinearCall;

constexpr DType kDTypes[] = {DType::float32, DType::bfloat16, DType::float16};

struct Shape {
  int64_t rows, in, out;
};

struct Folds {
  bool norm = false;
  bool bias = false;
  std::optional<Activation> activation;
  std::optional<Activation> gated;
  bool residual = false;
  bool in_place = false;                              // the residual is the memory of y
};

struct Case {
  Shape shape;
  DType x = DType::bfloat16, weight = DType::bfloat16, y = DType::bfloat16, residual = DType::float32;
  bool exact = false;
  Folds folds;
  int64_t offset = 0;                                 // of x, y and the residual, in elements: takes alignment away
};

std::string text_of(const Case& c) {
  std::string text = "linear rows " + std::to_string(c.shape.rows) + " in " + std::to_string(c.shape.in) + " out " + std::to_string(c.shape.out) +
                     " x " + name_of(c.x) + " weight " + name_of(c.weight) + " y " + name_of(c.y);
  if (c.exact) text += " exact";
  if (c.folds.norm) text += " norm";
  if (c.folds.bias) text += " bias";
  if (c.folds.activation) text += " activation " + std::to_string(static_cast<int>(*c.folds.activation));
  if (c.folds.gated) text += " gated " + std::to_string(static_cast<int>(*c.folds.gated));
  if (c.folds.residual) text += std::string(" residual ") + name_of(c.residual) + (c.folds.in_place ? " in place" : "");
  return c.offset ? text + " offset " + std::to_string(c.offset) : text;
}

// A value and how far a right kernel may be from it.
struct Expected {
  double value = 0;
  double error = 0;
};

// The numbers of a case, as their dtypes hold them.
struct Numbers {
  std::vector<float> x, weight, norm_weight, bias, residual;
  float eps = 1e-5f;

  Numbers(const Case& c, uint64_t seed) {
    Random random(seed);
    const auto [rows, in, out] = c.shape;
    const int64_t width = c.folds.gated ? out / 2 : out;
    x = as_held(random.uniform_vector(static_cast<size_t>(rows * in)), c.x);
    weight = as_held(random.uniform_vector(static_cast<size_t>(in * out)), c.weight);
    if (c.folds.norm) norm_weight = random.uniform_vector(static_cast<size_t>(in), 0.5f, 1.5f);
    if (c.folds.bias) bias = random.uniform_vector(static_cast<size_t>(out));
    if (c.folds.residual) residual = as_held(random.uniform_vector(static_cast<size_t>(rows * width)), c.residual);
  }
};

// A row of x as the product takes it.
std::vector<double> input_row(const Case& c, const Numbers& numbers, int64_t row) {
  const auto in = static_cast<size_t>(c.shape.in);
  const float* x = numbers.x.data() + static_cast<size_t>(row) * in;
  std::vector<double> values(x, x + in);
  if (c.folds.norm) values = reference::rms_norm(x, numbers.norm_weight.data(), numbers.eps, c.shape.in);
  if (c.exact || c.weight == DType::float32) return values;
  std::vector<float> single(values.begin(), values.end());
  single = as_held(single, c.weight);
  return {single.begin(), single.end()};
}

// Sums in float32, in whatever order: each of the `in` additions and products rounds, tensor cores by cutting off. A norm in float32
// may leave a number on the other side of a rounding to 16 bits: of some of the largest terms, since that is rare.
Expected sum_of(const Case& c, const Numbers& numbers, const std::vector<double>& x, int64_t column) {
  const float* weight = numbers.weight.data() + column * c.shape.in;
  double sum = 0, magnitude = 0, largest = 0;
  for (size_t k = 0; k < x.size(); ++k) {
    const double product = x[k] * weight[k];
    sum += product;
    magnitude += std::abs(product);
    largest = std::max(largest, std::abs(product));
  }
  const double bias = numbers.bias.empty() ? 0 : numbers.bias[static_cast<size_t>(column)];
  double error = 0x1p-23 * (static_cast<double>(c.shape.in) + 8) * (magnitude + std::abs(bias));
  if (c.folds.norm) error += c.exact || c.weight == DType::float32 ? 0x1p-20 * magnitude : 3 * 2 * rounding_of(c.weight) * largest;
  return {sum + bias, error};
}

// No activation is steeper than 1.2; their own float32 arithmetic is good to some bits.
Expected activated(Activation kind, Expected x) {
  const double value = reference::activation(kind, x.value);
  return {value, 1.2 * x.error + 0x1p-20 * (std::abs(value) + std::abs(x.value) * 0x1p-3)};
}

Expected element_of(const Case& c, const Numbers& numbers, const std::vector<double>& x, int64_t row, int64_t column) {
  const int64_t width = c.folds.gated ? c.shape.out / 2 : c.shape.out;
  Expected y = sum_of(c, numbers, x, column);
  if (c.folds.activation) y = activated(*c.folds.activation, y);
  if (c.folds.gated) {
    const Expected gate = activated(*c.folds.gated, y), up = sum_of(c, numbers, x, width + column);
    y = {gate.value * up.value, gate.error * (std::abs(up.value) + up.error) + std::abs(gate.value) * up.error};
  }
  if (c.folds.residual) y.value += numbers.residual[static_cast<size_t>(row * width + column)];
  y.error += rounding_of(c.y) * (std::abs(y.value) + y.error) + 0x1p-24;   // the last: float16's smallest steps
  return y;
}

std::vector<Expected> expected_of(const Case& c, const Numbers& numbers) {
  std::vector<Expected> expected;
  for (int64_t row = 0; row < c.shape.rows; ++row) {
    const std::vector<double> x = input_row(c, numbers, row);
    const int64_t width = c.folds.gated ? c.shape.out / 2 : c.shape.out;
    for (int64_t column = 0; column < width; ++column) expected.push_back(element_of(c, numbers, x, row, column));
  }
  return expected;
}

// What a case is on the device.
struct Operands {
  DeviceMatrix x, y, residual;
  Tensor weight, norm_weight, bias;
  LinearCall call;

  Operands(const Device& device, const Case& c, const Numbers& numbers)
      : x(device, c.shape.rows, c.shape.in, c.x, c.offset),
        y(device, c.shape.rows, c.folds.gated ? c.shape.out / 2 : c.shape.out, c.y, c.offset),
        residual(device, y.view().rows, y.view().width, c.residual, c.offset),
        weight(tensor_on(device, numbers.weight, {c.shape.out, c.shape.in}, c.weight)),
        norm_weight(tensor_on(device, numbers.norm_weight, {static_cast<int64_t>(numbers.norm_weight.size())})),
        bias(tensor_on(device, numbers.bias, {static_cast<int64_t>(numbers.bias.size())})) {
    x.write(numbers.x);
    call.x = x.view();
    call.y = y.view();
    call.weight = &weight;
    call.exact = c.exact;
    if (c.folds.norm) call.norm_weight = &norm_weight;
    call.norm_eps = numbers.eps;
    if (c.folds.bias) call.bias = &bias;
    call.activation = c.folds.activation;
    call.gated = c.folds.gated;
    if (!c.folds.residual) return;
    DeviceMatrix& target = c.folds.in_place ? y : residual;
    target.write(numbers.residual);
    call.residual = target.view();
  }
};

void compare(const Case& c, const Numbers& numbers, const std::vector<float>& y) {
  const std::vector<Expected> expected = expected_of(c, numbers);
  size_t wrong = 0, first = 0;
  for (size_t i = expected.size(); i-- > 0;) {
    if (std::abs(y[i] - expected[i].value) <= expected[i].error) continue;
    ++wrong;
    first = i;
  }
  if (wrong == 0) return;
  check(false, text_of(c), ": ", wrong, " of ", y.size(), " are wrong; element ", first, " expected ", expected[first].value, " within ",
        expected[first].error, ", got ", y[first]);
}

void check_case(const Device& device, const Case& c, uint64_t seed = 1) {
  const Numbers numbers(c, seed);
  Operands operands(device, c, numbers);
  cuda::linear(device, operands.call);
  compare(c, numbers, operands.y.read(text_of(c)));
}

// Widths below, at and above what a lane, a warp and a round of copies take at once; `out` around tiles and blocks.
const Shape kShapes[] = {{1, 1, 1},    {1, 7, 3},     {1, 8, 5},     {1, 64, 33},   {1, 264, 17},  {1, 520, 40}, {1, 1032, 9},  {1, 2056, 6},
                         {1, 4104, 4}, {1, 33, 100},  {2, 16, 9},    {2, 1032, 7},  {2, 35, 12},   {3, 8, 1},    {3, 72, 19},   {3, 40, 300},
                         {4, 516, 6},  {5, 264, 24},  {5, 65, 10},   {7, 4104, 9},  {8, 520, 17},  {9, 24, 31},  {9, 136, 8},   {12, 1000, 5},
                         {13, 3, 20},  {16, 264, 40}, {16, 2056, 3}, {17, 40, 70},  {31, 17, 65},  {40, 72, 129}};

// A dtype each for x, weights and y, so that every pair comes up with every shape class.
void check_shapes(const Device& device, DType weight, bool exact) {
  size_t i = 0;
  for (const Shape& shape : kShapes) {
    for (int variant = 0; variant < 2; ++variant, ++i) {
      Case c;
      c.shape = shape;
      c.weight = weight;
      c.exact = exact;
      c.x = kDTypes[i % 3];
      c.y = kDTypes[i / 3 % 3];
      check_case(device, c, i);
    }
  }
}

std::vector<Folds> all_folds() {
  std::vector<Folds> all;
  for (const bool norm : {false, true}) {
    for (const bool bias : {false, true}) {
      for (int middle = 0; middle < 9; ++middle) {
        for (int end = 0; end < 3; ++end) {
          Folds folds;
          folds.norm = norm;
          folds.bias = bias;
          if (middle >= 1 && middle < 5) folds.activation = static_cast<Activation>(middle - 1);
          if (middle >= 5) folds.gated = static_cast<Activation>(middle - 5);
          folds.residual = end > 0;
          folds.in_place = end == 2;
          all.push_back(folds);
        }
      }
    }
  }
  return all;
}

// One shape for each kernel: short and long rows for a dot product, both heights of tensor core tiles, tiles of float32.
void check_folds(DType dtype, bool exact) {
  const Device device(0);
  const Shape shapes[] = {{1, 1032, 14}, {1, 64, 42}, {2, 264, 10}, {3, 136, 18}, {8, 264, 34}, {11, 40, 20}, {5, 13, 12}};
  size_t i = 0;
  for (const Folds& folds : all_folds()) {
    for (int variant = 0; variant < 2; ++variant, ++i) {
      Case c;
      c.shape = shapes[i % std::size(shapes)];
      c.folds = folds;
      c.weight = dtype;
      c.exact = exact;
      c.x = i % 2 || exact ? DType::float32 : dtype;
      c.residual = i / 2 % 2 ? DType::float32 : dtype;
      c.y = folds.in_place ? c.residual : i / 4 % 2 ? DType::float32 : dtype;
      check_case(device, c, i);
    }
  }
}

// Without the library where `linear` would use it; null, with a word on why, where there is none.
std::unique_ptr<cuda::LtTable> library_for_test() {
  std::string text;
  std::unique_ptr<cuda::LtTable> table;
#if defined(HEDDLE_CUDA_EMULATED)                     // a real library would not know the emulator's memory
  const char* file = std::getenv("HEDDLE_CUBLASLT_LIB");
  if (!file || !*file) text = "HEDDLE_CUBLASLT_LIB is not set";
#endif
  if (text.empty()) table = cuda::load_cublaslt({}, 13, text);
  if (!table) std::printf("linear: skipped what needs cuBLASLt: %s\n", text.c_str());
  return table;
}

}  // namespace

HEDDLE_TEST(cuda_linear_float32_equals_reference) { check_shapes(Device(0), DType::float32, true); }
HEDDLE_TEST(cuda_linear_bfloat16_equals_reference) { check_shapes(Device(0), DType::bfloat16, false); }
HEDDLE_TEST(cuda_linear_float16_equals_reference) { check_shapes(Device(0), DType::float16, false); }
HEDDLE_TEST(cuda_linear_widens_bfloat16_weights) { check_shapes(Device(0), DType::bfloat16, true); }
HEDDLE_TEST(cuda_linear_widens_float16_weights) { check_shapes(Device(0), DType::float16, true); }

HEDDLE_TEST(cuda_linear_folds_float32) { check_folds(DType::float32, true); }
HEDDLE_TEST(cuda_linear_folds_bfloat16) { check_folds(DType::bfloat16, false); }
HEDDLE_TEST(cuda_linear_folds_float16) { check_folds(DType::float16, false); }
HEDDLE_TEST(cuda_linear_folds_with_widened_weights) { check_folds(DType::bfloat16, true); }

// The shards of a small model over 8 GPUs: few weight rows, or short ones, for every number of rows up to what own kernels take.
HEDDLE_TEST(cuda_linear_narrow_shards_of_every_number_of_rows) {
  const Device device(0);
  for (int64_t rows = 1; rows <= cuda::kSmallRows + 1; ++rows) {
    for (const auto& [in, out] : {std::pair<int64_t, int64_t>{1024, 24}, {64, 256}, {192, 130}}) {
      Case c;
      c.shape = {rows, in, out};
      c.y = DType::float32;
      check_case(device, c, static_cast<uint64_t>(rows));
    }
  }
}

// x of more rows than fit into shared memory is taken in panels, whose sums another kernel adds up; a single row in no kernel that
// stages it.
HEDDLE_TEST(cuda_linear_rows_too_wide_for_shared_memory) {
  const Device device(0);
  const auto wide = static_cast<int64_t>(device.shared_bytes_per_block()) / 2;
  for (const auto& [rows, in] : {std::pair<int64_t, int64_t>{16, wide / 16 * 3 / 8 * 8}, {6, wide / 8 * 2 / 8 * 8}, {1, wide / 8 * 8}}) {
    for (const bool gated : {false, true}) {
      Case c;
      c.shape = {rows, in, 6};
      c.x = DType::float32;
      c.folds.norm = gated;
      if (gated) c.folds.gated = Activation::silu;
      c.folds.residual = true;
      check_case(device, c, static_cast<uint64_t>(rows));
    }
  }
}

HEDDLE_TEST(cuda_linear_takes_unaligned_memory) {
  const Device device(0);
  for (const Shape& shape : {Shape{1, 264, 12}, Shape{2, 64, 20}, Shape{6, 136, 10}, Shape{20, 40, 12}}) {
    for (const DType dtype : kDTypes) {
      Case c;
      c.shape = shape;
      c.x = c.y = c.residual = c.weight = dtype;
      c.offset = 1;
      check_case(device, c);
      c.folds.norm = c.folds.residual = shape.rows <= cuda::kSmallRows;
      check_case(device, c);
    }
  }
}

// Sums of such small integers are exact in any order: nothing is left out, doubled or rounded away.
HEDDLE_TEST(cuda_linear_exact_integers_are_exact) {
  const Device device(0);
  for (const Shape& shape : {Shape{1, 1032, 30}, Shape{2, 96, 41}, Shape{4, 264, 17}, Shape{10, 520, 33}, Shape{16, 100, 9}, Shape{37, 70, 65}}) {
    for (const DType dtype : kDTypes) {
      Case c;
      c.shape = shape;
      c.x = c.weight = dtype;
      c.y = DType::float32;
      c.exact = dtype == DType::float32;
      Numbers numbers(c, 1);
      Random random(2);
      for (float& value : numbers.x) value = static_cast<float>(random.below(9) - 4);
      for (float& value : numbers.weight) value = static_cast<float>(random.below(9) - 4);
      Operands operands(device, c, numbers);
      cuda::linear(device, operands.call);
      const std::vector<Expected> expected = expected_of(c, numbers);
      const std::vector<float> y = operands.y.read();
      size_t wrong = 0;
      for (size_t i = 0; i < y.size(); ++i) wrong += y[i] != expected[i].value;
      check(wrong == 0, text_of(c), ": ", wrong, " of ", y.size(), " are not exact");
    }
  }
}

// A NaN in one row of x and an infinity in one row of the weights reach their own results and no others.
HEDDLE_TEST(cuda_linear_keeps_nan_and_infinity_in_their_places) {
  const Device device(0);
  for (const Shape& shape : {Shape{2, 40, 9}, Shape{7, 264, 21}, Shape{15, 72, 10}, Shape{5, 37, 9}, Shape{19, 72, 31}}) {
    for (const DType dtype : kDTypes) {
      Case c;
      c.shape = shape;
      c.x = c.weight = dtype;
      c.y = DType::float32;
      Numbers numbers(c, 3);
      const int64_t bad_row = shape.rows - 1, bad_column = shape.out / 2;
      numbers.x[static_cast<size_t>(shape.rows * shape.in - 1)] = std::numeric_limits<float>::quiet_NaN();
      numbers.weight[static_cast<size_t>(bad_column * shape.in)] = std::numeric_limits<float>::infinity();
      Operands operands(device, c, numbers);
      cuda::linear(device, operands.call);
      const std::vector<float> y = operands.y.read();
      size_t wrong = 0;
      for (int64_t i = 0; i < static_cast<int64_t>(y.size()); ++i) {
        const float value = y[static_cast<size_t>(i)];
        const bool right = i / shape.out == bad_row      ? std::isnan(value)
                           : i % shape.out == bad_column ? std::isinf(value)
                                                         : std::isfinite(value);
        wrong += !right;
      }
      check(wrong == 0, text_of(c), ": ", wrong, " results are finite, infinite or NaN wrongly");
    }
  }
}

// What scratch memory held before does not matter, nor does running twice.
HEDDLE_TEST(cuda_linear_repeats_itself_bit_by_bit) {
  const Device device(0);
  for (const Shape& shape : {Shape{1, 520, 20}, Shape{6, 264, 22}, Shape{16, 6152, 4}, Shape{18, 40, 30}}) {
    Case c;
    c.shape = shape;
    c.x = DType::float32;
    const Numbers numbers(c, 4);
    Operands operands(device, c, numbers);
    cuda::linear(device, operands.call);
    const std::vector<float> first = operands.y.read();
    Case other = c;
    other.shape = {16, 6160, 12};
    check_case(device, other);
    cuda::linear(device, operands.call);
    check(operands.y.read() == first, text_of(c), ": expected the same bits again");
  }
}

HEDDLE_TEST(cuda_linear_folds_only_what_it_says) {
  const Device device(0);
  Case c;
  c.shape = {cuda::kSmallRows + 1, 16, 8};
  for (const Folds& folds : all_folds()) {
    c.folds = folds;
    c.y = c.residual = DType::float32;
    const Numbers numbers(c, 5);
    Operands operands(device, c, numbers);
    const bool able = !folds.norm && !folds.activation && !folds.gated;
    check(cuda::can_fold(operands.call) == able, text_of(c), ": expected can_fold to say ", able);
    if (able) {
      check_case(device, c);
    } else {
      check_throws(ErrorCode::invalid_argument, [&] { cuda::linear(device, operands.call); }, text_of(c));
    }
  }
  c.shape.rows = 1;
  c.folds = {};
  c.folds.gated = c.folds.activation = Activation::silu;
  const Numbers numbers(c, 5);
  check(!cuda::can_fold(Operands(device, c, numbers).call), "linear: expected no activation beside a gate");
}

HEDDLE_TEST(cuda_linear_refuses_impossible_shapes) {
  const Device device(0);
  Case c;
  c.shape = {2, 16, 8};
  c.folds.residual = true;
  const Numbers numbers(c, 6);
  for (int broken = 0; broken < 4; ++broken) {
    Operands operands(device, c, numbers);
    if (broken == 0) operands.call.x.width = 15;
    if (broken == 1) operands.call.y.rows = 1;
    if (broken == 2) operands.call.residual.width = 4;
    if (broken == 3) operands.call.gated = Activation::silu;   // y would have to be narrower
    check_throws(ErrorCode::invalid_argument, [&] { cuda::linear(device, operands.call); }, "linear, broken in way ", broken);
  }
  Operands none(device, c, numbers);
  none.call.x.rows = none.call.y.rows = none.call.residual.rows = 0;
  cuda::linear(device, none.call);
  for (const float value : none.y.read()) check(std::isnan(value), "linear of no rows: expected y untouched, got ", value);
}

// The library itself, tuned and not: what it takes is right, and it leaves alone what it cannot do.
HEDDLE_TEST(cuda_linear_by_the_library_equals_reference) {
  const std::unique_ptr<cuda::LtTable> table = library_for_test();
  if (!table) return;
  for (const char* tuning : {"1", "0"}) {
    setenv("HEDDLE_MATMUL_TUNING", tuning, 1);
    Device device(0);
    cuda::MatmulLibrary library(*table, device);
    unsetenv("HEDDLE_MATMUL_TUNING");
    device.matmul = &library;
    uint64_t seed = 0;
    for (const Shape& shape : {Shape{17, 64, 24}, Shape{18, 64, 24}, Shape{32, 40, 72}, Shape{40, 136, 16}, Shape{70, 8, 8}}) {
      for (const DType dtype : kDTypes) {
        for (const DType y : {dtype, DType::float32}) {
          Case c;
          c.shape = shape;
          c.x = c.weight = dtype;
          c.y = y;
          for (const bool folded : {false, true}) {
            if (folded && y != DType::float32) continue;
            c.folds.bias = c.folds.residual = c.folds.in_place = folded;
            const Numbers numbers(c, ++seed);
            Operands operands(device, c, numbers);
            if (check(library.run(operands.call), text_of(c), ": expected the library to take it")) compare(c, numbers, operands.y.read());
          }
          c.folds = {};
          c.x = DType::float32;                       // rounded on the way
          check_case(device, c, ++seed);
        }
      }
    }
    for (const DType weight : {DType::bfloat16, DType::float16}) {
      Case c;
      c.shape = {20, 24, 16};
      c.x = c.y = DType::float32;
      c.weight = weight;
      c.exact = true;
      const Numbers numbers(c, 7);
      Operands operands(device, c, numbers);
      check(!library.run(operands.call), text_of(c), ": expected the library to leave it");
      check_case(device, c);
    }
  }
}

#if defined(HEDDLE_CUDA_EMULATED)
// A setting of the environment for a scope: the stand-in for cuBLASLt reads it at each use.
struct Setting {
  const char* name;
  Setting(const char* setting, const char* value) : name(setting) { setenv(name, value, 1); }
  ~Setting() { unsetenv(name); }
};

// An algorithm that is proposed may refuse when it runs: the next one does it. Where there is none, own kernels do.
HEDDLE_TEST(cuda_linear_survives_algorithms_that_refuse) {
  const std::unique_ptr<cuda::LtTable> table = library_for_test();
  if (!table) return;
  Case c;
  c.shape = {24, 64, 40};
  const Numbers numbers(c, 8);
  const auto run = [&](bool taken, const std::string& what) {
    Device device(0);
    cuda::MatmulLibrary library(*table, device);
    device.matmul = &library;
    Operands operands(device, c, numbers);
    check(library.run(operands.call) == taken, what, ": expected the library to say ", taken);
    if (taken) compare(c, numbers, operands.y.read());
    check_case(device, c);
  };
  for (const char* tuning : {"1", "0"}) {
    const Setting tuned("HEDDLE_MATMUL_TUNING", tuning);
    {
      const Setting bad("HEDDLE_FAKE_CUBLASLT_BAD", "3");
      run(true, "two bad algorithms");
    }
    {
      const Setting bad("HEDDLE_FAKE_CUBLASLT_BAD", "255");
      run(false, "all algorithms bad");
    }
    const Setting none("HEDDLE_FAKE_CUBLASLT_ALGORITHMS", "0");
    run(false, "no algorithms");
  }
}
#endif

// What is captured after one eager run gives the same as that run: nothing is timed, allocated or waited for meanwhile.
HEDDLE_TEST(cuda_linear_can_be_captured) {
  const std::unique_ptr<cuda::LtTable> table = library_for_test();
  Device device(0);
  std::unique_ptr<cuda::MatmulLibrary> library;
  if (table) library = std::make_unique<cuda::MatmulLibrary>(*table, device);
  device.matmul = library.get();
  for (const Shape& shape : {Shape{1, 264, 20}, Shape{6, 136, 22}, Shape{16, 6152, 4}, Shape{20, 40, 24}}) {
    Case c;
    c.shape = shape;
    c.x = DType::float32;
    c.folds.norm = shape.rows <= cuda::kSmallRows;
    const Numbers numbers(c, 9);
    check_case(device, c);
    Operands operands(device, c, numbers);
    cuda::check(cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal), "test");
    cuda::linear(device, operands.call);
    cudaGraph_t captured = nullptr;
    cuda::check(cudaStreamEndCapture(device.stream(), &captured), "test");
    const cuda::Graph graph(captured);
    cudaGraphExec_t instance = nullptr;
    cuda::check(cudaGraphInstantiate(&instance, graph.get(), 0), "test");
    const cuda::GraphExec exec(instance);
    for (const float value : operands.y.read()) check(std::isnan(value), text_of(c), ": expected nothing to run while captured");
    cuda::check(cudaGraphLaunch(exec.get(), device.stream()), "test");
    compare(c, numbers, operands.y.read(text_of(c) + " replayed"));
  }
}

}  // namespace heddle::test
