// The one error type of native code. Its text is "where: what was expected, what came"; TypeScript makes a HeddleError of it.
#pragma once
#include <stdexcept>
#include <string>

namespace heddle {

enum class ErrorCode {
  invalid_argument,
  unavailable,
  out_of_memory,
  corrupt_file,
  unsupported_model,
  device_failed,
  collective_failed,
  rank_died,
  peer_failed,
  timeout,
  aborted,
  closed,
};

// The code as TypeScript spells it, for example "invalid_argument".
const char* name_of(ErrorCode code);

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace heddle
