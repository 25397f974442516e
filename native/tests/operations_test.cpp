// Row and element operations of the CPU backend against the references: odd sizes, in place, every instruction set.
#include <limits>

#include "cpu/cpu_backend.h"
#include "cpu/cpu_features.h"
#include "cpu/row_kernels.h"
#include "reference.h"
#include "tensors.h"
#include "test.h"

namespace heddle::test {
namespace {

using cpu::create_backend;

const std::vector<int64_t> kWidths = {1, 2, 7, 15, 16, 17, 33, 64, 100, 129, 1024};
const std::vector<Activation> kKinds = {Activation::gelu, Activation::gelu_tanh, Activation::relu, Activation::silu};

void check_row(const float* actual, const std::vector<double>& expected, double tolerance, const char* what) {
  for (size_t i = 0; i < expected.size(); ++i) {
    check_close(actual[i], expected[i], tolerance * std::max(1.0, std::abs(expected[i])), what, " width ",
                expected.size(), " column ", i);
  }
}

// Values from tiny to large, both signs.
std::vector<float> wide_range() {
  std::vector<float> values = Random(5).uniform_vector(997, -12, 12);
  for (const float value :
       {0.0f, -0.0f, 1e-30f, -1e-30f, 20.0f, -20.0f, 87.0f, -87.0f, 89.0f, -89.0f, 200.0f, -200.0f, 1e6f, -1e6f}) {
    values.push_back(value);
  }
  return values;
}

HEDDLE_TEST(operations_norms_match_the_reference) {
  const auto backend = create_backend(DType::float32);
  Random random(1);
  for (const int64_t width : kWidths) {
    Matrix x(3, width, random.uniform_vector(static_cast<size_t>(3 * width), -3, 5));
    const std::vector<float> w = random.uniform_vector(static_cast<size_t>(width));
    const std::vector<float> b = random.uniform_vector(static_cast<size_t>(width));
    const Tensor weight = tensor_of(w, {width});
    const Tensor bias = tensor_of(b, {width});
    Matrix rms(3, width), layer(3, width), bare(3, width);
    backend->rms_norm(x.view(), weight, 1e-6f, rms.view());
    backend->layer_norm(x.view(), weight, &bias, 1e-5f, layer.view());
    backend->layer_norm(x.view(), weight, nullptr, 1e-5f, bare.view());
    for (int64_t row = 0; row < 3; ++row) {
      check_row(rms.row(row), reference::rms_norm(x.row(row), w.data(), 1e-6f, width), 1e-5, "rms_norm");
      check_row(layer.row(row), reference::layer_norm(x.row(row), w.data(), b.data(), 1e-5f, width), 1e-5,
                "layer_norm");
      check_row(bare.row(row), reference::layer_norm(x.row(row), w.data(), nullptr, 1e-5f, width), 1e-5,
                "layer_norm without bias");
    }
    backend->rms_norm(x.view(), weight, 1e-6f, x.view());
    check(x.values == rms.values, "rms_norm in place, width ", width);
  }
}

HEDDLE_TEST(operations_activations_match_the_reference) {
  const std::vector<float> x = wide_range();
  const auto count = static_cast<int64_t>(x.size());
  for (const cpu::Isa isa : cpu::supported_isas()) {
    for (const Activation kind : kKinds) {
      std::vector<float> y(x.size());
      cpu::row_kernels(isa).activation(kind, x.data(), count, y.data());
      for (size_t i = 0; i < x.size(); ++i) {
        const double expected = reference::activation(kind, x[i]);
        check_close(y[i], expected, 2e-6 * std::abs(expected) + 1e-9, cpu::name_of(isa), " activation ",
                    static_cast<int>(kind), " of ", x[i]);
      }
    }
  }
}

HEDDLE_TEST(operations_activations_keep_nan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Activation kind : kKinds) {
    Matrix x(1, 17, std::vector<float>(17, nan));
    create_backend(DType::float32)->activation(x.view(), kind, x.view());
    for (const float value : x.values)
      check(std::isnan(value), "activation ", static_cast<int>(kind), " of NaN gave ", value);
  }
}

HEDDLE_TEST(operations_gated_multiplies_the_activated_gate_with_up) {
  const auto backend = create_backend(DType::float32);
  for (const int64_t width : kWidths) {
    Matrix x(2, 2 * width, Random(9).uniform_vector(static_cast<size_t>(4 * width), -4, 4));
    for (const Activation kind : kKinds) {
      Matrix y(2, width);
      backend->gated(x.view(), kind, y.view());
      for (int64_t row = 0; row < 2; ++row) {
        for (int64_t i = 0; i < width; ++i) {
          const double expected = reference::activation(kind, x.row(row)[i]) * x.row(row)[width + i];
          check_close(y.row(row)[i], expected, 1e-5, "gated width ", width, " column ", i);
        }
      }
    }
  }
}

HEDDLE_TEST(operations_add_bias_slice_and_last_rows) {
  const auto backend = create_backend(DType::float32);
  Random random(3);
  Matrix a(6, 19, random.uniform_vector(6 * 19)), b(6, 19, random.uniform_vector(6 * 19)), sum(6, 19), biased(6, 19),
      part(6, 5), last(3, 19);
  const std::vector<float> bias = random.uniform_vector(19);
  backend->add(a.view(), b.view(), sum.view());
  backend->add_bias(a.view(), tensor_of(bias, {19}), biased.view());
  backend->slice(a.view(), 13, part.view());
  const Step step = step_of({1, 3, 2});
  backend->last_rows(backend->begin_step(step), a.view(), last.view());
  for (int64_t row = 0; row < 6; ++row) {
    for (int64_t i = 0; i < 19; ++i) {
      check(sum.row(row)[i] == a.row(row)[i] + b.row(row)[i], "add at ", row, ", ", i);
      check(biased.row(row)[i] == a.row(row)[i] + bias[static_cast<size_t>(i)], "add_bias at ", row, ", ", i);
    }
    for (int64_t i = 0; i < 5; ++i) check(part.row(row)[i] == a.row(row)[13 + i], "slice at ", row, ", ", i);
  }
  const int64_t rows[] = {0, 3, 5};
  for (int64_t i = 0; i < 3; ++i)
    check(std::equal(last.row(i), last.row(i) + 19, a.row(rows[i])), "last_rows of sequence ", i);
}

HEDDLE_TEST(operations_embed_gives_own_rows_and_zeros) {
  const auto backend = create_backend(DType::float32);
  const std::vector<float> table = Random(4).uniform_vector(5 * 7);
  Step step = step_of({6});
  step.tokens = {9, 10, 14, 15, 0, 12};
  const StepView view = backend->begin_step(step);
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    Matrix y(6, 7, std::vector<float>(42, 5.0f));
    backend->embed(view, tensor_of(table, {5, 7}, dtype), {10}, y.view());
    for (int64_t row = 0; row < 6; ++row) {
      const int64_t local = step.tokens[static_cast<size_t>(row)] - 10;
      for (int64_t i = 0; i < 7; ++i) {
        const double expected = local < 0 || local >= 5 ? 0.0 : table[static_cast<size_t>(local * 7 + i)];
        const double tolerance = dtype == DType::float32 || expected == 0 ? 0 : std::abs(expected) / 200;
        check_close(y.row(row)[i], expected, tolerance, name_of(dtype), " embed row ", row);
      }
    }
  }
}

