#include "cuda_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <mutex>

namespace heddle {

namespace {

namespace fs = std::filesystem;

constexpr const char* kVariable = "HEDDLE_CUDA_BACKEND";
constexpr const char* kFile = "libheddle_cuda.so";

std::string addon_folder() {
  Dl_info here = {};
  if (!dladdr(reinterpret_cast<const void*>(&cuda_build), &here) || !here.dli_fname) return "";
  std::error_code failed;
  const fs::path file = fs::canonical(here.dli_fname, failed);
  return failed ? "" : file.parent_path().string();
}

// The file to open; empty, with a reason, where there is none.
std::string find_file(const CudaSearch& search, std::string& reason) {
  if (const char* named = std::getenv(kVariable); named && *named) return named;
  std::vector<std::string> folders = {addon_folder()};
  folders.insert(folders.end(), search.backend_folders.begin(), search.backend_folders.end());
  std::string tried;
  for (const std::string& folder : folders) {
    if (folder.empty()) continue;
    const fs::path file = fs::path(folder) / kFile;
    std::error_code failed;
    if (fs::exists(file, failed)) return file.string();
    tried += (tried.empty() ? "" : ", ") + folder;
  }
  const std::string build = cuda_build();
  reason = build.rfind("not built", 0) == 0 ? "CUDA backend " + build : std::string(kFile) + " was not found in " + tried;
  return "";
}

void* open(const std::string& file, std::string& reason) {
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);  // an unresolved symbol is an error now, not a crash later
  if (!handle) {
    const char* error = dlerror();
    reason = "the CUDA backend cannot be opened: " + std::string(error ? error : file.c_str());
  }
  return handle;
}

// Asks the library whether it is of this build and what it found. It stays open even if it cannot be used: CUDA's runtime leaves
// handlers behind that run at the exit of the process.
const BackendFunctions* enter(heddle_backend_entry entry, const CudaSearch& search, std::string& reason) {
  std::vector<const char*> folders;
  for (const std::string& folder : search.library_folders) folders.push_back(folder.c_str());
  folders.push_back(nullptr);
  const heddle_backend_host host = {HEDDLE_BACKEND_ABI, HEDDLE_BUILD_IDENTITY, folders.data()};
  heddle_backend_library library = {};
  std::vector<char> error(8192);
  const int code = entry(&host, &library, error.data(), error.size());
  if (code == HEDDLE_BACKEND_READY && library.abi_version == HEDDLE_BACKEND_ABI && library.functions) {
    return static_cast<const BackendFunctions*>(library.functions);
  }
  error.back() = 0;
  reason = error.front() ? error.data() : "the CUDA backend gave the code " + std::to_string(code) + " and no reason";
  return nullptr;
}

CudaLibrary load(const CudaSearch& search) {
  CudaLibrary library;
  const std::string file = find_file(search, library.reason);
  if (file.empty()) return library;
  void* handle = open(file, library.reason);
  if (!handle) return library;
  library.path = file;
  const auto entry = reinterpret_cast<heddle_backend_entry>(dlsym(handle, HEDDLE_BACKEND_ENTRY_NAME));
  if (entry) {
    library.functions = enter(entry, search, library.reason);
  } else {
    library.reason = file + " is no CUDA backend of heddle: expected the symbol " HEDDLE_BACKEND_ENTRY_NAME;
  }
  return library;
}

}  // namespace

const CudaLibrary& cuda_library(const CudaSearch& search) {
  static std::once_flag once;                         // worker threads ask too
  static CudaLibrary& library = *new CudaLibrary;     // never destroyed: ranks left behind may outlive static objects
  std::call_once(once, [&] { library = load(search); });
  return library;
}

const char* cuda_build() { return HEDDLE_CUDA_BUILD; }

}  // namespace heddle
