#include "addon/parse.h"

#include "addon/read.h"
#include "core/error.h"

namespace heddle::addon {

int64_t parse_ticket(const Napi::Value& value) { return read_integer(value, 1, kMaxSafeInteger, "ticket"); }

int64_t parse_id(const Napi::Value& value) { return read_integer(value, 0, kMaxSafeInteger, "id"); }

int parse_rank(const Napi::Value& value, int size) {
  return static_cast<int>(read_integer(value, 0, size - 1, "rank"));
}

std::vector<int64_t> parse_ids(const Napi::Value& value) {
  const auto array = read_array(value, 1u << 20, "ids");
  const uint32_t length = array.Length();
  std::vector<int64_t> ids;
  for (uint32_t i = 0; i < length; ++i) ids.push_back(parse_id(array.Get(i)));
  return ids;
}

int parse_device(const Napi::Value& value) { return static_cast<int>(read_integer(value, 0, 1023, "device")); }

namespace {

CommunicatorChoice parse_communicator(const Napi::Value& value) {
  if (value.IsUndefined()) return CommunicatorChoice::automatic;
  const std::string name = read_text(value, 16, "openGroup: communicator");
  if (name == "auto") return CommunicatorChoice::automatic;
  if (name == "local") return CommunicatorChoice::local;
  if (name == "nccl") return CommunicatorChoice::nccl;
  refuse("openGroup: communicator", "auto, local or nccl", value);
}

std::vector<std::string> parse_folders(const Napi::Value& value, const std::string& where) {
  const auto array = read_array(value, 1024, where);
  const uint32_t length = array.Length();
  std::vector<std::string> folders;
  for (uint32_t i = 0; i < length; ++i) folders.push_back(read_text(array.Get(i), 4096, where));
  return folders;
}

}  // namespace

CudaSearch parse_cuda_search(const Napi::Value& value) {
  const auto object = read_object(value, "cuda");
  return {parse_folders(object.Get("backendFolders"), "cuda: backendFolders"),
          parse_folders(object.Get("libraryFolders"), "cuda: libraryFolders")};
}

GroupOptions parse_group_options(const Napi::Value& value) {
  const auto object = read_object(value, "openGroup: options");
  GroupOptions options;
  options.size = static_cast<int>(read_integer(object.Get("size"), 1, kMaxGroupSize, "openGroup: size"));
  options.device = read_text(object.Get("device"), 16, "openGroup: device");
  options.dtype = read_dtype(object.Get("dtype"), "openGroup: dtype");
  options.communicator = parse_communicator(object.Get("communicator"));
  const Napi::Value timeout = object.Get("collectiveTimeoutMs");
  if (!timeout.IsUndefined()) {
    options.collective_timeout = std::chrono::milliseconds(read_integer(timeout, 1, INT32_MAX, "openGroup: collectiveTimeoutMs"));
  }
  const Napi::Value reproducible = object.Get("reproducible");
  if (!reproducible.IsUndefined()) options.reproducible = read_flag(reproducible, "openGroup: reproducible");
  const Napi::Value cuda = object.Get("cuda");
  if (!cuda.IsUndefined()) options.cuda = parse_cuda_search(cuda);
  const Napi::Value devices = object.Get("devices");
  if (devices.IsUndefined()) return options;
  const auto array = read_array(devices, kMaxGroupSize, "openGroup: devices");
  const uint32_t length = array.Length();
  for (uint32_t i = 0; i < length; ++i) {
    options.devices.push_back(static_cast<int>(read_integer(array.Get(i), 0, 1023, "openGroup: devices")));
  }
  return options;
}

}  // namespace heddle::addon
