// NVIDIA's libraries as tables of functions, found at run time: nothing of theirs is linked, and a machine without them gets a text.
// Search order: the file that an environment variable names, and then nothing else; what is already in the process; the system's
// loader; the given folders, best first. Every failed try adds its reason to the text.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "cuda/nv_abi.h"

namespace heddle::cuda {

struct LtTable : nvabi::LtFunctions {
  std::string path;                                   // of the library's file
  size_t version = 0;                                 // 130100 for 13.1.0
};

struct NcclTable : nvabi::NcclFunctions {
  std::string path;
  int version = 0;                                    // 23007 for 2.30.7
};

// A loaded library, which stays loaded.
struct Library {
  void* handle = nullptr;                             // null: `text` says what was tried
  std::string path;
  std::string text;
};

// `names`: sonames, best first. `variable`: the environment variable of an explicit file.
Library open_library(const std::vector<std::string>& names, const char* variable, const std::vector<std::string>& folders);

// Null where the library is not to be had; `text` says why. Never a library of a newer major version than the driver's CUDA.
// HEDDLE_CUBLASLT_LIB is the explicit file.
std::unique_ptr<LtTable> load_cublaslt(const std::vector<std::string>& folders, int driver_major, std::string& text);

// HEDDLE_NCCL_LIB is the explicit file.
std::unique_ptr<NcclTable> load_nccl(const std::vector<std::string>& folders, std::string& text);

std::string lt_version_text(size_t version);          // "13.1.0"
std::string nccl_version_text(int version);           // "2.30.7"

}  // namespace heddle::cuda
