// The C entry of the CUDA backend: what it answers to another build, and that it never writes past the caller's text.
#include <cstring>

#include "../test.h"
#include "core/backend_abi.h"

extern "C" int HEDDLE_BACKEND_ENTRY(const heddle_backend_host* host, heddle_backend_library* library, char* error, size_t error_size);

namespace heddle::test {
namespace {

struct Answer {
  int code = -1;
  std::string text;
  const BackendFunctions* functions = nullptr;
};

Answer enter(uint32_t abi, const std::string& identity, size_t error_size = 4096) {
  const char* folders[] = {nullptr};
  const heddle_backend_host host = {abi, identity.c_str(), folders};
  heddle_backend_library library = {};
  std::vector<char> error(error_size + 1, '#');
  Answer answer;
  answer.code = heddle_backend_entry_v1(&host, &library, error.data(), error_size);
  check(error.back() == '#', "the byte after the text");
  if (error_size > 0) answer.text = std::string(error.data(), strnlen(error.data(), error_size));
  answer.functions = static_cast<const BackendFunctions*>(library.functions);
  return answer;
}

// The library says who it is to whoever is not of its build.
std::string identity() {
  const std::string text = enter(HEDDLE_BACKEND_ABI, "another build").text;
  const std::string before = "it is ";
  const size_t start = text.find(before);
  const size_t end = text.find("; the addon is another build");
  if (!check(start != std::string::npos && end != std::string::npos, "both names in: ", text)) return "";
  return text.substr(start + before.size(), end - start - before.size());
}

}  // namespace

HEDDLE_TEST(entry_refuses_another_abi_and_another_build) {
  const Answer abi = enter(HEDDLE_BACKEND_ABI + 1, identity());
  check(abi.code == HEDDLE_BACKEND_MISMATCH && !abi.functions, "another ABI: ", abi.code);
  check(abi.text.find("ABI 1") != std::string::npos && abi.text.find("ABI 2") != std::string::npos, "both ABIs in: ", abi.text);
  const Answer build = enter(HEDDLE_BACKEND_ABI, identity() + "x");
  check(build.code == HEDDLE_BACKEND_MISMATCH && !build.functions, "another build: ", build.code);
}

HEDDLE_TEST(entry_cuts_its_text_to_the_size_that_was_given) {
  const std::string whole = enter(HEDDLE_BACKEND_ABI, "another build").text;
  check(enter(HEDDLE_BACKEND_ABI, "another build", 8).text == whole.substr(0, 7), "cut to 8 bytes with the end");
  check(enter(HEDDLE_BACKEND_ABI, "another build", 0).code == HEDDLE_BACKEND_MISMATCH, "no room at all");
}

HEDDLE_TEST(entry_gives_its_table_or_the_reason_to_its_own_build) {
  const Answer answer = enter(HEDDLE_BACKEND_ABI, identity());
  if (answer.code != HEDDLE_BACKEND_READY) {          // cuBLASLt is not on this machine, or no GPU
    check(!answer.text.empty() && !answer.functions, "a reason for the code ", answer.code);
    return;
  }
  BackendInfo info;
  std::string text;
  check(answer.functions->describe(false, info, text) == 0, "describe: ", text);
  check(!info.devices.empty() && info.libraries.size() == 2 && !info.libraries[0].path.empty(), "a GPU, cuBLASLt with its file, and cuDNN");
  check(info.libraries[1].name == "cuDNN" && info.libraries[1].path.empty() == !info.libraries[1].problem.empty(), "cuDNN, or why not");
  DeviceMemory memory;
  check(answer.functions->memory(0, memory, text) == 0 && memory.free_bytes > 0 && memory.free_bytes <= memory.total_bytes, "memory: ", text);
  const int wrong = answer.functions->memory(static_cast<int>(info.devices.size()), memory, text);
  check(wrong == backend_code_of(ErrorCode::invalid_argument) && !text.empty(), "a GPU that is not there: ", wrong);
  OpenedRanks ranks;
  RankOptions options;
  options.devices = {-1};
  const int refused = answer.functions->open_ranks(options, HostCommunicators(1), ranks, text);
  check(error_code_of(refused) == ErrorCode::invalid_argument && ranks.communicators.empty(), "ranks on a GPU that is not there: ", refused);
}

}  // namespace heddle::test
