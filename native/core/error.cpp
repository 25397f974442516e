#include "core/error.h"

namespace heddle {

const char* name_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return "invalid_argument";
    case ErrorCode::unavailable: return "unavailable";
    case ErrorCode::out_of_memory: return "out_of_memory";
    case ErrorCode::corrupt_file: return "corrupt_file";
    case ErrorCode::unsupported_model: return "unsupported_model";
    case ErrorCode::device_failed: return "device_failed";
    case ErrorCode::collective_failed: return "collective_failed";
    case ErrorCode::rank_died: return "rank_died";
    case ErrorCode::peer_failed: return "peer_failed";
    case ErrorCode::timeout: return "timeout";
    case ErrorCode::aborted: return "aborted";
    case ErrorCode::closed: return "closed";
  }
  return "device_failed";
}

}  // namespace heddle
