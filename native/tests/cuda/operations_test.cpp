// Row and element operations of the CUDA backend against the references: every data type, odd widths, addresses that no vector access
// may use, in place, rows that a bucket pads.
#include <limits>

#include "../reference.h"
#include "cuda/operations.h"
#include "on_device.h"

namespace heddle::test {
namespace {

using cuda::Device;

const std::vector<int64_t> kWidths = {1, 2, 7, 8, 31, 64, 100, 129, 1024, 2056};
const std::vector<DType> kTypes = {DType::float32, DType::bfloat16, DType::float16};
const std::vector<Activation> kKinds = {Activation::gelu, Activation::gelu_tanh, Activation::relu, Activation::silu};
const std::vector<int64_t> kOffsets = {0, 3};         // elements before the first: 3 is aligned for no vector
constexpr int64_t kRows = 3;

std::string described(const char* what, DType x, DType y, int64_t width, int64_t offset) {
  return std::string(what) + " " + name_of(x) + " to " + name_of(y) + " width " + std::to_string(width) + " offset " +
         std::to_string(offset);
}

// Calls body(x type, y type, width, offset, its description).
template <class Body>
void for_cases(const char* what, Body body) {
  for (const DType x : kTypes) {
    for (const DType y : kTypes) {
      for (const int64_t width : kWidths) {
        for (const int64_t offset : kOffsets) body(x, y, width, offset, described(what, x, y, width, offset));
      }
    }
  }
}

Matrix random_matrix(int64_t rows, int64_t width, DType dtype, uint64_t seed, float low = -3, float high = 4) {
  return Matrix(rows, width, as_held(Random(seed).uniform_vector(static_cast<size_t>(rows * width), low, high), dtype));
}

// One rounding to the result's type, and `tolerance` of float32 arithmetic.
void check_rows(const std::vector<float>& actual, const std::vector<double>& expected, DType dtype, double tolerance,
                const std::string& what) {
  if (!check(actual.size() == expected.size(), what, ": sizes")) return;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double allowed = (tolerance + rounding_of(dtype)) * std::max(1.0, std::abs(expected[i]));
    check_close(actual[i], expected[i], allowed, what, " element ", i);
  }
}

void append(std::vector<double>& all, const std::vector<double>& row) { all.insert(all.end(), row.begin(), row.end()); }

HEDDLE_TEST(cuda_operations_norms_match_the_reference) {
  const Device device(0);
  for_cases("norm", [&](DType from, DType to, int64_t width, int64_t offset, const std::string& what) {
    const Matrix x = random_matrix(kRows, width, from, static_cast<uint64_t>(width));
    const std::vector<float> w = Random(1).uniform_vector(static_cast<size_t>(width));
    const std::vector<float> b = Random(2).uniform_vector(static_cast<size_t>(width));
    const Tensor weight = tensor_on(device, w, {width});
    const Tensor bias = tensor_on(device, b, {width});
    const DeviceMatrix source(device, x, from, offset);
    const DeviceMatrix rms(device, kRows, width, to, offset), layer(device, kRows, width, to, offset);
    const DeviceMatrix bare(device, kRows, width, to, offset);
    cuda::rms_norm(device, source.view(), weight, 1e-6f, rms.view());
    cuda::layer_norm(device, source.view(), weight, &bias, 1e-5f, layer.view());
    cuda::layer_norm(device, source.view(), weight, nullptr, 1e-5f, bare.view());
    std::vector<double> expected_rms, expected_layer, expected_bare;
    for (int64_t row = 0; row < kRows; ++row) {
      append(expected_rms, reference::rms_norm(x.row(row), w.data(), 1e-6f, width));
      append(expected_layer, reference::layer_norm(x.row(row), w.data(), b.data(), 1e-5f, width));
      append(expected_bare, reference::layer_norm(x.row(row), w.data(), nullptr, 1e-5f, width));
    }
    check_rows(rms.read(what), expected_rms, to, 2e-6, "rms " + what);
    check_rows(layer.read(what), expected_layer, to, 1e-5, "layer " + what);
    check_rows(bare.read(what), expected_bare, to, 1e-5, "layer without bias " + what);
  });
}

HEDDLE_TEST(cuda_operations_norms_give_a_row_the_same_bits_in_every_batch) {
  const Device device(0);
  const Matrix x = random_matrix(5, 1000, DType::float32, 3);
  const Tensor weight = tensor_on(device, Random(1).uniform_vector(1000), {1000});
  const DeviceMatrix many(device, x);
  cuda::rms_norm(device, many.view(), weight, 1e-6f, many.view());
  const std::vector<float> together = many.read();
  for (int64_t row = 0; row < 5; ++row) {
    const DeviceMatrix one(device, Matrix(1, 1000, std::vector<float>(x.row(row), x.row(row) + 1000)));
    cuda::rms_norm(device, one.view(), weight, 1e-6f, one.view());
    check(std::equal(together.begin() + row * 1000, together.begin() + (row + 1) * 1000, one.read().begin()), "row ", row);
  }
}

HEDDLE_TEST(cuda_operations_activations_match_the_reference) {
  const Device device(0);
  std::vector<float> values = Random(5).uniform_vector(997, -12, 12);
  for (const float value : {0.0f, -0.0f, 1e-30f, -1e-30f, 20.0f, -20.0f, 87.0f, -87.0f, 89.0f, -89.0f, 200.0f, -200.0f, 1e6f, -1e6f}) {
    values.push_back(value);
  }
  for (const DType from : kTypes) {
    for (const Activation kind : kKinds) {
      Matrix x(1, static_cast<int64_t>(values.size()), as_held(values, from));
      if (from == DType::float16) {
        for (float& value : x.values) value = std::clamp(value, -6e4f, 6e4f);
        x.values = as_held(x.values, from);
      }
      const DeviceMatrix source(device, x, from);
      const DeviceMatrix y(device, 1, x.width);
      cuda::activation(device, source.view(), kind, y.view());
      const std::vector<float> actual = y.read("activation");
      for (size_t i = 0; i < actual.size(); ++i) {
        const double expected = reference::activation(kind, x.values[i]);
        check_close(actual[i], expected, 4e-6 * std::abs(expected) + 1e-9, "activation ", static_cast<int>(kind), " of ", x.values[i]);
      }
    }
  }
}

HEDDLE_TEST(cuda_operations_activations_round_once_and_keep_nan) {
  const Device device(0);
  for (const Activation kind : kKinds) {
    for_cases("activation", [&](DType from, DType to, int64_t width, int64_t offset, const std::string& what) {
      const Matrix x = random_matrix(1, width, from, 8);
      const DeviceMatrix source(device, x, from, offset), y(device, 1, width, to, offset);
      cuda::activation(device, source.view(), kind, y.view());
      std::vector<double> expected;
      for (const float value : x.values) expected.push_back(reference::activation(kind, value));
      check_rows(y.read(what), expected, to, 1e-6, what);
    });
    const DeviceMatrix nan(device, Matrix(1, 17, std::vector<float>(17, std::numeric_limits<float>::quiet_NaN())));
    cuda::activation(device, nan.view(), kind, nan.view());
    for (const float value : nan.read()) check(std::isnan(value), "activation ", static_cast<int>(kind), " of NaN gave ", value);
  }
}

HEDDLE_TEST(cuda_operations_gated_multiplies_the_activated_gate_with_up) {
  const Device device(0);
  for_cases("gated", [&](DType from, DType to, int64_t width, int64_t offset, const std::string& what) {
    const Matrix x = random_matrix(kRows, 2 * width, from, 9);
    const DeviceMatrix source(device, x, from, offset), y(device, kRows, width, to, offset);
    const Activation kind = kKinds[static_cast<size_t>(width) % kKinds.size()];
    cuda::gated(device, source.view(), kind, y.view());
    std::vector<double> expected;
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t i = 0; i < width; ++i) expected.push_back(reference::activation(kind, x.row(row)[i]) * x.row(row)[width + i]);
    }
    check_rows(y.read(what), expected, to, 1e-6, what);
  });
}

