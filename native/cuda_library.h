// libheddle_cuda.so as the addon sees it: looked for and opened once, at the first question; then kept for the life of the process.
// The file: the one that HEDDLE_CUDA_BACKEND names, and then nothing else; beside the addon; in the given folders.
#pragma once
#include <string>
#include <vector>

#include "core/backend_abi.h"

namespace heddle {

// Read by the first question alone.
struct CudaSearch {
  std::vector<std::string> backend_folders;           // where libheddle_cuda.so may lie, after the addon's own folder
  std::vector<std::string> library_folders;           // where NVIDIA's libraries may lie, best first
};

struct CudaLibrary {
  const BackendFunctions* functions = nullptr;        // null: `reason` says why CUDA cannot be used
  std::string path;                                   // empty where no file was opened
  std::string reason;
};

// Any thread. Never throws for what is missing on this machine.
const CudaLibrary& cuda_library(const CudaSearch& search);

// How this build was made: "built with nvcc 13.0.88", "not built: nvcc not found".
const char* cuda_build();

}  // namespace heddle
