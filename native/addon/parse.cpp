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

GroupOptions parse_group_options(const Napi::Value& value) {
  const auto object = read_object(value, "openGroup: options");
  GroupOptions options;
  options.size = static_cast<int>(read_integer(object.Get("size"), 1, kMaxGroupSize, "openGroup: size"));
  options.device = read_text(object.Get("device"), 16, "openGroup: device");
  options.dtype = read_dtype(object.Get("dtype"), "openGroup: dtype");
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
