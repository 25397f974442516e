#include "cuda/dynlib.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <filesystem>

namespace heddle::cuda {

namespace {

constexpr int kNow = RTLD_NOW | RTLD_LOCAL;           // an unresolved symbol is an error now, not a crash later

std::string path_of(void* library) {
  const link_map* map = nullptr;
  if (dlinfo(library, RTLD_DI_LINKMAP, &map) != 0 || !map || !map->l_name) return "";
  std::error_code failed;
  const std::filesystem::path real = std::filesystem::canonical(map->l_name, failed);
  return failed ? map->l_name : real.string();
}

// Opens `file`, or adds why not to the text.
bool open(Library& library, const std::string& file) {
  library.handle = dlopen(file.c_str(), kNow);
  if (library.handle) {
    library.path = path_of(library.handle);
    library.text.clear();
    return true;
  }
  const char* error = dlerror();
  if (!library.text.empty()) library.text += "; ";
  library.text += error ? error : file + ": cannot be opened";
  return false;
}

bool already_loaded(Library& library, const std::string& name) {
  library.handle = dlopen(name.c_str(), kNow | RTLD_NOLOAD);
  if (!library.handle) {
    dlerror();                                        // not an error
    return false;
  }
  library.path = path_of(library.handle);
  return true;
}

// Looks up one function; false with a text where a required one is missing.
template <class Function>
bool look_up(const Library& library, const char* name, bool required, Function& function, std::string& text) {
  function = reinterpret_cast<Function>(dlsym(library.handle, name));
  if (function || !required) return true;
  text = "symbol " + std::string(name) + " is missing in " + library.path;
  return false;
}

bool fill(const Library& library, LtTable& table, std::string& text) {
#define X(name, result, arguments) if (!look_up(library, #name, true, table.name, text)) return false;
  HEDDLE_LT_FUNCTIONS(X)
#undef X
#define X(name, result, arguments) look_up(library, #name, false, table.name, text);
  HEDDLE_LT_OPTIONAL_FUNCTIONS(X)
#undef X
  table.path = library.path;
  table.version = table.cublasLtGetVersion();
  return true;
}

bool fill(const Library& library, NcclTable& table, std::string& text) {
#define X(name, result, arguments) if (!look_up(library, #name, true, table.name, text)) return false;
  HEDDLE_NCCL_FUNCTIONS(X)
#undef X
#define X(name, result, arguments) look_up(library, #name, false, table.name, text);
  HEDDLE_NCCL_OPTIONAL_FUNCTIONS(X)
#undef X
  table.path = library.path;
  if (table.ncclGetVersion(&table.version) == nvabi::ncclSuccess) return true;
  text = library.path + ": ncclGetVersion failed";
  return false;
}

template <class Table>
std::unique_ptr<Table> table_of(const Library& library, std::string& text) {
  text = library.text;
  if (!library.handle) return nullptr;
  auto table = std::make_unique<Table>();
  return fill(library, *table, text) ? std::move(table) : nullptr;
}

}  // namespace

Library open_library(const std::vector<std::string>& names, const char* variable, const std::vector<std::string>& folders) {
  Library library;
  const char* file = std::getenv(variable);
  if (file && *file) {
    if (!open(library, file)) library.text = std::string(variable) + ": " + library.text;
    return library;
  }
  for (const std::string& name : names) {
    if (already_loaded(library, name)) return library;
  }
  for (const std::string& name : names) {
    if (open(library, name)) return library;
  }
  for (const std::string& folder : folders) {
    for (const std::string& name : names) {
      const std::string candidate = folder + "/" + name;
      std::error_code failed;
      if (std::filesystem::exists(candidate, failed) && open(library, candidate)) return library;
    }
  }
  return library;
}

std::unique_ptr<LtTable> load_cublaslt(const std::vector<std::string>& folders, int driver_major, std::string& text) {
  std::vector<std::string> names;
  if (driver_major >= 13) names.push_back("libcublasLt.so.13");
  names.push_back("libcublasLt.so.12");
  return table_of<LtTable>(open_library(names, "HEDDLE_CUBLASLT_LIB", folders), text);
}

std::unique_ptr<NcclTable> load_nccl(const std::vector<std::string>& folders, std::string& text) {
  return table_of<NcclTable>(open_library({"libnccl.so.2"}, "HEDDLE_NCCL_LIB", folders), text);
}

std::string lt_version_text(size_t version) {
  // 120604 and 130100 are 12.6.4 and 13.1.0
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
}

std::string nccl_version_text(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
}

}  // namespace heddle::cuda
