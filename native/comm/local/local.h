// The communicator among ranks that are threads of one process: they read and write each other's memory.
// Rule: a rank that leaves a collective, in whatever way, leaves no peer touching its memory.
#pragma once
#include <chrono>
#include <memory>
#include <vector>

#include "core/communicator.h"

namespace heddle::comm {

struct LocalOptions {
  std::chrono::milliseconds timeout = kCollectiveTimeout;  // of one wait; then `timeout`, naming the ranks that are missing
};

// One communicator per rank, in rank order. They share what they need: any of them may be destroyed first.
// A collective that fails (peer_failed, collective_failed, timeout) aborts the communicator of every rank for good.
std::vector<std::unique_ptr<Communicator>> create_local(int size, const LocalOptions& options = {});

}  // namespace heddle::comm
