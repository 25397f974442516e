// The ranks of a local communicator as threads of a test.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/local/local.h"
#include "core/error.h"
#include "test.h"

namespace heddle::test {

using Communicators = std::vector<std::unique_ptr<Communicator>>;
struct Outcome {
  bool failed = false;
  ErrorCode code = ErrorCode::invalid_argument;
  std::string text;
};

// Runs `body` on a thread per rank, as ranks do: an error aborts the communicator.
inline std::vector<Outcome> on_ranks(Communicators& communicators, const std::function<void(Communicator&)>& body) {
  std::vector<Outcome> outcomes(communicators.size());
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < communicators.size(); ++rank) {
    threads.emplace_back([&, rank] {
      try {
        body(*communicators[rank]);
      } catch (const Error& error) {
        outcomes[rank] = {true, error.code(), error.what()};
        communicators[rank]->abort(error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

inline void check_all_succeeded(const std::vector<Outcome>& outcomes) {
  for (const Outcome& outcome : outcomes) check(!outcome.failed, "a rank failed: ", outcome.text);
}

}  // namespace heddle::test
