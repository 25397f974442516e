// Which GPUs ranks take and what they talk over: decisions without a GPU.
#include "cuda/placement.h"

#include "../test.h"

namespace heddle::test {
namespace {

using cuda::choose_communicator;
using cuda::CommunicatorPlan;
using cuda::Machine;
using cuda::place_ranks;

RankOptions options_of(int size, std::vector<int> devices) {
  RankOptions options;
  options.size = size;
  options.devices = std::move(devices);
  return options;
}

std::string text_of(ErrorCode code, const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    check(error.code() == code, "expected ", name_of(code), ", got ", name_of(error.code()), ": ", error.what());
    return error.what();
  }
  check(false, "expected an error ", name_of(code), ", got none");
  return "";
}

void check_says(const std::string& text, const std::string& part) {
  check(text.find(part) != std::string::npos, "expected \"", part, "\" in: ", text);
}

bool same(const CommunicatorPlan& plan, bool local, bool nccl) { return plan.local == local && plan.nccl == nccl; }

constexpr auto kAutomatic = CommunicatorChoice::automatic;
constexpr auto kLocal = CommunicatorChoice::local;
constexpr auto kNccl = CommunicatorChoice::nccl;

Machine machine(bool peers, bool nccl) { return {peers, peers ? "" : "GPU 0 and GPU 1 apart", nccl, nccl ? "" : "libnccl.so.2: none"}; }

}  // namespace

HEDDLE_TEST(placement_takes_the_first_gpus_or_those_that_were_named) {
  check(place_ranks(options_of(3, {}), 4) == std::vector<int>{0, 1, 2}, "the first ones");
  check(place_ranks(options_of(3, {3, 1, 3}), 4) == std::vector<int>{3, 1, 3}, "the named ones, repeats too");
}

HEDDLE_TEST(placement_refuses_what_is_not_there) {
  const std::string few = text_of(ErrorCode::unavailable, [] { place_ranks(options_of(4, {}), 1); });
  check_says(few, "expected 4 GPUs, found 1");
  check_says(few, "devices: [0, 0, …]");
  check_says(text_of(ErrorCode::invalid_argument, [] { place_ranks(options_of(2, {0}), 4); }), "each of 2 ranks, got 1");
  check_says(text_of(ErrorCode::invalid_argument, [] { place_ranks(options_of(1, {4}), 4); }), "below 4, got 4");
  text_of(ErrorCode::invalid_argument, [] { place_ranks(options_of(1, {-1}), 4); });
}

HEDDLE_TEST(placement_auto_takes_peers_memory_and_nccl_for_large_messages) {
  check(same(choose_communicator(kAutomatic, {0, 1}, machine(true, true)), true, true), "both");
  check(same(choose_communicator(kAutomatic, {0, 1}, machine(true, false)), true, false), "without NCCL");
  check(same(choose_communicator(kAutomatic, {0, 1}, machine(false, true)), false, true), "without peers");
  check(same(choose_communicator(kAutomatic, {0}, machine(true, true)), true, false), "one rank needs no NCCL");
  check(same(choose_communicator(kAutomatic, {0, 1, 0, 1}, machine(true, true)), true, false), "ranks that share GPUs");
  const std::string text = text_of(ErrorCode::unavailable, [] { choose_communicator(kAutomatic, {0, 1}, machine(false, false)); });
  check_says(text, "GPU 0 and GPU 1 apart");
  check_says(text, "libnccl.so.2: none");
}

HEDDLE_TEST(placement_gives_the_communicator_that_was_asked_for_or_says_why_not) {
  check(same(choose_communicator(kLocal, {0, 1}, machine(true, true)), true, false), "local alone");
  check(same(choose_communicator(kNccl, {0, 1}, machine(true, true)), false, true), "nccl alone");
  check(same(choose_communicator(kNccl, {0}, machine(true, true)), false, true), "nccl of one rank");
  check_says(text_of(ErrorCode::unavailable, [] { choose_communicator(kLocal, {0, 1}, machine(false, true)); }), "apart");
  check_says(text_of(ErrorCode::unavailable, [] { choose_communicator(kNccl, {0, 1}, machine(true, false)); }), "libnccl.so.2: none");
  const std::string shared = text_of(ErrorCode::invalid_argument, [] { choose_communicator(kNccl, {0, 0}, machine(true, true)); });
  check_says(shared, "NCCL refuses several ranks on one GPU");
  check_says(shared, "communicator 'local'");
}

HEDDLE_TEST(placement_names_what_it_chose) {
  check(CommunicatorPlan{true, true}.text() == "local, nccl for large messages", "both");
  check(CommunicatorPlan{true, false}.text() == "local", "local");
  check(CommunicatorPlan{false, true}.text() == "nccl", "nccl");
}

}  // namespace heddle::test
