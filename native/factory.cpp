#include "factory.h"

#include <utility>

#include "comm/local/local.h"
#include "core/error.h"
#include "cpu/cpu_backend.h"
#include "cpu/cpu_features.h"

namespace heddle {

std::shared_ptr<RankGroup> open_group(const GroupOptions& options, int64_t ticket, OnCompletion on_completion) {
  if (options.size < 1) {
    throw Error(ErrorCode::invalid_argument,
                "openGroup: expected a size of at least 1, got " + std::to_string(options.size));
  }
  if (options.device == "cuda") {
    throw Error(ErrorCode::unavailable, "openGroup: this build has no CUDA backend; use device 'cpu'");
  }
  if (options.device != "cpu") {
    throw Error(ErrorCode::invalid_argument,
                "openGroup: expected the device 'cpu' or 'cuda', got '" + options.device + "'");
  }
  cpu::cpu_isa();  // looks at the environment, which JavaScript may be changing once this thread goes on
  GroupParts parts;
  parts.communicators = comm::create_local(options.size);
  parts.create_backend = [dtype = options.dtype](int) { return cpu::create_backend(dtype); };
  parts.on_completion = std::move(on_completion);
  return std::make_shared<RankGroup>(std::move(parts), ticket);
}

std::string cpu_isa_name() { return cpu::name_of(cpu::cpu_isa()); }

}  // namespace heddle