HEDDLE_TEST(operations_embed_of_positions_and_scaled) {
  const auto backend = create_backend(DType::float32);
  const std::vector<float> table = Random(5).uniform_vector(5 * 7);
  Step step = step_of({2, 4});
  step.tokens = {9, 10, 14, 15, 0, 12};
  Matrix y(6, 7, std::vector<float>(42, 5.0f));
  backend->embed(backend->begin_step(step), tensor_of(table, {5, 7}, DType::float32), {1, true, 2.5f}, y.view());
  for (int64_t row = 0; row < 6; ++row) {
    const int64_t local = step.positions[static_cast<size_t>(row)] - 1;
    for (int64_t i = 0; i < 7; ++i) {
      check(y.row(row)[i] == (local < 0 ? 0.0f : table[static_cast<size_t>(local * 7 + i)] * 2.5f), "row ", row, " of ", i);
    }
  }
}

HEDDLE_TEST(operations_kernels_agree_on_every_instruction_set) {
  Random random(6);
  for (const int64_t count : {1, 3, 16, 63, 64, 65, 200, 5000}) {
    std::vector<float> x = random.uniform_vector(static_cast<size_t>(count), -9, 9);
    const auto best = std::max_element(x.begin(), x.end());
    for (const cpu::Isa isa : cpu::supported_isas()) {
      const cpu::RowKernels& kernels = cpu::row_kernels(isa);
      check(kernels.maximum(x.data(), count) == *best, cpu::name_of(isa), " maximum of ", count);
      check(kernels.first_at_least(x.data(), count, *best) == best - x.begin(), cpu::name_of(isa),
            " position of the maximum of ", count);
      check(kernels.first_at_least(x.data(), count, 10.0f) == count, cpu::name_of(isa), " no such element among ",
            count);
      std::vector<float> weights(x.size());
      const double total = kernels.weights(x.data(), count, *best, 2.0f, weights.data());
      double expected = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        const double weight = std::exp(2 * (double{x[i]} - *best));
        expected += weight;
        check_close(weights[i], weight, 2e-6 * weight + 1e-30, cpu::name_of(isa), " weight ", i);
      }
      check_close(total, expected, 1e-6 * expected, cpu::name_of(isa), " sum of weights of ", count);
    }
  }
}

HEDDLE_TEST(operations_maximum_skips_nan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float lowest = -std::numeric_limits<float>::infinity();
  for (const cpu::Isa isa : cpu::supported_isas()) {
    std::vector<float> x(200, nan);
    check(cpu::row_kernels(isa).maximum(x.data(), 200) == lowest, cpu::name_of(isa), " maximum of NaN alone");
    x[77] = -3;
    x[199] = -2;
    check(cpu::row_kernels(isa).maximum(x.data(), 200) == -2, cpu::name_of(isa), " maximum among NaN");
    check(cpu::row_kernels(isa).maximum(x.data(), 190) == -3, cpu::name_of(isa), " maximum among NaN, shorter");
  }
}

}  // namespace
}  // namespace heddle::test
