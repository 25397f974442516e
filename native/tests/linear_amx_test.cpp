// The AMX kernel of the linear layer on emulated tiles, so that CPUs without AMX test all of it but the instructions
// themselves. Its packing needs AVX512-BF16, as every CPU with AMX has: elsewhere the kernel is never used and these
// tests have nothing to run.
#if defined(__x86_64__)
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/cpu_features.h"
#include "cpu/linear_amx_kernel.h"
#include "tests/test.h"

namespace heddle::cpu {
namespace {

using test::check;
using test::check_close;

bool can_pack() {
  const auto& isas = supported_isas();
  return std::find(isas.begin(), isas.end(), Isa::avx512bf16) != isas.end();
}

struct Operands {
  std::vector<float> x;
  std::vector<uint16_t> weight;
};

Operands random_operands(int64_t rows, int64_t in, int64_t out) {
  test::Random random(static_cast<uint64_t>(rows * 1000003 + in * 1009 + out));
  Operands operands{random.uniform_vector(static_cast<size_t>(rows * in)),
                    std::vector<uint16_t>(static_cast<size_t>(in * out))};
  for (uint16_t& value : operands.weight) value = float_to_bfloat16(random.uniform());
  return operands;
}

void check_shape(int64_t rows, int64_t in, int64_t out, LinearScratch& scratch) {
  const Operands operands = random_operands(rows, in, out);
  std::vector<float> y(static_cast<size_t>(rows * out), NAN);
  const TileKernel kernel = amx::tile_kernel<amx::EmulatedTiles>();
  run_tiled({operands.x.data(), operands.weight.data(), DType::bfloat16, y.data(), rows, in, out, true}, kernel,
            scratch);
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < out; ++n) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < in; ++k) {
        const double product = bfloat16_to_float(float_to_bfloat16(operands.x[static_cast<size_t>(m * in + k)])) *
                               static_cast<double>(bfloat16_to_float(operands.weight[static_cast<size_t>(n * in + k)]));
        sum += product;
        magnitude += std::abs(product);
      }
      if (!check_close(y[static_cast<size_t>(m * out + n)], sum, 4e-6 * magnitude, "amx kernel rows ", rows, " in ", in,
                       " out ", out, " at [", m, ", ", n, "]")) {
        return;
      }
    }
  }
}

}  // namespace

HEDDLE_TEST(linear_amx_kernel_on_emulated_tiles_equals_reference) {
  if (!can_pack()) return;
  LinearScratch scratch;
  for (const int64_t rows : {1, 7, 16, 17, 32, 33, 48, 49, 100, 260}) {
    for (const int64_t in : {1, 31, 32, 33, 65, 200}) {
      for (const int64_t out : {1, 15, 32, 33, 70}) check_shape(rows, in, out, scratch);
    }
  }
}

HEDDLE_TEST(linear_amx_kernel_crosses_its_blocks) {
  if (!can_pack()) return;
  LinearScratch scratch;
  check_shape(20, 1024, 33, scratch);
  check_shape(20, 1025, 225, scratch);
  check_shape(40, 2100, 40, scratch);
}

HEDDLE_TEST(linear_amx_tile_product_follows_the_manual) {
  using Tiles = amx::EmulatedTiles;
  // a[row][k] = row + k, b[pair][column][half] = column - (2 pair + half): all exact in bfloat16.
  std::vector<uint16_t> a(16 * 32), b(16 * 32);
  std::vector<float> c(16 * 16, 1.0f);
  for (int i = 0; i < 16 * 32; ++i) {
    a[static_cast<size_t>(i)] = float_to_bfloat16(static_cast<float>(i / 32 + i % 32));
    b[static_cast<size_t>(i)] = float_to_bfloat16(static_cast<float>(i % 32 / 2 - (i / 32 * 2 + i % 2)));
  }
  Tiles::configure();
  Tiles::load<0>(c.data(), 64);
  Tiles::load<4>(a.data(), 64);
  Tiles::load<6>(b.data(), 64);
  Tiles::multiply<0, 4, 6>();
  Tiles::store<0>(c.data(), 64);
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 16; ++column) {
      double expected = 1;
      for (int k = 0; k < 32; ++k) expected += (row + k) * (column - k);
      check_close(c[static_cast<size_t>(row * 16 + column)], expected, 0, "tile product [", row, ", ", column, "]");
    }
  }
}

// As linear_columns_test.cpp for the kernels of this CPU.
HEDDLE_TEST(linear_amx_gives_a_column_the_same_bits_in_any_shard) {
  if (!can_pack()) return;
  LinearScratch scratch;
  const TileKernel kernel = amx::tile_kernel<amx::EmulatedTiles>();
  for (const int64_t rows : {7, 16, 40}) {
    for (const int64_t in : {33, 1100}) {
      constexpr int64_t kOut = 75;
      const Operands operands = random_operands(rows, in, kOut);
      const auto product = [&](int64_t first, int64_t count) {
        std::vector<float> y(static_cast<size_t>(rows * count), NAN);
        run_tiled({operands.x.data(), operands.weight.data() + first * in, DType::bfloat16, y.data(), rows, in, count, true}, kernel, scratch);
        return y;
      };
      const std::vector<float> whole = product(0, kOut);
      for (const int64_t columns : {38, 25, 1}) {
        int64_t other = 0;
        for (int64_t first = 0; first < kOut; first += columns) {
          const int64_t count = std::min(columns, kOut - first);
          const std::vector<float> part = product(first, count);
          for (int64_t row = 0; row < rows; ++row) {
            other += std::memcmp(part.data() + row * count, whole.data() + row * kOut + first, static_cast<size_t>(count) * sizeof(float)) != 0;
          }
        }
        check(other == 0, "rows ", rows, " in ", in, ": other bits in shards of ", columns, " columns");
      }
    }
  }
}

}  // namespace heddle::cpu
#endif
