// Adds up the parts of a split matrix product and folds in what follows it.
#include "cuda/linear_epilogue.cuh"
#include "cuda/linear_kernels.h"
#include "cuda/row_kernels.cuh"

namespace heddle::cuda {

namespace {

__global__ void linear_finish_kernel(const float* sums, int parts, int64_t rows, int64_t out, const Epilogue epilogue) {
  ptx::dependency_wait();
  ptx::dependency_launch();
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < rows * epilogue.width; i += stride) {
    const int64_t row = i / epilogue.width, column = i % epilogue.width;
    float sum = 0, up = 0;
    for (int part = 0; part < parts; ++part) {
      const float* of_row = sums + (part * rows + row) * out;
      sum += of_row[column];
      if (epilogue.gated) up += of_row[epilogue.width + column];
    }
    finish(epilogue, row, static_cast<int>(column), sum, up);
  }
}

}  // namespace

void linear_finish(const Device& device, const LinearCall& call, const float* sums, int parts) {
  Launch spec = over_elements(device, kVector * call.y.rows * call.y.width);   // a thread for every element
  launch("linear", spec, linear_finish_kernel, sums, parts, call.y.rows, call.weight->rows(), epilogue_of(call));
}

}  // namespace heddle::cuda
