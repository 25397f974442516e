#include "cuda/discovery.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <mutex>

#include "core/error.h"
#include "cuda/attention_library.h"
#include "cuda/runtime.h"

namespace heddle::cuda {

namespace {

struct Found {
  std::once_flag prepared;
  Readiness readiness;
  std::vector<std::string> folders;
  std::unique_ptr<LtTable> cublaslt;
  std::string cublaslt_problem;
  std::once_flag nccl_looked_for;
  std::unique_ptr<NcclTable> nccl;
  std::string nccl_problem;
  std::mutex note_mutex;
  std::string nccl_note;
};

// Never destroyed: ranks that hang at the end of the process may still use the tables.
Found& found() {
  static Found& kept = *new Found;
  return kept;
}

std::string cuda_version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

bool driver_is_there() {
#if defined(HEDDLE_CUDA_EMULATED)
  return driver_version() > 0;
#else
  return dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL) != nullptr;  // stays loaded: the runtime opens it too
#endif
}

int runtime_version() {
  int version = 0;
  return cudaRuntimeGetVersion(&version) == cudaSuccess ? version : 0;
}

Readiness no_device(const std::string& text) { return {HEDDLE_BACKEND_NO_DEVICE, text}; }

Readiness check_driver() {
  if (!driver_is_there()) return no_device("no NVIDIA driver (libcuda.so.1) on this machine");
  const int driver = driver_version();
  const int runtime = runtime_version();
  if (driver / 1000 < runtime / 1000) {
    return no_device("the NVIDIA driver is too old: expected one for CUDA " + std::to_string(runtime / 1000) + ", got one for CUDA " +
                     cuda_version_text(driver));
  }
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return {};
  (void)cudaGetLastError();
  return no_device(std::string("no usable GPU: ") + (status == cudaSuccess ? "the driver shows none" : cudaGetErrorString(status)));
}

Readiness look_around(Found& all) {
  Readiness readiness = check_driver();
  if (readiness.code != HEDDLE_BACKEND_READY) return readiness;
  all.cublaslt = load_cublaslt(all.folders, driver_version() / 1000, all.cublaslt_problem);
  if (all.cublaslt) return {};
  return {HEDDLE_BACKEND_NO_LIBRARY, "cuBLASLt was not found: " + all.cublaslt_problem};
}

DeviceInfo describe_device(int ordinal) {
  cudaDeviceProp properties = {};
  check(cudaGetDeviceProperties(&properties, ordinal), "describe");
  return {ordinal, properties.name, std::to_string(properties.major) + "." + std::to_string(properties.minor), properties.totalGlobalMem};
}

LibraryInfo describe_cublaslt(const Found& all) {
  if (!all.cublaslt) return {"cuBLASLt", "", "", all.cublaslt_problem};
  return {"cuBLASLt", lt_version_text(all.cublaslt->version), all.cublaslt->path, ""};
}

LibraryInfo describe_nccl() {
  std::string problem;
  const NcclTable* table = nccl(problem);
  if (!table) return {"NCCL", "", "", problem};
  const std::lock_guard lock(found().note_mutex);
  return {"NCCL", nccl_version_text(table->version), table->path, found().nccl_note};
}

}  // namespace

Readiness prepare(const std::vector<std::string>& folders) {
  Found& all = found();
  std::call_once(all.prepared, [&] {
    all.folders = folders;
    all.readiness = look_around(all);
  });
  return all.readiness;
}

BackendInfo describe(bool everything) {
  BackendInfo info;
  info.driver = cuda_version_text(driver_version());
  info.runtime = cuda_version_text(runtime_version());
  const int count = device_count();
  for (int ordinal = 0; ordinal < count; ++ordinal) info.devices.push_back(describe_device(ordinal));
  info.libraries.push_back(describe_cublaslt(found()));
  if (everything) info.libraries.push_back(describe_nccl());
  info.libraries.push_back(describe_cudnn());
  return info;
}

DeviceMemory memory_of(int ordinal) {
  const int count = device_count();
  if (ordinal < 0 || ordinal >= count) {
    throw Error(ErrorCode::invalid_argument,
                "deviceMemory: expected a GPU below " + std::to_string(count) + ", got " + std::to_string(ordinal));
  }
  const DeviceGuard guard(ordinal);
  size_t free = 0;
  size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "deviceMemory");
  return {total, free};
}

int device_count() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "deviceCount");
  return count;
}

bool reach_each_other(const std::vector<int>& devices, std::string& text) {
  for (const int from : devices) {
    for (const int to : devices) {
      int can = 1;
      if (from != to) check(cudaDeviceCanAccessPeer(&can, from, to), "reach_each_other");
      if (can) continue;
      text = "GPU " + std::to_string(from) + " cannot reach the memory of GPU " + std::to_string(to);
      return false;
    }
  }
  return true;
}

const std::vector<std::string>& library_folders() { return found().folders; }

const LtTable* cublaslt() { return found().cublaslt.get(); }

void note_nccl(const std::string& text) {
  const std::lock_guard lock(found().note_mutex);
  found().nccl_note = text;
}

const NcclTable* nccl(std::string& why_not) {
  Found& all = found();
  std::call_once(all.nccl_looked_for, [&] { all.nccl = load_nccl(all.folders, all.nccl_problem); });
  why_not = all.nccl_problem;
  return all.nccl.get();
}

}  // namespace heddle::cuda
