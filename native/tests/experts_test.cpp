// Mixtures of experts on the CPU against the references: ties, ranks that hold a part of the experts, experts without a row.
#include <limits>

#include "cpu/cpu_backend.h"
#include "reference.h"
#include "tensors.h"
#include "test.h"

namespace heddle::test {
namespace {

using cpu::create_backend;

HEDDLE_TEST(experts_route_matches_the_reference) {
  const auto backend = create_backend(DType::float32);
  Random random(1);
  for (const int64_t width : {1, 2, 7, 8, 33, 128}) {
    for (const int64_t per_token : {int64_t{1}, std::min<int64_t>(2, width), std::min<int64_t>(8, width), width}) {
      for (const bool normalized : {false, true}) {
        Matrix x(5, width, random.uniform_vector(static_cast<size_t>(5 * width), -5, 5));
        Matrix y(5, width, std::vector<float>(static_cast<size_t>(5 * width), 9.0f));
        backend->route(x.view(), {per_token, normalized}, y.view());
        for (int64_t row = 0; row < 5; ++row) {
          const std::vector<double> expected = reference::route(x.row(row), width, {per_token, normalized});
          for (int64_t i = 0; i < width; ++i) {
            const double weight = expected[static_cast<size_t>(i)];
            check((y.row(row)[i] == 0) == (weight == 0), "the choice of ", per_token, " of ", width);
            check_close(y.row(row)[i], weight, 1e-6, per_token, " of ", width, ", row ", row, ", expert ", i);
          }
        }
      }
    }
  }
}

HEDDLE_TEST(experts_route_takes_the_first_of_equals_and_leaves_out_nan) {
  const auto backend = create_backend(DType::float32);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Matrix x(3, 4, {1, 2, 2, 2, -50, -60, -50, -70, nan, 1, nan, 0});
  Matrix y(3, 4);
  backend->route(x.view(), {2, true}, y.view());
  check(y.values == std::vector<float>{0, 0.5f, 0.5f, 0, 0.5f, 0, 0.5f, 0, 0, y.values[9], 0, y.values[11]}, "the first of equals");
  check(y.values[9] > y.values[11] && y.values[11] > 0, "numbers beside NaN");
  Matrix none(1, 2, {nan, nan});
  backend->route(none.view(), {2, true}, none.view());
  check(none.values == std::vector<float>{0, 0}, "nothing but NaN chooses nothing");
}

struct Shape {
  int64_t rows, width, inner, experts, per_token;
};

HEDDLE_TEST(experts_match_the_reference) {
  Random random(3);
  for (const Shape& shape : {Shape{1, 16, 8, 4, 2}, {1, 33, 7, 5, 1}, {7, 64, 24, 8, 2}, {40, 31, 17, 3, 3}, {600, 24, 8, 16, 4}, {3, 256, 96, 4, 2}}) {
    for (const auto& [compute, held] : {std::pair{DType::float32, DType::float32}, {DType::float32, DType::bfloat16},
                                        {DType::float32, DType::float16}, {DType::bfloat16, DType::bfloat16}, {DType::float16, DType::float16}}) {
      const auto backend = create_backend(compute);
      const auto numbers = [&](int64_t count) {
        const Tensor rounded = tensor_of(random.uniform_vector(static_cast<size_t>(count)), {count}, held);
        std::vector<float> values(static_cast<size_t>(count));
        convert(rounded.buffer.data(), held, values.data(), DType::float32, values.size());
        return values;
      };
      for (const int64_t parts : {1, 2}) {            // experts of all ranks, and a half of them
        reference::Experts expected = {shape.rows, shape.width, shape.inner, shape.experts / parts, shape.experts,
                                       {shape.experts - shape.experts / parts, shape.per_token, Activation::silu}, {}, {}, {}, {}};
        if (expected.count == 0) continue;
        expected.x = numbers(shape.rows * shape.width);
        expected.routing = reference::random_routing(shape.rows, shape.experts, shape.per_token,
                                                     random.uniform_vector(static_cast<size_t>(shape.rows * shape.experts), -3, 3));
        expected.gate_up = numbers(expected.count * 2 * shape.inner * shape.width);
        expected.down = numbers(expected.count * shape.width * shape.inner);
        std::vector<double> y, sizes;
        expected.run(y, sizes);
        Matrix x(shape.rows, shape.width, expected.x), routing(shape.rows, shape.experts, expected.routing);
        Matrix actual(shape.rows, shape.width, std::vector<float>(y.size(), 5.0f));
        backend->experts(x.view(), routing.view(), tensor_of(expected.gate_up, {expected.count * 2 * shape.inner, shape.width}, held),
                         tensor_of(expected.down, {expected.count * shape.width, shape.inner}, held), expected.spec, actual.view());
        const double error = compute == DType::bfloat16 ? 0x1p-8 : 2e-6;  // of one rounding of the inner values
        for (size_t i = 0; i < y.size(); ++i) {
          if (!check_close(actual.values[i], y[i], error * (sizes[i] + 1e-3), name_of(compute), " ", name_of(held), " ", shape.rows, " rows, element ", i)) break;
        }
      }
    }
  }
}

}  // namespace
}  // namespace heddle::test
