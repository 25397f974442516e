// Finds the __shared__ variables of kernels, to poison them: they are the thread-local variables inside functions, which the symbol table
// of the program or library names. Where it was stripped they keep what an earlier kernel left.
#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "block_runner.h"

namespace heddle::emulator {
namespace {

// Its address and its place in the symbol table tell where the thread-local memory of an OS thread begins.
constinit thread_local uint64_t heddle_emulator_anchor = 0;

struct Range {
  size_t offset;
  size_t bytes;
};
struct Variables {
  size_t anchor = 0;
  std::vector<Range> ranges;
};

std::ifstream open_own_file() {
  Dl_info info = {};
  void* map = nullptr;
  dladdr1(reinterpret_cast<void*>(&poison), &info, &map, RTLD_DL_LINKMAP);
  const char* name = map ? static_cast<link_map*>(map)->l_name : "";
  return std::ifstream(*name ? name : "/proc/self/exe", std::ios::binary);
}

// Empty where the file does not hold it.
template <class T>
std::vector<T> table(std::ifstream& file, size_t offset, size_t bytes) {
  std::vector<T> entries(bytes / sizeof(T));
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(reinterpret_cast<char*>(entries.data()), static_cast<std::streamsize>(entries.size() * sizeof(T)));
  if (!file) entries.clear();
  return entries;
}

// A variable of a function: _ZZ, the function, E, the variable.
bool is_local_variable(const std::string& name) { return name.starts_with("_ZZ") && name.find("emulator") == std::string::npos; }

Variables find_variables() {
  Variables found;
  bool anchored = false;
  std::ifstream file = open_own_file();
  const auto headers = table<ElfW(Ehdr)>(file, 0, sizeof(ElfW(Ehdr)));
  if (headers.empty()) return found;
  const auto sections = table<ElfW(Shdr)>(file, headers[0].e_shoff, headers[0].e_shnum * sizeof(ElfW(Shdr)));
  for (const auto& section : sections) {
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size()) continue;
    std::vector<char> names = table<char>(file, sections[section.sh_link].sh_offset, sections[section.sh_link].sh_size);
    names.push_back('\0');
    for (const auto& symbol : table<ElfW(Sym)>(file, section.sh_offset, section.sh_size)) {
      if ((symbol.st_info & 0xf) != STT_TLS || symbol.st_name >= names.size()) continue;
      const std::string name = names.data() + symbol.st_name;
      if (name.find("heddle_emulator_anchor") != std::string::npos) {
        found.anchor = symbol.st_value;
        anchored = true;
      } else if (is_local_variable(name)) {
        found.ranges.push_back({symbol.st_value, symbol.st_size});
      }
    }
  }
  if (!anchored) found.ranges.clear();
  return found;
}

}  // namespace

void poison_shared_variables() {
  static const auto* variables = new Variables(find_variables());  // used until the process ends
  auto* const begin = reinterpret_cast<unsigned char*>(&heddle_emulator_anchor) - variables->anchor;
  for (const Range& range : variables->ranges) poison(begin + range.offset, range.bytes);
}

}  // namespace heddle::emulator
