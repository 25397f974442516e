// What the CPU backend keeps: memory, the step's arrays and the tokens sampled in slots.
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "comm/local/local.h"
#include "cpu/cpu_backend.h"
#include "cpu/cpu_features.h"
#include "tensors.h"
#include "test.h"

namespace heddle::test {
namespace {

using cpu::create_backend;

// Made before anything that a test makes, so destroyed after it: as late as a rank may still compute when the process
// ends. The address sanitizer sees what is gone by then.
const struct Latecomer {
  ~Latecomer() {
    const auto& isas = cpu::supported_isas();
    if (std::count(isas.begin(), isas.end(), cpu::Isa::portable) != 1) std::abort();
  }
} latecomer;

HEDDLE_TEST(cpu_backend_memory_is_zeroed_and_aligned) {
  const auto backend = create_backend(DType::float32);
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{100}, size_t{4096}, (size_t{2} << 20) - 1, size_t{2} << 20,
                             (size_t{5} << 20) + 3}) {
    const Buffer buffer = backend->allocate(bytes);
    const auto* data = static_cast<const char*>(buffer.data());
    check(reinterpret_cast<uintptr_t>(data) % 64 == 0, bytes, " bytes are not aligned");
    bool zero = true;
    for (size_t i = 0; i < bytes; i += 509) zero = zero && data[i] == 0;
    check(zero && (bytes == 0 || data[bytes - 1] == 0), bytes, " bytes are not zeroed");
  }
}

HEDDLE_TEST(cpu_backend_too_much_memory_is_out_of_memory) {
  const auto backend = create_backend(DType::float32);
  for (const size_t bytes : {size_t{1} << 46, size_t{1} << 62}) {
    check_throws(ErrorCode::out_of_memory, [&] { backend->allocate(bytes); }, bytes);
  }
}

HEDDLE_TEST(cpu_backend_counts_what_ranks_hold_together) {
  const auto backend = create_backend(DType::float32);
  const auto other = create_backend(DType::float32);
  const auto total = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t bytes = total / 4;
  bool refused = false;
  try {
    std::vector<Buffer> buffers;  // never touched, so never real
    for (int i = 0; i < 5; ++i) buffers.push_back((i % 2 == 0 ? backend : other)->allocate(bytes));
  } catch (const Error& error) {
    refused = error.code() == ErrorCode::out_of_memory;
  }
  check(refused, "five quarters of the memory were granted");
  const Buffer again = backend->allocate(size_t{4} << 20);
  check(again.data() != nullptr, "memory comes back with its buffers");
}

HEDDLE_TEST(cpu_backend_step_outlives_the_message) {
  const auto backend = create_backend(DType::float32);
  auto step = std::make_unique<Step>(step_of({2, 1}, 4));
  step->tokens = {7, 8, 9};
  step->block_table = {0, 1, 2, 3};
  const StepView view = backend->begin_step(*step);
  step.reset();
  check(view.token_count == 3 && view.sequence_count == 2 && view.blocks_per_sequence == 2, "counts");
  check(view.tokens[2] == 9 && view.positions[1] == 5 && view.block_table[3] == 3 && view.slots[1] == 1, "arrays");
  check(view.sampling[1].temperature == 0, "without sampling parameters a step is greedy");
}

HEDDLE_TEST(cpu_backend_slots_hand_on_the_sampled_token) {
  const auto backend = create_backend(DType::float32);
  const auto communicators = comm::create_local(1);
  Step step = step_of({1, 1});
  step.slots = {5, 2};
  Matrix logits(2, 4, {0, 3, 1, 2, 9, 0, 1, 2});
  int32_t tokens[2] = {-1, -1};
  backend->sample(backend->begin_step(step), logits.view(), {0, 4}, *communicators[0], tokens);
  check(tokens[0] == 1 && tokens[1] == 0, "greedy tokens ", tokens[0], ", ", tokens[1]);

  Step next = step_of({1, 1});
  next.tokens = {-1 - 5, -1 - 2};
  const StepView view = backend->begin_step(next);
  check(view.tokens[0] == 1 && view.tokens[1] == 0, "tokens of slots 5 and 2");

  next.tokens = {-1 - 5, -1 - 3};
  check_throws(ErrorCode::invalid_argument, [&] { backend->begin_step(next); }, "slot 3 was never sampled");
}

}  // namespace
}  // namespace heddle::test
