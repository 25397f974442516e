// Mixtures of experts on the CUDA backend against the references: few rows and many, every data type, odd widths and addresses, ranks that
// hold a part of the experts, experts without a row, garbage in rows of padding.
#include <limits>

#include "../reference.h"
#include "cuda/experts.h"
#include "cuda/operations.h"
#include "on_device.h"

namespace heddle::test {
namespace {

using cuda::Device;

const std::vector<DType> kTypes = {DType::float32, DType::bfloat16, DType::float16};

HEDDLE_TEST(cuda_experts_route_matches_the_reference) {
  const Device device(0);
  Random random(1);
  for (const DType from : kTypes) {
    for (const DType to : kTypes) {
      for (const int64_t width : {1, 7, 33, 128, 300}) {
        for (const int64_t per_token : {int64_t{1}, std::min<int64_t>(8, width), width}) {
          for (const bool normalized : {false, true}) {
            const Matrix x(6, width, as_held(random.uniform_vector(static_cast<size_t>(6 * width), -5, 5), from));
            const DeviceMatrix source(device, x, from), y(device, 6, width, to);
            cuda::route(device, source.view(), {per_token, normalized}, y.view());
            const std::vector<float> actual = y.read("route");
            for (int64_t row = 0; row < 6; ++row) {
              const std::vector<double> expected = reference::route(x.row(row), width, {per_token, normalized});
              for (int64_t i = 0; i < width; ++i) {
                const double weight = expected[static_cast<size_t>(i)];
                const double allowed = (1e-6 + rounding_of(to)) * weight + (to == DType::float16 ? 0x1p-24 : 0);  // of subnormals
                check_close(actual[static_cast<size_t>(row * width + i)], weight, allowed, name_of(from), " to ", name_of(to), ", ", per_token, " of ", width, ", row ", row, ", expert ", i);
              }
            }
          }
        }
      }
    }
  }
}

HEDDLE_TEST(cuda_experts_route_takes_the_first_of_equals_and_leaves_out_nan) {
  const Device device(0);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const DeviceMatrix x(device, Matrix(4, 4, {1, 2, 2, 2, -50, -60, -50, -70, nan, 1, nan, 0, nan, nan, nan, nan})), y(device, 4, 4);
  cuda::route(device, x.view(), {2, true}, y.view());
  const std::vector<float> actual = y.read();
  check(actual == std::vector<float>{0, 0.5f, 0.5f, 0, 0.5f, 0, 0.5f, 0, 0, actual[9], 0, actual[11], 0, 0, 0, 0}, "the first of equals");
  check(actual[9] > actual[11] && actual[11] > 0, "numbers beside NaN");
}

struct Shape {
  int64_t rows, width, inner, experts, per_token;
};

struct Types {
  DType held, x, y;
  bool exact;
};

const std::vector<Types> kCases = {
    {DType::float32, DType::float32, DType::float32, true},     {DType::bfloat16, DType::float32, DType::float32, true},
    {DType::float16, DType::float32, DType::float32, true},     {DType::bfloat16, DType::bfloat16, DType::float32, false},
    {DType::bfloat16, DType::bfloat16, DType::bfloat16, false}, {DType::float16, DType::float16, DType::float32, false},
    {DType::bfloat16, DType::float32, DType::float32, false},
};

void check_experts(const Device& device, const Shape& shape, const Types& types, int64_t parts, int64_t padding) {
  Random random(static_cast<uint64_t>(shape.rows * 31 + shape.width));
  const auto numbers = [&](int64_t count, DType dtype) { return as_held(random.uniform_vector(static_cast<size_t>(count)), dtype); };
  reference::Experts expected = {shape.rows, shape.width, shape.inner, shape.experts / parts, shape.experts,
                                 {shape.experts - shape.experts / parts, shape.per_token, Activation::silu}, {}, {}, {}, {}};
  expected.x = as_held(numbers(shape.rows * shape.width, types.x), types.exact ? DType::float32 : types.held);
  expected.routing = reference::random_routing(shape.rows, shape.experts, shape.per_token,
                                               random.uniform_vector(static_cast<size_t>(shape.rows * shape.experts), -3, 3));
  expected.gate_up = numbers(expected.count * 2 * shape.inner * shape.width, types.held);
  expected.down = numbers(expected.count * shape.width * shape.inner, types.held);
  std::vector<double> y, sizes;
  expected.run(y, sizes);

  const int64_t rows = shape.rows + padding;
  const auto padded = [&](std::vector<float> values, int64_t width) {  // with garbage
    values.resize(static_cast<size_t>(rows * width), std::numeric_limits<float>::quiet_NaN());
    return Matrix(rows, width, std::move(values));
  };
  const DeviceMatrix x(device, padded(expected.x, shape.width), types.x), routing(device, padded(expected.routing, shape.experts));
  const DeviceMatrix actual(device, rows, shape.width, types.y);
  const Tensor gate_up = tensor_on(device, expected.gate_up, {expected.count * 2 * shape.inner, shape.width}, types.held);
  const Tensor down = tensor_on(device, expected.down, {expected.count * shape.width, shape.inner}, types.held);
  cuda::experts(device, {x.view(), routing.view(), &gate_up, &down, &expected.spec, actual.view(), types.exact});
  const std::string what = std::string(name_of(types.held)) + " x " + name_of(types.x) + " to " + name_of(types.y) + ", " +
                           std::to_string(shape.rows) + " rows of " + std::to_string(shape.width) + ", " + std::to_string(parts) + " parts";
  const std::vector<float> values = actual.read(what);
  const double error = types.exact ? 4e-6 : rounding_of(types.held);
  for (size_t i = 0; i < y.size(); ++i) {
    const double allowed = error * (sizes[i] + 1e-3) + rounding_of(types.y) * std::abs(y[i]);
    if (!check_close(values[i], y[i], allowed, what, ", element ", i)) return;
  }
}

HEDDLE_TEST(cuda_experts_match_the_reference) {
  const Device device(0);
  const std::vector<Shape> shapes = {{1, 16, 8, 4, 2}, {1, 33, 7, 5, 1}, {5, 64, 24, 8, 2}, {16, 40, 16, 40, 3},
                                     {17, 31, 17, 3, 3}, {90, 80, 72, 4, 2}, {70, 64, 40, 36, 8}};
  for (const Shape& shape : shapes) {
    for (const Types& types : kCases) {
      for (const int64_t parts : {1, 2}) check_experts(device, shape, types, parts, 0);
    }
  }
}

HEDDLE_TEST(cuda_experts_of_more_rows_than_go_at_once) {
  const Device device(0);
  for (const Types& types : {kCases[0], kCases[3]}) {
    check_experts(device, {520, 16, 8, 4, 2}, types, 1, 0);
    check_experts(device, {600, 16, 8, 4, 1}, types, 2, 0);
  }
}

HEDDLE_TEST(cuda_experts_garbage_in_padded_rows_stays_there) {
  const Device device(0);
  for (const Types& types : kCases) {
    check_experts(device, {3, 24, 16, 8, 2}, types, 1, 5);
    check_experts(device, {30, 24, 16, 8, 2}, types, 2, 9);
  }
}

HEDDLE_TEST(cuda_experts_refuse_a_routing_that_is_rounded) {
  const Device device(0);
  const ExpertsSpec spec = {0, 1, Activation::silu};
  const Tensor gate_up = tensor_on(device, std::vector<float>(64), {16, 4}), down = tensor_on(device, std::vector<float>(32), {8, 4});
  const DeviceMatrix x(device, 1, 4), routing(device, 1, 2, DType::bfloat16), y(device, 1, 4);
  check_throws(ErrorCode::invalid_argument, [&] { cuda::experts(device, {x.view(), routing.view(), &gate_up, &down, &spec, y.view(), true}); });
}

}  // namespace
}  // namespace heddle::test
