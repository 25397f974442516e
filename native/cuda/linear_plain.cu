// Matrix products by tiles of float32 arithmetic: for what neither the streaming kernels nor cuBLASLt can do (float32 x with 16-bit
// weights, odd widths), and for everything where there is no cuBLASLt. Rule: right for all shapes, dtypes and alignments.
#include "cuda/launch.h"
#include "cuda/linear_epilogue.cuh"
#include "cuda/linear_kernels.h"
#include "cuda/plain_tile.cuh"

namespace heddle::cuda {

namespace {

using plain::kDepth, plain::kShare, plain::kThreads, plain::kTile;

struct Operand {
  const void* data;
  DType dtype;
  DType rounded_to;                                   // float32: not rounded
  int64_t rows;
};

__device__ __forceinline__ float rounded_to(DType dtype, float x) {
  return dtype == DType::bfloat16 ? rounded<bfloat16>(x) : dtype == DType::float16 ? rounded<float16>(x) : x;
}

// Rows [row, row + kTile) at depth [k, k + kDepth), transposed; zeros outside. Neighbouring threads read neighbouring elements.
__device__ __forceinline__ void stage_tile(const Operand& operand, int64_t row, int64_t in, int64_t k, plain::Staged& tile) {
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kDepth; i += kThreads) {
    const int r = i / kDepth, d = i % kDepth;
    float value = 0;
    if (row + r < operand.rows && k + d < in) value = rounded_to(operand.rounded_to, read_element(operand.data, operand.dtype, (row + r) * in + k + d));
    tile[d][r] = value;
  }
}

// G: 2 with a gate (a tile of gates and one of ups), else 1. Weight rows of a block start at blockIdx.x * kTile.
template <int G>
__global__ void __launch_bounds__(kThreads) plain_kernel(const Operand x, const Operand weight, int64_t in, const Epilogue epilogue) {
  __shared__ __align__(16) plain::Staged x_tile;
  __shared__ __align__(16) plain::Staged weight_tiles[G];
  const int64_t x_row = int64_t{blockIdx.y} * kTile, column = int64_t{blockIdx.x} * kTile;
  ptx::dependency_wait();
  ptx::dependency_launch();

  float sums[G][kShare][kShare] = {};
  for (int64_t k = 0; k < in; k += kDepth) {
    stage_tile(x, x_row, in, k, x_tile);
#pragma unroll
    for (int g = 0; g < G; ++g) stage_tile(weight, column + g * epilogue.width, in, k, weight_tiles[g]);
    __syncthreads();
    plain::multiply<G>(x_tile, weight_tiles, sums);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
#pragma unroll
    for (int j = 0; j < kShare; ++j) {
      const int64_t row = x_row + plain::x_share() + i, y_column = column + plain::column_share() + j;
      if (row < x.rows && y_column < epilogue.width) finish(epilogue, row, static_cast<int>(y_column), sums[0][i][j], sums[G - 1][i][j]);
    }
  }
}

}  // namespace

void linear_plain(const Device& device, const LinearCall& call) {
  const DType weight_dtype = call.weight->dtype;
  const Operand x = {call.x.data, call.x.dtype, multiplies_float32(call) ? DType::float32 : weight_dtype, call.x.rows};
  const Operand weight = {call.weight->buffer.data(), weight_dtype, DType::float32, call.weight->rows()};
  // Blocks of one column of tiles after another share the weights in L2; a grid has at most 65535 of the rows.
  constexpr int64_t kMaxRows = int64_t{65535} * kTile;
  if (call.x.rows > kMaxRows) {
    throw Error(ErrorCode::invalid_argument,
                "linear: expected at most " + std::to_string(kMaxRows) + " rows, got " + std::to_string(call.x.rows));
  }
  const Launch spec = {.grid = dim3(static_cast<unsigned>((call.y.width + kTile - 1) / kTile), static_cast<unsigned>((call.x.rows + kTile - 1) / kTile)),
                       .block = dim3(kThreads),
                       .stream = device.stream(),
                       .dependent = device.dependent_launch()};
  if (call.gated) {
    launch("linear", spec, plain_kernel<2>, x, weight, call.weight->width(), epilogue_of(call));
  } else {
    launch("linear", spec, plain_kernel<1>, x, weight, call.weight->width(), epilogue_of(call));
  }
}

}  // namespace heddle::cuda