HEDDLE_TEST(cuda_operations_add_bias_slice_and_convert_round_once) {
  const Device device(0);
  for_cases("row operation", [&](DType from, DType to, int64_t width, int64_t offset, const std::string& what) {
    const Matrix x = random_matrix(kRows, width + 5, from, 3);
    const std::vector<float> b = Random(4).uniform_vector(static_cast<size_t>(width + 5));
    const DeviceMatrix source(device, x, from, offset);
    const DeviceMatrix biased(device, kRows, width + 5, to, offset), part(device, kRows, width, to, offset);
    const DeviceMatrix converted(device, kRows, width + 5, to, offset);
    const int64_t start = width % 2 == 0 ? 0 : 4;
    cuda::add_bias(device, source.view(), tensor_on(device, b, {width + 5}), biased.view());
    cuda::slice(device, source.view(), start, part.view());
    cuda::convert(device, source.view(), converted.view());
    wait_for(device);
    std::vector<float> sums, cut;
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t i = 0; i < width + 5; ++i) sums.push_back(x.row(row)[i] + b[static_cast<size_t>(i)]);
      cut.insert(cut.end(), x.row(row) + start, x.row(row) + start + width);
    }
    check(biased.read(what) == as_held(sums, to), "add_bias: ", what);
    check(part.read(what) == as_held(cut, to), "slice from ", start, ": ", what);
    check(converted.read(what) == as_held(x.values, to), "convert: ", what);
  });
}

