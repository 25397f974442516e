#include "factory.h"

#include <utility>

#include "comm/local/local.h"
#include "core/error.h"
#include "cpu/cpu_backend.h"
#include "cpu/cpu_features.h"

namespace heddle {

namespace {

GroupParts cpu_parts(const GroupOptions& options, GroupPlacement& placement) {
  if (options.communicator == CommunicatorChoice::nccl) {
    throw Error(ErrorCode::invalid_argument, "openGroup: communicator nccl: expected ranks on GPUs, got ranks on the CPU; use 'local'");
  }
  cpu::cpu_isa();  // looks at the environment, which JavaScript may be changing once this thread goes on
  placement.communicator = "local";
  GroupParts parts;
  parts.communicators = comm::create_local(options.size, {options.collective_timeout});
  parts.create_backend = [dtype = options.dtype, reproducible = options.reproducible](int) { return cpu::create_backend(dtype, reproducible); };
  return parts;
}

const BackendFunctions& cuda_functions(const CudaSearch& search, const char* where) {
  const CudaLibrary& library = cuda_library(search);
  if (library.functions) return *library.functions;
  throw Error(ErrorCode::unavailable, std::string(where) + ": device cuda is not available: " + library.reason);
}

void expect_success(int code, const std::string& text) {
  if (code != 0) throw Error(error_code_of(code), text.empty() ? "CUDA backend: " + std::string(name_of(error_code_of(code))) : text);
}

GroupParts cuda_parts(const GroupOptions& options, GroupPlacement& placement) {
  const BackendFunctions& cuda = cuda_functions(options.cuda, "openGroup");
  HostCommunicators host;
  for (auto& communicator : comm::create_local(options.size, {options.collective_timeout})) host.push_back(std::move(communicator));
  OpenedRanks ranks;
  std::string text;
  const RankOptions wanted = {options.devices, options.size, options.dtype, options.communicator, options.collective_timeout,
                              options.reproducible};
  expect_success(cuda.open_ranks(wanted, host, ranks, text), text);
  placement = {std::move(ranks.devices), std::move(ranks.communicator)};
  GroupParts parts;
  parts.communicators = std::move(ranks.communicators);
  parts.create_backend = std::move(ranks.create_backend);
  return parts;
}

GroupParts parts_of(const GroupOptions& options, GroupPlacement& placement) {
  if (options.size < 1) {
    throw Error(ErrorCode::invalid_argument,
                "openGroup: expected a size of at least 1, got " + std::to_string(options.size));
  }
  if (options.device == "cuda") return cuda_parts(options, placement);
  if (options.device == "cpu") return cpu_parts(options, placement);
  throw Error(ErrorCode::invalid_argument,
              "openGroup: expected the device 'cpu' or 'cuda', got '" + options.device + "'");
}

}  // namespace

OpenedGroup open_group(const GroupOptions& options, int64_t ticket, OnCompletion on_completion) {
  OpenedGroup opened;
  GroupParts parts = parts_of(options, opened.placement);
  parts.on_completion = std::move(on_completion);
  opened.group = std::make_shared<RankGroup>(std::move(parts), ticket);
  return opened;
}

std::string cpu_isa_name() { return cpu::name_of(cpu::cpu_isa()); }

CudaInfo cuda_info(const CudaSearch& search, bool everything) {
  const CudaLibrary& library = cuda_library(search);
  CudaInfo info;
  info.reason = library.reason;
  info.build = cuda_build();
  info.path = library.path;
  if (library.functions && library.functions->describe(everything, info.found, info.reason) != 0 && info.reason.empty()) {
    info.reason = "the CUDA backend cannot describe this machine";
  }
  return info;
}

DeviceMemory cuda_memory(const CudaSearch& search, int ordinal) {
  DeviceMemory memory;
  std::string text;
  expect_success(cuda_functions(search, "cudaMemory").memory(ordinal, memory, text), text);
  return memory;
}

}  // namespace heddle
