// Makes groups of the device that was asked for: the one place that knows every backend and communicator.
#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/backend_abi.h"
#include "core/group.h"
#include "cuda_library.h"

namespace heddle {

struct GroupOptions {
  int size = 1;
  std::string device = "cpu";                         // cpu, cuda
  std::vector<int> devices;                           // of each rank; empty: the first ones
  DType dtype = DType::float32;
  CommunicatorChoice communicator = CommunicatorChoice::automatic;
  std::chrono::milliseconds collective_timeout = kCollectiveTimeout;  // then `timeout`, naming the ranks that are missing
  bool reproducible = false;                          // results do not depend on the number of ranks
  CudaSearch cuda;
};

struct GroupPlacement {
  std::vector<int> devices;                           // of each rank; empty on the CPU
  std::string communicator;                           // in use: "local"
};

struct OpenedGroup {
  std::shared_ptr<RankGroup> group;
  GroupPlacement placement;
};

// Throws invalid_argument, unavailable; the rest of opening completes `ticket`.
OpenedGroup open_group(const GroupOptions& options, int64_t ticket, OnCompletion on_completion);

// What the CPU kernels run with: "avx512bf16". Throws as opening a group would where HEDDLE_CPU_ISA names no usable
// level.
std::string cpu_isa_name();

struct CudaInfo {
  std::string reason;                                 // why CUDA cannot be used; empty: it can
  std::string build;                                  // how this build was made
  std::string path;                                   // of the backend's file; empty: none was opened
  BackendInfo found;
};

// `everything`: also opens the libraries that only some groups use.
CudaInfo cuda_info(const CudaSearch& search, bool everything);

// Throws unavailable, invalid_argument.
DeviceMemory cuda_memory(const CudaSearch& search, int ordinal);

}  // namespace heddle