HEDDLE_TEST(cuda_operations_add_sums_in_float32_and_rounds_once) {
  const Device device(0);
  for (const DType left : kTypes) {
    for_cases("add", [&](DType right, DType to, int64_t width, int64_t offset, const std::string& what) {
      const Matrix a = random_matrix(kRows, width, left, 5);
      const Matrix b = random_matrix(kRows, width, right, 6);
      const DeviceMatrix source(device, a, left, offset), other(device, b, right), y(device, kRows, width, to, offset);
      cuda::add(device, source.view(), other.view(), y.view());
      std::vector<float> sums;
      for (size_t i = 0; i < a.values.size(); ++i) sums.push_back(a.values[i] + b.values[i]);
      check(y.read(what) == as_held(sums, to), name_of(left), " and ", what);
    });
  }
}

HEDDLE_TEST(cuda_operations_work_in_place) {
  const Device device(0);
  for (const DType dtype : kTypes) {
    for (const int64_t width : kWidths) {
      const Matrix x = random_matrix(kRows, width, dtype, 11);
      const Matrix b = random_matrix(kRows, width, dtype, 12);
      const Tensor weight = tensor_on(device, Random(1).uniform_vector(static_cast<size_t>(width)), {width});
      const DeviceMatrix other(device, b, dtype);
      using Operation = std::function<void(View x, View y)>;
      const std::vector<Operation> operations = {
          [&](View from, View to) { cuda::rms_norm(device, from, weight, 1e-6f, to); },
          [&](View from, View to) { cuda::layer_norm(device, from, weight, &weight, 1e-6f, to); },
          [&](View from, View to) { cuda::add_bias(device, from, weight, to); },
          [&](View from, View to) { cuda::add(device, from, other.view(), to); },
          [&](View from, View to) { cuda::add(device, other.view(), from, to); },
          [&](View from, View to) { cuda::activation(device, from, Activation::silu, to); },
      };
      for (size_t i = 0; i < operations.size(); ++i) {
        const DeviceMatrix apart(device, x, dtype), y(device, kRows, width, dtype), same(device, x, dtype);
        operations[i](apart.view(), y.view());
        operations[i](same.view(), same.view());
        check(y.read() == same.read(), "operation ", i, " ", name_of(dtype), " width ", width);
      }
    }
  }
}

HEDDLE_TEST(cuda_operations_take_no_rows) {
  const Device device(0);
  const DeviceMatrix x(device, 1, 8), y(device, 1, 8);
  const Tensor weight = tensor_on(device, std::vector<float>(8, 1.0f), {8});
  cuda::rms_norm(device, x.view(0), weight, 1e-6f, y.view(0));
  cuda::layer_norm(device, x.view(0), weight, nullptr, 1e-6f, y.view(0));
  cuda::add(device, x.view(0), x.view(0), y.view(0));
  cuda::add_bias(device, x.view(0), weight, y.view(0));
  cuda::activation(device, x.view(0), Activation::relu, y.view(0));
  cuda::convert(device, x.view(0), y.view(0));
  cuda::slice(device, x.view(0), 0, y.view(0));
  for (const float value : y.read()) check(std::isnan(value), "something was written");
}

