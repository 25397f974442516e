// The boundary between heddle.node and a backend in a shared library of its own, such as libheddle_cuda.so.
// Rule: what is called before the two know that they are one build is C; what follows the handshake are the interfaces of core/, since
// the identity of both builds is then the same. Nothing throws across it: functions return a code and a text.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/communicator.h"
#include "core/error.h"

#define HEDDLE_BACKEND_ENTRY heddle_backend_entry_v1
#define HEDDLE_BACKEND_ENTRY_NAME "heddle_backend_entry_v1"

extern "C" {

enum { HEDDLE_BACKEND_ABI = 1 };

enum heddle_backend_code {
  HEDDLE_BACKEND_READY = 0,
  HEDDLE_BACKEND_NO_DEVICE = 1,                       // no driver, one that is too old, or no device
  HEDDLE_BACKEND_NO_LIBRARY = 2,
  HEDDLE_BACKEND_MISMATCH = 3,                        // of another build
  HEDDLE_BACKEND_FAILED = 4,
};

// Given by the addon; read during the call alone.
typedef struct heddle_backend_host {
  uint32_t abi_version;
  const char* identity;                               // of the build: version, interfaces, compiler; must be equal
  const char* const* folders;                         // where libraries may lie: absolute, best first, null at the end
} heddle_backend_host;

// Filled in by the library.
typedef struct heddle_backend_library {
  uint32_t abi_version;
  const void* functions;                              // heddle::BackendFunctions, valid for the life of the process
} heddle_backend_library;

// Gives a heddle_backend_code and, unless it is READY, a text of at most error_size bytes with its end.
typedef int (*heddle_backend_entry)(const heddle_backend_host* host, heddle_backend_library* library, char* error, size_t error_size);

}  // extern "C"

namespace heddle {

struct LibraryInfo {
  std::string name;                                   // "cuBLASLt"
  std::string version;                                // empty: `problem` says why there is none
  std::string path;
  std::string problem;                                // with a version: why some work is done without it
};

struct DeviceInfo {
  int ordinal = 0;
  std::string name;
  std::string compute_capability;                     // "9.0"
  uint64_t memory_bytes = 0;
};

struct BackendInfo {
  std::string driver;                                 // the newest CUDA that the driver can do: "13.0"
  std::string runtime;                                // the one that the backend was built with
  std::vector<DeviceInfo> devices;
  std::vector<LibraryInfo> libraries;                 // what kernels and communicators use
};

struct DeviceMemory {
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;
};

enum class CommunicatorChoice : uint8_t { automatic, local, nccl };

struct RankOptions {
  std::vector<int> devices;                           // of each rank; empty: the first ones, one each
  int size = 1;
  DType dtype = DType::float32;
  CommunicatorChoice communicator = CommunicatorChoice::automatic;
  std::chrono::milliseconds collective_timeout = kCollectiveTimeout;
  bool reproducible = false;                          // results do not depend on the number of ranks
};

// The ranks' communicators of host memory, in rank order: for exchange, barriers and aborts.
using HostCommunicators = std::vector<std::shared_ptr<Communicator>>;

// What a group is made of. The communicators outlive the backends made with them.
struct OpenedRanks {
  std::vector<int> devices;                           // of each rank
  std::string communicator;                           // what was chosen, and why: "local"
  std::vector<std::unique_ptr<Communicator>> communicators;
  std::function<std::unique_ptr<Backend>(int rank)> create_backend;  // on the rank's thread; throws
};

// 0, or the code of an error: 1 + ErrorCode, with its text in `text`.
struct BackendFunctions {
  // Without device memory being taken. `everything`: also what is only opened when it is used.
  int (*describe)(bool everything, BackendInfo& info, std::string& text) noexcept;
  int (*memory)(int ordinal, DeviceMemory& memory, std::string& text) noexcept;
  int (*open_ranks)(const RankOptions& options, const HostCommunicators& host, OpenedRanks& ranks, std::string& text) noexcept;
};

constexpr int backend_code_of(ErrorCode code) { return 1 + static_cast<int>(code); }
constexpr ErrorCode error_code_of(int code) { return static_cast<ErrorCode>(code - 1); }

}  // namespace heddle
