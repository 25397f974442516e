#include "find_emulator.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <stdexcept>

namespace heddle::fake {
namespace {

using Hooks = const HeddleEmulatorHooks* (*)();
constexpr const char* kName = "heddle_emulator_hooks";

int look_into(dl_phdr_info* info, size_t, void* result) {
  void* library = dlopen(info->dlpi_name, RTLD_NOW | RTLD_NOLOAD);
  if (!library) return 0;
  void* const symbol = dlsym(library, kName);
  dlclose(library);
  if (!symbol) return 0;
  *static_cast<void**>(result) = symbol;
  return 1;
}

const HeddleEmulatorHooks* find() {
  void* symbol = dlsym(RTLD_DEFAULT, kName);
  if (!symbol) dl_iterate_phdr(look_into, &symbol);
  return symbol ? reinterpret_cast<Hooks>(symbol)() : nullptr;
}

}  // namespace

const HeddleEmulatorHooks& emulator() {
  static const HeddleEmulatorHooks* const hooks = find();
  if (!hooks) throw std::runtime_error("the CUDA emulator is not in this process");
  return *hooks;
}

long setting(const char* name, long otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtol(text, nullptr, 10) : otherwise;
}

}  // namespace heddle::fake