HEDDLE_TEST(cuda_operations_embed_gives_own_rows_and_zeros) {
  const Device device(0);
  for_cases("embed", [&](DType from, DType to, int64_t width, int64_t offset, const std::string& what) {
    const std::vector<float> table = as_held(Random(4).uniform_vector(static_cast<size_t>(5 * width)), from);
    Step step = step_of({4, 2});
    step.tokens = {9, 10, 14, 15, 0, 12};
    const StepOnDevice on(device, step, {8, 4, 4, 4});
    const DeviceMatrix y(device, 8, width, to, offset);
    cuda::embed(device, on.step, tensor_on(device, table, {5, width}, from), {10}, y.view());
    wait_for(device);
    const std::vector<float> actual = y.read(what);
    for (int64_t row = 0; row < 8; ++row) {
      const int64_t local = row < 6 ? step.tokens[static_cast<size_t>(row)] - 10 : -1;
      std::vector<float> expected(static_cast<size_t>(width), 0.0f);
      if (local >= 0 && local < 5) expected = as_held({table.begin() + local * width, table.begin() + (local + 1) * width}, to);
      const auto mine = actual.begin() + row * width;
      if (row < 6) check(std::equal(mine, mine + width, expected.begin()), what, " row ", row);
      if (row >= 6) check(std::all_of(mine, mine + width, [](float value) { return std::isnan(value); }), what, " wrote padded row ", row);
    }
  });
}

HEDDLE_TEST(cuda_operations_embed_of_positions_and_scaled) {
  const Device device(0);
  for_cases("embed", [&](DType from, DType to, int64_t width, int64_t offset, const std::string& what) {
    const std::vector<float> table = as_held(Random(5).uniform_vector(static_cast<size_t>(5 * width)), from);
    Step step = step_of({2, 4});
    step.tokens = {-1, 10, 14, 15, 0, 12};              // of no meaning here
    const StepOnDevice on(device, step);
    const DeviceMatrix y(device, 6, width, to, offset);
    cuda::embed(device, on.step, tensor_on(device, table, {5, width}, from), {1, true, 2.5f}, y.view());
    const std::vector<float> actual = y.read(what);
    for (int64_t row = 0; row < 6; ++row) {
      const int64_t local = step.positions[static_cast<size_t>(row)] - 1;
      std::vector<float> expected(static_cast<size_t>(width), 0.0f);
      for (int64_t i = 0; local >= 0 && i < width; ++i) expected[static_cast<size_t>(i)] = table[static_cast<size_t>(local * width + i)] * 2.5f;
      expected = as_held(expected, to);
      check(std::equal(expected.begin(), expected.end(), actual.begin() + row * width), what, " row ", row);
    }
  });
}

HEDDLE_TEST(cuda_operations_embed_reads_the_token_of_a_slot) {
  const Device device(0);
  const std::vector<float> table = Random(4).uniform_vector(5 * 8);
  Step step = step_of({1, 1});
  step.tokens = {-1 - 7, 1};
  StepOnDevice on(device, step);
  const int32_t sampled = 3;
  to_device(device, on.step.last_tokens + 7, &sampled, sizeof sampled);
  const DeviceMatrix y(device, 2, 8);
  const Tensor weight = tensor_on(device, table, {5, 8});
  cuda::embed(device, on.step, weight, {}, y.view());
  const std::vector<float> actual = y.read();
  check(std::equal(actual.begin(), actual.begin() + 8, table.begin() + 3 * 8), "the slot's token");
  check(std::equal(actual.begin() + 8, actual.end(), table.begin() + 8), "a token of the step");
}

HEDDLE_TEST(cuda_operations_last_rows_takes_the_last_token_of_each_sequence) {
  const Device device(0);
  for_cases("last_rows", [&](DType from, DType to, int64_t width, int64_t offset, const std::string& what) {
    const Matrix x = random_matrix(6, width, from, 3);
    const StepOnDevice on(device, step_of({1, 3, 2}), {6, 4, 3, 3});
    const DeviceMatrix source(device, x, from, offset), y(device, 4, width, to, offset);
    cuda::last_rows(device, on.step, source.view(), y.view());
    const std::vector<float> actual = y.read(what);
    const int64_t rows[] = {0, 3, 5};
    for (int64_t i = 0; i < 3; ++i) {
      const std::vector<float> expected = as_held(std::vector<float>(x.row(rows[i]), x.row(rows[i]) + width), to);
      check(std::equal(expected.begin(), expected.end(), actual.begin() + i * width), what, " sequence ", i);
    }
    check(std::isnan(actual.back()), what, " wrote a padded row");
  });
}

}  // namespace
}  // namespace heddle::test
