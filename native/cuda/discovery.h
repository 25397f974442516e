// What this machine offers the CUDA backend: driver, GPUs, libraries. Looked for once; nothing here takes memory of a GPU.
#pragma once
#include <string>
#include <vector>

#include "core/backend_abi.h"
#include "cuda/dynlib.h"

namespace heddle::cuda {

// A heddle_backend_code and, unless it is ready, the reason. Must come first: keeps `folders` for what is opened later.
struct Readiness {
  int code = HEDDLE_BACKEND_READY;
  std::string text;
};
Readiness prepare(const std::vector<std::string>& folders);

// `everything`: also the libraries that are opened when they are used.
BackendInfo describe(bool everything);
// Throws invalid_argument for a GPU that is not there.
DeviceMemory memory_of(int ordinal);
int device_count();
// True where every GPU of the list can read and write the memory of every other one; else `text` names two that cannot.
bool reach_each_other(const std::vector<int>& devices, std::string& text);

const std::vector<std::string>& library_folders();    // those that `prepare` was given
const LtTable* cublaslt();                            // null: `prepare` was not ready
const NcclTable* nccl(std::string& why_not);          // null: not to be had
void note_nccl(const std::string& text);              // what `describe` says of it from then on: why part of it is not used

}  // namespace heddle::cuda
