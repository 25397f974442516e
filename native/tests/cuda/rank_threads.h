// A group's ranks as threads of a test: each has its device and its communicator, as in a process that runs a model.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/local/local.h"
#include "cuda/local_communicator.h"
#include "on_device.h"

namespace heddle::test {

inline const bool environment_is_set = (cuda::set_environment(), true);

using RankBody = std::function<void(const cuda::Device& device, cuda::DeviceCommunicator& communicator)>;
using DeviceCommunicators = std::vector<std::unique_ptr<cuda::DeviceCommunicator>>;

inline std::vector<std::shared_ptr<Communicator>> host_communicators(int size) {
  std::vector<std::shared_ptr<Communicator>> host;
  for (auto& communicator : comm::create_local(size)) host.push_back(std::move(communicator));
  return host;
}

inline DeviceCommunicators local_communicators(int size, const cuda::LocalDeviceOptions& options = {}) {
  return cuda::create_local(host_communicators(size), {}, options);
}

// Runs `body` on a thread per rank, attached to its device; `ordinals` empty: all on GPU 0. What a rank throws is a failure of the test
// and ends the others by an abort.
inline void on_ranks(DeviceCommunicators& communicators, const std::vector<int>& ordinals, const RankBody& body) {
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < communicators.size(); ++rank) {
    threads.emplace_back([&, rank] {
      try {
        const cuda::Device device(ordinals.empty() ? 0 : ordinals[rank], static_cast<int>(rank));
        communicators[rank]->attach(device);
        communicators[rank]->lockstep(true);          // tests take memory and give it back between collectives
        body(device, *communicators[rank]);
        wait_for(device);
        communicators[rank]->barrier();               // nobody's device goes while a peer may still reach it
      } catch (const std::exception& error) {
        record_failure("rank " + std::to_string(rank) + ": " + error.what());
        communicators[rank]->abort(error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

inline void on_ranks(int size, const RankBody& body) {
  DeviceCommunicators communicators = local_communicators(size);
  on_ranks(communicators, {}, body);
}

}  // namespace heddle::test
