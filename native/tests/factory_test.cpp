// Groups as the factory makes them: real ranks over the CPU backend, and the devices that are not there.
#include <cstdlib>
#include <future>

#include "factory.h"
#include "rank_fixture.h"
#include "test.h"

namespace heddle::test {
namespace {

OnCompletion ignore() {
  return [](Completion&&) {};
}

}  // namespace

HEDDLE_TEST(factory_refuses_devices_it_does_not_have) {
  setenv("HEDDLE_CUDA_BACKEND", "/no/such/folder/libheddle_cuda.so", 1);  // also on a machine with GPUs
  GroupOptions options;
  options.device = "cuda";
  check_throws(ErrorCode::unavailable, [&] { open_group(options, 1, ignore()); });
  check(cuda_info({}, true).reason.find("/no/such/folder") != std::string::npos, "the reason names the file");
  options.device = "cpu";
  options.communicator = CommunicatorChoice::nccl;
  check_throws(ErrorCode::invalid_argument, [&] { open_group(options, 1, ignore()); });
  options.communicator = CommunicatorChoice::local;
  options.device = "abacus";
  check_throws(ErrorCode::invalid_argument, [&] { open_group(options, 1, ignore()); });
  options.device = "cpu";
  options.size = 0;
  check_throws(ErrorCode::invalid_argument, [&] { open_group(options, 1, ignore()); });
}

HEDDLE_TEST(factory_opens_cpu_ranks_that_hold_tensors) {
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    GroupOptions options;
    options.size = 3;
    options.dtype = dtype;
    std::promise<Completion> read;
    const auto [group, placement] = open_group(options, 1, [&](Completion&& completion) {
      if (completion.failure) check(false, "ticket ", completion.ticket, ": ", completion.failure->message);
      if (completion.ticket == 3) read.set_value(std::move(completion));
    });
    CreateTensor tensor;
    tensor.id = 9;
    tensor.dtype = dtype;
    tensor.shape = {2, 3};
    check(placement.communicator == "local" && placement.devices.empty(), "placement on the CPU");
    group->submit(2, Message(tensor));
    group->submit(3, Message(ReadTensor{9}));       // of every rank, so that all have opened once it completes
    const Completion completion = read.get_future().get();
    const auto* matrix = std::get_if<HostMatrix>(&completion.result);
    check(matrix && matrix->data == std::vector<float>(6, 0.0f) && matrix->shape == std::vector<int64_t>{2, 3},
          "a zeroed tensor");
    for (const RankInfo& info : group->info()) {
      check(info.device.find("cpu") == 0, "device: ", info.device);
      check(info.weight_bytes == 6 * size_of(dtype), "weight bytes of rank ", info.rank);
    }
    group->close();
  }
}

// Only one of two ranks is asked to run: the other never comes to its all-reduce.
HEDDLE_TEST(factory_ranks_wait_for_each_other_as_long_as_the_group_says) {
  GroupOptions options;
  options.size = 2;
  options.collective_timeout = std::chrono::milliseconds(20);
  std::promise<Completion> ran;
  const auto [group, placement] = open_group(options, 1, [&](Completion&& completion) {
    if (completion.ticket == 3) ran.set_value(std::move(completion));
  });
  group->submit(2, Message(sum_program()));
  group->submit_to(3, 0, Message(RunProgram{kProgram, step_of(1)}));
  const Completion completion = ran.get_future().get();
  group->close();
  if (!check(completion.failure.has_value(), "a failure")) return;
  const std::string& text = completion.failure->message;
  check(completion.failure->code == ErrorCode::timeout, "expected timeout, got ", text);
  check(text.find("20 ms") != std::string::npos && text.find("never reached") != std::string::npos && text.find("rank 1") != std::string::npos, "the time and the rank in: ", text);
}

}  // namespace heddle::test
