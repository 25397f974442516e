// Chooses how a linear layer runs: by rows, dtypes and alignment, never by what the values are.
#include "cuda/linear.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "cuda/linear_kernels.h"
#include "cuda/linear_lt.h"
#include "cuda/operations.h"

namespace heddle::cuda {

namespace {

std::string text_of(View view) { return "[" + std::to_string(view.rows) + ", " + std::to_string(view.width) + "]"; }

void expect_shapes(const LinearCall& call) {
  const int64_t in = call.weight->width(), out = call.weight->rows();
  const int64_t width = call.gated ? out / 2 : out;
  if (call.x.width != in || call.y.rows != call.x.rows || call.y.width != width || in < 1 || out < 1 || (call.gated && out % 2 != 0)) {
    throw Error(ErrorCode::invalid_argument, "linear: expected x [rows, " + std::to_string(in) + "] and y [rows, " + std::to_string(width) +
                                                 "], got " + text_of(call.x) + " and " + text_of(call.y));
  }
  if (call.residual.data && (call.residual.rows != call.y.rows || call.residual.width != width)) {
    throw Error(ErrorCode::invalid_argument, "linear: expected a residual " + text_of(call.y) + ", got " + text_of(call.residual));
  }
  if (!can_fold(call)) {
    throw Error(ErrorCode::invalid_argument, "linear: expected nothing folded in for " + std::to_string(call.x.rows) +
                                                 " rows, or an activation or a gate, not both");
  }
}

View rows_of(View view, int64_t first, int64_t count) {
  if (!view.data) return view;
  auto* data = static_cast<unsigned char*>(view.data) + static_cast<size_t>(first * view.width) * size_of(view.dtype);
  return {data, view.dtype, count, view.width};
}

LinearCall rows_of(const LinearCall& call, int64_t first, int64_t count) {
  LinearCall part = call;
  part.x = rows_of(call.x, first, count);
  part.y = rows_of(call.y, first, count);
  part.residual = rows_of(call.residual, first, count);
  return part;
}

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// With the norm done and x in the dtype of the product.
LinearCall with_input(const Device& device, const LinearCall& call) {
  LinearCall prepared = call;
  prepared.x = linear_input(device, call);
  prepared.norm_weight = nullptr;
  return prepared;
}

void few_rows(const Device& device, const LinearCall& call) {
  if (call.x.rows > kDotRows && can_mma(device, call)) return linear_mma(device, with_input(device, call));
  const int64_t at_once = std::min(call.x.rows, multiplies_float32(call) ? kMaxDotRows : kDotRows);
  if (!can_dot(device, rows_of(call, 0, at_once))) return linear_plain(device, with_input(device, call));
  for (int64_t first = 0; first < call.x.rows; first += at_once)
    linear_dot(device, rows_of(call, first, std::min(at_once, call.x.rows - first)));
}

void many_rows(const Device& device, const LinearCall& call) {
  const bool library = device.matmul && (!call.exact || call.weight->dtype == DType::float32);
  if (!library) return linear_plain(device, call);
  const LinearCall prepared = with_input(device, call);
  if (!device.matmul->run(prepared)) linear_plain(device, prepared);
}

}  // namespace

View linear_input(const Device& device, const LinearCall& call) {
  const DType dtype = multiplies_float32(call) ? DType::float32 : call.weight->dtype;
  if (!call.norm_weight && call.x.dtype == dtype && is_aligned(call.x.data)) return call.x;
  const size_t bytes = static_cast<size_t>(call.x.rows * call.x.width) * size_of(dtype);
  const View input = {device.scratch(Scratch::linear_input, bytes), dtype, call.x.rows, call.x.width};
  if (call.norm_weight) {
    rms_norm(device, call.x, *call.norm_weight, call.norm_eps, input);
  } else {
    convert(device, call.x, input);
  }
  return input;
}

bool can_fold(const LinearCall& call) {
  if (call.activation && call.gated) return false;
  if (call.gated && chunks_of(call).size() > 1) return false;
  if (call.x.rows <= kSmallRows) return true;
  const bool single = call.y.dtype == DType::float32 && (!call.residual.data || call.residual.dtype == DType::float32);
  const bool more = call.norm_weight || call.activation || call.gated;
  return !more && (single || (!call.bias && !call.residual.data));
}

void linear(const Device& device, const LinearCall& call) {
  expect_shapes(call);
  if (call.x.rows == 0) return;
  if (device.reproducible || !chunks_of(call).empty()) return linear_chunks(device, with_input(device, call));
  call.x.rows <= kSmallRows ? few_rows(device, call) : many_rows(device, call);
}

}  // namespace heddle::cuda
