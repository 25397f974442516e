// Checks the call and chooses its kernels: by instruction set, weight dtype and number of rows, nothing else.
#include "cpu/linear.h"

#include <algorithm>
#include <new>
#include <string>

#include "core/error.h"
#include "cpu/linear_kernels.h"

namespace heddle::cpu {
namespace {

constexpr std::align_val_t kAlignment{64};

void check_arguments(const LinearArgs& args, Isa isa) {
  if (args.rows < 0 || args.in < 1 || args.out < 1) {
    throw Error(ErrorCode::invalid_argument, "linear: expected rows >= 0, in >= 1, out >= 1, got rows " +
                                                 std::to_string(args.rows) + ", in " + std::to_string(args.in) +
                                                 ", out " + std::to_string(args.out));
  }
  const auto& supported = supported_isas();
  if (std::find(supported.begin(), supported.end(), isa) == supported.end()) {
    throw Error(ErrorCode::unavailable,
                std::string("linear: expected an instruction set of this CPU, got ") + name_of(isa));
  }
}

}  // namespace

std::byte* LinearScratch::reserve(size_t bytes) {
  if (bytes <= capacity_) return memory_.get();
  memory_.reset();
  capacity_ = 0;
  void* memory = ::operator new(bytes, kAlignment, std::nothrow);
  if (memory == nullptr) {
    throw Error(ErrorCode::out_of_memory,
                "linear: expected " + std::to_string(bytes) + " bytes of scratch memory, got none");
  }
  memory_.reset(static_cast<std::byte*>(memory));
  capacity_ = bytes;
  return memory_.get();
}

void LinearScratch::Release::operator()(std::byte* memory) const { ::operator delete(memory, kAlignment); }

namespace {

// What is asked for as the kernels take it.
LinearArgs checked(const LinearArgs& args, Isa isa) {
  check_arguments(args, isa);
  LinearArgs call = args;
  if (call.weight_dtype == DType::float16) call.round_inputs = false;
  return call;
}

const LinearKernels& kernels_for(const LinearArgs& args, Isa isa) {
  if (args.round_inputs && args.weight_dtype == DType::bfloat16) {
    if (const LinearKernels* kernels = bfloat16_kernels(isa)) return *kernels;
  }
  return highway_kernels(isa, args.weight_dtype);
}

}  // namespace

void linear(const LinearArgs& args, LinearScratch& scratch, Isa isa) {
  const LinearArgs call = checked(args, isa);
  if (call.rows == 0) return;
  const LinearKernels& kernels = kernels_for(call, isa);
  if (call.rows <= kernels.dot_rows) {
    run_dot(call, kernels.dot, scratch);
  } else {
    run_tiled(call, kernels.tile, scratch);
  }
}

void linear_chunks(const LinearArgs& args, const Chunks& chunks, LinearScratch& scratch, Isa isa) {
  const LinearArgs call = checked(args, isa);
  if (call.rows == 0) return;
  const LinearKernels& kernels = kernels_for(call, isa);
  if (call.rows <= kernels.dot_rows) {
    run_dot_chunks(call, chunks, kernels.dot, scratch);
  } else {
    run_tiled_chunks(call, chunks, kernels.tile, scratch);
  }
}

void linear(const LinearArgs& args, LinearScratch& scratch) { linear(args, scratch, cpu_isa()); }

void linear_chunks(const LinearArgs& args, const Chunks& chunks, LinearScratch& scratch) { linear_chunks(args, chunks, scratch, cpu_isa()); }

}  // namespace heddle::cpu
