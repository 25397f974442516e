// Chooses how a mixture of experts runs, by the number of rows, and finds the memory between its kernels.
#include "cuda/experts.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "cuda/linear_kernels.h"

namespace heddle::cuda {

namespace {

constexpr int64_t kRowsAtOnce = 512;                  // of the grouped way: bounds the memory for the terms of a sum
constexpr int64_t kRowsAtOnceInPieces = 64;           // the same at every size of a group, however many pieces a rank has

size_t aligned_up(size_t bytes) { return (bytes + 15) / 16 * 16; }

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

View rows_of(View view, int64_t first, int64_t count) {
  auto* data = static_cast<unsigned char*>(view.data) + static_cast<size_t>(first * view.width) * size_of(view.dtype);
  return {data, view.dtype, count, view.width};
}

// x as the product takes it: in the dtype of the weights, unless that is float32 or the group's.
View input_of(const Device& device, const ExpertsCall& call, bool& single) {
  LinearCall product;
  product.x = call.x;
  product.weight = call.gate_up;
  product.exact = call.exact;
  single = multiplies_float32(product);
  return linear_input(device, product);
}

class Memory {
 public:
  template <class T>
  T* take(size_t count) {
    auto* part = reinterpret_cast<T*>(memory_ + used_);
    used_ += aligned_up(count * sizeof(T));
    return part;
  }
  size_t used() const { return used_; }
  void place(void* memory) {
    memory_ = static_cast<unsigned char*>(memory);
    used_ = 0;
  }

 private:
  unsigned char* memory_ = nullptr;
  size_t used_ = 0;
};

void take_memory(ExpertsWork& work, bool single, bool grouped, Memory& memory) {
  const auto pairs = static_cast<size_t>(work.rows) * static_cast<size_t>(work.per_token);
  const size_t inner_bytes = pairs * static_cast<size_t>(work.inner) * (single ? 4 : 2);
  work.inner_values = memory.take<unsigned char>(inner_bytes);
  if (!grouped) return;
  const auto pieces = static_cast<size_t>(work.splits_experts ? 1 : work.chunks.count);
  work.parts = memory.take<float>(pieces * pairs * static_cast<size_t>(work.width));
  work.counts = memory.take<int32_t>(static_cast<size_t>(work.experts));
  work.pairs = memory.take<int32_t>(static_cast<size_t>(work.experts) * static_cast<size_t>(work.rows));
}

ExpertsWork work_of(const ExpertsCall& call, View x) {
  ExpertsWork work = {};
  work.x = x.data;
  work.routing = static_cast<const float*>(call.routing.data) + call.spec->first_expert;
  work.gate_up = call.gate_up->buffer.data();
  work.down = call.down->buffer.data();
  work.y = call.y.data;
  work.y_dtype = call.y.dtype;
  work.rows = static_cast<int>(call.y.rows);
  work.per_token = static_cast<int>(call.spec->experts_per_token);
  work.width = static_cast<int>(call.y.width);
  work.inner = static_cast<int>(call.down->width());
  work.routing_width = static_cast<int>(call.routing.width);
  work.experts = static_cast<int>(call.down->rows() / call.y.width);
  work.kind = call.spec->activation;
  work.splits_experts = !call.spec->expert_chunks.empty();
  work.chunks = work.splits_experts ? chunk_table(call.spec->expert_chunks, work.experts, "experts")
                                    : chunk_table(call.spec->chunks, work.inner, "experts");
  // rows of 8 elements are 16 bytes in every type
  work.aligned = work.width % 8 == 0 && work.inner % 8 == 0 && is_aligned(work.x) && is_aligned(work.gate_up) && is_aligned(work.down);
  return work;
}

bool in_pieces(const Device& device, const ExpertsSpec& spec) {
  return device.reproducible || !spec.chunks.empty() || !spec.expert_chunks.empty();
}

void run(const Device& device, const ExpertsCall& call) {
  bool single = false;
  ExpertsWork work = work_of(call, input_of(device, call, single));
  const bool grouped = work.rows > kFewExpertRows;
  Memory memory;
  take_memory(work, single, grouped, memory);
  memory.place(device.scratch(Scratch::experts, memory.used()));
  take_memory(work, single, grouped, memory);
  const ExpertsTypes types = {call.gate_up->dtype, call.down->dtype, single};
  if (in_pieces(device, *call.spec)) return experts_chunks(device, work, types);
  grouped ? experts_grouped(device, work, types) : experts_few(device, work, types);
}

}  // namespace

void experts(const Device& device, const ExpertsCall& call) {
  if (call.routing.dtype != DType::float32) {
    throw Error(ErrorCode::invalid_argument, std::string("experts: expected a float32 routing, got ") + name_of(call.routing.dtype));
  }
  const int64_t at_once = in_pieces(device, *call.spec) ? kRowsAtOnceInPieces : kRowsAtOnce;
  for (int64_t first = 0; first < call.y.rows; first += at_once) {
    const int64_t count = std::min(at_once, call.y.rows - first);
    ExpertsCall part = call;
    part.x = rows_of(call.x, first, count);
    part.routing = rows_of(call.routing, first, count);
    part.y = rows_of(call.y, first, count);
    run(device, part);
  }
}

}  // namespace heddle::cuda
