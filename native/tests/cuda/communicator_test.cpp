// How communicators among GPUs begin and end: waits that end by an abort or a timeout, peers that cannot be reached.
#include <atomic>
#include <chrono>

#include "rank_threads.h"

namespace heddle::test {
namespace {

using cuda::Device;
using cuda::DeviceCommunicator;

ErrorCode code_of(const std::function<void()>& body, std::string* text = nullptr) {
  try {
    body();
  } catch (const Error& error) {
    if (text) *text = error.what();
    return error.code();
  }
  record_failure("expected an error, got none");
  return ErrorCode::closed;
}

// A thread per rank without the helpers of on_ranks, since here ranks fail on purpose.
void on_failing_ranks(DeviceCommunicators& communicators, const RankBody& body) {
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < communicators.size(); ++rank) {
    threads.emplace_back([&, rank] {
      const Device device(0, static_cast<int>(rank));
      try {
        communicators[rank]->attach(device);
      } catch (const Error& error) {                  // a quick peer has aborted already
        check(error.code() == ErrorCode::peer_failed, "attach: ", error.what());
        return;
      }
      body(device, *communicators[rank]);
      wait_for(device);                               // must end, whatever failed
    });
  }
  for (std::thread& thread : threads) thread.join();
}

HEDDLE_TEST(communicator_ranks_that_wait_end_by_an_abort) {
  DeviceCommunicators communicators = local_communicators(3);
  on_failing_ranks(communicators, [](const Device& device, DeviceCommunicator& communicator) {
    if (communicator.rank() == 2) return communicator.abort("rank 2 had enough");
    const DeviceMatrix x(device, Matrix(1, 100));
    communicator.all_reduce(x.view());
    wait_for(device);
    std::string text;
    const ErrorCode code = code_of([&] { communicator.expect_healthy(); }, &text);
    check(code == ErrorCode::peer_failed, "expected peer_failed, got ", name_of(code));
    check(text.find("rank 2 had enough") != std::string::npos, "expected the reason, got ", text);
  });
}

HEDDLE_TEST(communicator_a_missing_rank_is_a_timeout_that_names_it) {
  DeviceCommunicators communicators = local_communicators(2, {std::chrono::milliseconds(50)});
  on_failing_ranks(communicators, [](const Device& device, DeviceCommunicator& communicator) {
    if (communicator.rank() == 1) return;
    const DeviceMatrix x(device, Matrix(64, 2048));
    communicator.all_reduce(x.view());
    wait_for(device);
    std::string text;
    const ErrorCode code = code_of([&] { communicator.expect_healthy(); }, &text);
    check(code == ErrorCode::timeout, "expected timeout, got ", name_of(code));
    check(text.find("rank 1") != std::string::npos, "expected the missing rank, got ", text);
  });
}

HEDDLE_TEST(communicator_is_healthy_without_a_failure) {
  on_ranks(2, [](const Device& device, DeviceCommunicator& communicator) {
    const DeviceMatrix x(device, Matrix(1, 100));
    for (int i = 0; i < 20; ++i) {
      communicator.all_reduce(x.view());
      communicator.expect_healthy();
    }
  });
}

HEDDLE_TEST(communicator_ends_in_any_order) {
  for (const bool first_goes_first : {true, false}) {
    DeviceCommunicators communicators = local_communicators(2);
    on_ranks(communicators, {}, [](const Device& device, DeviceCommunicator& communicator) {
      const DeviceMatrix x(device, Matrix(1, 100));
      communicator.all_reduce(x.view());
    });
    communicators[first_goes_first ? 0 : 1].reset();
    communicators[first_goes_first ? 1 : 0]->abort("late");
  }
}

HEDDLE_TEST(communicator_abort_before_attach) {
  DeviceCommunicators communicators = local_communicators(2);
  communicators[1]->abort("early");
  const Device device(0, 0);
  const ErrorCode code = code_of([&] { communicators[0]->attach(device); });
  check(code == ErrorCode::peer_failed, "expected peer_failed, got ", name_of(code));
}

HEDDLE_TEST(communicator_exchanges_on_the_host) {
  on_ranks(3, [](const Device&, DeviceCommunicator& communicator) {
    const int32_t mine = communicator.rank() * 10;
    std::vector<int32_t> all(3);
    communicator.exchange(&mine, sizeof(mine), all.data());
    check(all == std::vector<int32_t>({0, 10, 20}), "expected what every rank gave");
  });
}

}  // namespace
}  // namespace heddle::test
